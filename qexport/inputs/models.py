"""Models: checks the files of a local folder, a GGUF file or a hub id and makes a :class:`ModelSource`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qexport.core import MANIFEST_NAME, Artifact, InputError, first_words, read_json
from qexport.inputs.architecture import CONTEXT_KEYS
from qexport.inputs.gguf.file import is_gguf
from qexport.inputs.gguf.folder import folder_of_gguf
from qexport.inputs.leftovers import ADAPTERS, left_by_training
from qexport.inputs.pretrained import CODE_KEY, SIDE_FILES, load_weights, read_tokenizer, require_no_code
from qexport.inputs.rows import require_enough_rows
from qexport.inputs.sizes import require_like_weights
from qexport.inputs.source import ModelSource
from qexport.inputs.weights import check_shards, digest_weights, read_header

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""The names that transformers looks for, in its order."""

_TOKENIZERS = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate_model(
    spec: str | Path, *, revision: str | None = None, allow_pickle: bool = False, trust_remote_code: bool = False
) -> ModelSource:
    """Find a model and check everything that can be checked before it is built.

    Args:
        spec: a local folder, a GGUF file, or a hub id (read from the hub's cache if it is there).
        revision: the branch, tag or commit of a hub id.
        allow_pickle: if True, accept ``pytorch_model.bin`` if no safetensors file exists.
        trust_remote_code: if True, accept a model whose code comes with its files.

    Raises:
        InputError: the model is missing, or qexport does not support it; the message names the file and the way out.
    """
    if not str(spec).strip():
        raise InputError("the name of the model is empty; give a folder, a GGUF file or a hub id")
    folder = Path(spec).expanduser()
    if (folder / MANIFEST_NAME).is_file():
        raise InputError(f"{spec}: is an artifact of qexport, not a model; give the model that it was made from")
    if folder.exists():
        if revision is not None:
            raise InputError(f"{spec}: a local model has no revision {revision}; leave --revision out")
        folder, name, commit = *_local_folder(folder), ""
    else:
        folder = _snapshot(str(spec), revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
        name, commit = str(spec), folder.name
    config = _read_config(folder)
    for key in CONTEXT_KEYS:
        if isinstance(config.get(key), int) and config[key] < 1:
            raise InputError(f"{folder / 'config.json'}: {key} is {config[key]}; correct it")
    remote = _check_remote_code(folder, config, trust=trust_remote_code)
    if not remote:
        _check_decoder(folder, config)
    if "quantization_config" in config:
        raise InputError(f"{folder / 'config.json'}: the model is quantized already; give the original model")
    if not any(all((folder / part).is_file() for part in parts) for parts in _TOKENIZERS):
        raise InputError(f"{folder}: no tokenizer (tokenizer.json, or vocab.json with merges.txt); save it there too")
    files = _weight_files(folder, allow_pickle=allow_pickle)
    digest = digest_weights(files)
    if not remote:
        require_like_weights(folder, files)
    return ModelSource(
        name=name,
        revision=commit,
        path=folder,
        config=config,
        weight_files=files,
        weights_sha256=digest,
        trust_remote_code=remote,
    )


def _local_folder(path: Path) -> tuple[Path, str]:
    """The folder of a model on this machine, and the model's name."""
    if path.is_dir():
        return path.resolve(), path.resolve().name
    if not (path.is_file() and is_gguf(path)):
        raise InputError(
            f"{path}: a file; give the folder that holds config.json, tokenizer and weights, or a GGUF file"
        )
    return folder_of_gguf(path), path.name


def _snapshot(spec: str, revision: str | None, *, allow_pickle: bool, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if not _HUB_ID.fullmatch(spec) or ".." in spec or "--" in spec:
        raise InputError(f"{spec}: no such folder, and not a hub id such as openai-community/gpt2; check the path")
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    patterns += ["*.bin"] if allow_pickle else []
    patterns += ["*.py"] if trust_remote_code else []
    try:
        found = snapshot_download(
            spec, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*", "consolidated*"]
        )
    except GatedRepoError as error:
        raise InputError(f"{spec}: gated on the hub; ask for access there and log in with `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise InputError(f"{spec}: has no revision {revision} on the hub; check --revision") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"{spec}: no such folder, and no such model on the hub; check the name") from error
    except (OSError, ValueError) as error:  # requests, the cache and offline mode raise these two
        raise InputError(
            f"{spec}: no such folder, and the hub cannot be reached for it ({type(error).__name__}); "
            "give a local folder, or connect once so that it is cached"
        ) from error
    return Path(found)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        if files := sorted(each.name for each in folder.glob("*.gguf") if each.is_file()):
            raise InputError(f"{folder}: no config.json, but GGUF; give one of its files, such as {files[0]}")
        raise InputError(
            f"{folder}: {left_by_training(folder) or 'no config.json; give a folder written by save_pretrained'}"
        )
    config = read_json(path)
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{path}: names no model_type; give a folder written by save_pretrained")
    return config


def _check_remote_code(folder: Path, config: dict[str, Any], *, trust: bool) -> bool:
    """True if the model has its own code, which ``trust`` must allow.

    Raises:
        InputError: the model has its own code and ``trust`` is False, or it names code that no option allows.
    """
    remote = False
    for path in (folder / "config.json", folder / "tokenizer_config.json", folder / "generation_config.json"):
        if not path.is_file():
            continue
        values = config if path.name == "config.json" else read_json(path)
        require_no_code(path, values)
        remote = remote or bool(values.get(CODE_KEY))
        if remote and not trust:
            raise InputError(
                f"{path}: the model's code is remote ({CODE_KEY}); read it and pass --trust-remote-code to run it, "
                f"or remove {CODE_KEY} if transformers' own {config['model_type']} will do"
            )
    return remote


def _check_decoder(folder: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto import modeling_auto as auto

    path, kind = folder / "config.json", config["model_type"]
    if config.get("is_encoder_decoder") or kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"{path}: {kind} is an encoder-decoder; give a decoder-only model such as gpt2 or llama")
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.get("is_decoder"):
            return
    elif kind not in auto.MODEL_MAPPING_NAMES:
        raise InputError(
            f"{path}: this transformers does not know the model type {kind}; check it, or use another model"
        )
    raise InputError(f"{path}: {kind} is an encoder, not a decoder of text; give a model such as gpt2 or llama")


def _weight_files(folder: Path, *, allow_pickle: bool) -> tuple[Path, ...]:
    adapters = sorted(path.name for pattern in ADAPTERS for path in folder.glob(pattern))
    if adapters:
        raise InputError(
            f"{folder / adapters[0]}: an adapter lies beside the model and would be left out; merge it "
            "(merge_and_unload in peft) and give the merged model, or remove it"
        )
    both = [name for name in _SAFETENSORS if (folder / name).is_file()]
    if len(both) > 1:
        raise InputError(f"{folder}: holds both {' and '.join(both)}; remove the one that is not the model's")
    for name in _SAFETENSORS + (_PICKLED if allow_pickle else ()):
        path = folder / name
        if not path.is_file():
            continue
        if name.endswith(".json"):
            return check_shards(path)
        if name.endswith(".safetensors"):
            read_header(path)
        return (path,)
    pickled = [name for name in _PICKLED if (folder / name).is_file()]
    if pickled:
        raise InputError(
            f"{folder / pickled[0]}: pickled weights can run code when they are read; convert them to safetensors, "
            "or pass --allow-pickle if you trust their origin"
        )
    raise InputError(f"{folder}: {left_by_training(folder) or 'no weights; save them there as model.safetensors'}")


def load_torch_model(source: ModelSource) -> PreTrainedModel:
    """Build the model in fp32 for evaluation, on the CPU.

    Raises:
        InputError: weights do not fit the configuration, or are missing from the files.
    """
    import torch

    pickled = source.weight_files[0].suffix != ".safetensors"
    # torch's fused attention silently ignores a soft cap on the logits.
    attention = "eager" if source.config.get("attn_logit_softcapping") else "sdpa"
    try:
        model = load_weights(
            source.path,
            pickled=pickled,
            trust_remote_code=source.trust_remote_code,
            dtype=torch.float32,
            attn_implementation=attention,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise InputError(
            f"{source.path}: transformers cannot build the model ({first_words(error)}); "
            "give the configuration that was saved with the weights"
        ) from error
    result: PreTrainedModel = model.eval()
    return result


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer.

    Raises:
        InputError: the tokenizer cannot be read, or has more tokens than the model.
    """
    try:
        tokenizer = read_tokenizer(source.path, trust_remote_code=source.trust_remote_code)
    except Exception as error:  # the Rust tokenizers raise plain Exception for an invalid file
        raise InputError(
            f"{source.path}: the tokenizer cannot be read ({first_words(error)}); save it again"
        ) from error
    rows = source.config.get("vocab_size")
    if isinstance(rows, int):
        require_enough_rows(source.path, tokenizer.vocab_size, rows)
    return tokenizer


def copy_side_files(source: ModelSource, folder: Path) -> None:
    """Copy configuration and tokenizer files, so that ``folder`` loads without the original model."""
    for name in SIDE_FILES:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, folder / name)


def stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's end of text, and the folder's stop tokens for generation."""
    ids = {tokenizer.eos_token_id}
    path = folder / "generation_config.json"
    named = read_json(path).get("eos_token_id") if path.is_file() else None
    ids |= set(named) if isinstance(named, list) else {named}
    return tuple(sorted(token for token in ids if isinstance(token, int)))


def source_of(artifact: Artifact) -> ModelSource:
    """An artifact's own folder as the source of its tokenizer and configuration."""
    return ModelSource(
        name=artifact.manifest.model.name,
        revision=artifact.manifest.model.revision,
        path=artifact.path,
        config=read_json(artifact.path / "config.json", way_out="make the artifact again"),
        weight_files=(),
        weights_sha256=artifact.manifest.model.weights_sha256,
        trust_remote_code=False,
    )
