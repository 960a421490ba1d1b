"""transformers' readers. They get only files that were checked: no file of code, and no key that names code.

transformers runs code in a model's folder, or code that its configuration names, and each version looks in new places.
So it reads a folder of links to the plain files of a model: weights, configuration and tokenizer.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.core import InputError, first_words, quiet, read_json, scratch_folder
from qexport.inputs.leftovers import wrapper_of
from qexport.inputs.weights import is_buffer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""Configuration and tokenizer files, by the names that transformers looks for."""
_WEIGHTS = ("*.safetensors", "model.safetensors.index.json")
_PICKLED = ("*.bin", "pytorch_model.bin.index.json")

CODE_KEY = "auto_map"
"""The key for the classes of a model's own code, which ``--trust-remote-code`` may allow; the next keys never run."""
_NAMES_CODE = frozenset({"custom_generate", "custom_pipelines", "kernel_config", "use_kernels"})
_NAMES_A_KERNEL = re.compile(r"_?(attn|experts)_implementation(_internal)?")


def require_no_code(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse a configuration with a key that names code, at any depth.

    Args:
        path: the file, for the message.
        values: the values in the file.

    Raises:
        InputError: the file has such a key; :data:`CODE_KEY` is left to the caller.
    """
    waiting: list[Any] = [values]
    while waiting:
        value = waiting.pop()
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for key, named in value.items() if isinstance(value, dict) else ():
            kernel = _NAMES_A_KERNEL.fullmatch(key) and re.search("[/:@.]", str(named))
            if kernel or (key in _NAMES_CODE and named):
                raise InputError(f"{path}: {key} names code that would be run; remove the key")


@contextlib.contextmanager
def plain_folder(folder: Path, *, pickled: bool = False) -> Iterator[Path]:
    """A temporary folder with links to the plain files of a model's or an artifact's folder.

    Args:
        folder: the folder of the model or artifact.
        pickled: if True, link pickled weights too.

    Raises:
        InputError: a configuration names code.
    """
    patterns = SIDE_FILES + _WEIGHTS + (_PICKLED if pickled else ())
    with scratch_folder("model") as place:
        for path in {path for pattern in patterns for path in folder.glob(pattern)}:
            if path.name in ("config.json", "generation_config.json", "tokenizer_config.json"):
                require_no_code(path, read_json(path))
                if path.read_bytes().startswith(codecs.BOM_UTF8):
                    raise InputError(
                        f"{path}: begins with a byte order mark, which transformers cannot read; save it without"
                    )
            (Path(place) / path.name).symlink_to(path.resolve())
        yield Path(place)


@contextlib.contextmanager
def _readable(folder: Path, *, trust: bool, pickled: bool = False) -> Iterator[str]:
    with contextlib.nullcontext(folder) if trust else plain_folder(folder, pickled=pickled) as place:
        yield os.fspath(place)


def load_config(folder: Path, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The configuration in a folder, read by transformers.

    Raises:
        InputError: transformers cannot read it.
    """
    from transformers import AutoConfig

    with _readable(folder, trust=trust_remote_code) as place, quiet():
        try:
            config: PretrainedConfig = AutoConfig.from_pretrained(
                place, local_files_only=not trust_remote_code, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # the checks of configurations raise errors without a common base
            raise InputError(
                f"{folder / 'config.json'}: transformers cannot read it ({_in_place(error, place, folder)}); correct its values"
            ) from error
    return config


def _in_place(error: Exception, place: str, folder: Path) -> str:
    """A message of transformers, with the user's folder instead of the folder of links."""
    return first_words(error).replace(place, os.fspath(folder))


def read_tokenizer(folder: Path, *, trust_remote_code: bool = False, **choices: Any) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, read by transformers with ``choices`` as arguments."""
    from transformers import AutoTokenizer

    with _readable(folder, trust=trust_remote_code) as place, quiet():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            place, local_files_only=True, trust_remote_code=trust_remote_code, **choices
        )
    return tokenizer


def load_weights(
    folder: Path, *, pickled: bool = False, trust_remote_code: bool = False, **choices: Any
) -> PreTrainedModel:
    """Build a causal language model from a folder with transformers, and load its weights.

    Args:
        folder: a folder in the Hugging Face layout.
        pickled: True if its weights are pickled.
        trust_remote_code: if True, the folder's own code may run.
        choices: arguments of transformers' ``from_pretrained``.

    Raises:
        InputError: the model has weights that the files lack, or the files hold weights that the model lacks.
    """
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    with _readable(folder, trust=trust_remote_code, pickled=pickled) as place, quiet():
        model, seen = factory.from_pretrained(
            place,
            use_safetensors=not pickled,
            local_files_only=not trust_remote_code,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **choices,
        )
    loaded: PreTrainedModel = model
    empty = {name for name, weight in loaded.named_parameters() if weight.device.type == "meta"}
    _require_whole(
        folder,
        loaded,
        set(seen["missing_keys"]) | empty,
        {key for key in seen["unexpected_keys"] if not is_buffer(key)},
    )
    return loaded


def _require_whole(folder: Path, model: PreTrainedModel, missing: set[str], unused: set[str]) -> None:
    if wrapped := wrapper_of(missing, unused):
        raise InputError(f"{folder}: {wrapped}")
    if missing and missing == _head_weights(model) and not unused:
        raise InputError(
            f"{folder}: the output head ({min(missing)}) is missing; if the head is the embedding, set tie_word_embeddings to "
            "true in config.json, else give a checkpoint with a language-model head"
        )
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} weights are missing, among them {min(missing)}; give a checkpoint with all of them, "
            "and the configuration that was saved with it"
        )
    if unused:
        raise InputError(
            f"{folder}: {len(unused)} weights would be left out, among them {min(unused)}; config.json is of another model, "
            "or of a part of this one: give the one that was saved with the weights"
        )


def _head_weights(model: PreTrainedModel) -> set[str]:
    head = model.get_output_embeddings()
    return {f"{path}.weight" for path, module in model.named_modules() if head is not None and module is head}
