"""A GGUF file as a folder in the Hugging Face layout, made once and kept in qexport's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import InputError, cache_folder, claimed, file_sha256, first_words, quiet, whole_folder
from qexport.inputs.gguf.architectures import config_values
from qexport.inputs.gguf.file import read_gguf
from qexport.inputs.gguf.tokenizer import make_tokenizer, special_ids
from qexport.inputs.gguf.weights import place_tensors, write_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from qexport.inputs.gguf.file import GgufFile

_VERSION = 1
"""Raised with every change of this room that changes a folder."""
_MAKERS = ("gguf", "tokenizers", "transformers")
"""The packages whose versions change a folder."""


def folder_of_gguf(path: Path) -> Path:
    """The folder with configuration, tokenizer and weights of a GGUF file.

    Raises:
        InputError: the file cannot be read as a model; the message names the file, and nothing is left behind.
        UnsupportedHere: the disk is full.
    """
    try:
        key = hashlib.sha256(
            json.dumps([_VERSION, list(map(version, _MAKERS)), file_sha256(path)]).encode()
        ).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    kept = (cache_folder() / "gguf" / key).absolute()
    if not kept.is_dir():
        file = read_gguf(path)
        with contextlib.suppress(OSError):  # whole_folder reports it
            kept.parent.mkdir(parents=True, exist_ok=True)
        with claimed(kept, wait=True):
            if not kept.is_dir():  # another process may have made it meanwhile
                with whole_folder(kept, lambda _: None) as folder:
                    _fill(folder, file)
    return kept


def _fill(folder: Path, file: GgufFile) -> None:
    config = _config(file)
    placed = place_tensors(file, config)
    tokenizer = make_tokenizer(file)
    with quiet():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(special_ids(file), indent=2), encoding="utf-8")
    write_weights(file, placed, config.to_dict(), folder / "model.safetensors")


def _config(file: GgufFile) -> PretrainedConfig:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    values = config_values(file) | special_ids(file)
    model_type = values.pop("model_type")
    try:
        with quiet():
            config: PretrainedConfig = AutoConfig.for_model(model_type, **values)
    except Exception as error:  # the checks of configurations raise errors without a common base
        raise InputError(
            f"{file.path}: transformers cannot read its metadata ({first_words(error)}); download the file again"
        ) from error
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]]
    return config
