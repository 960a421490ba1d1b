"""The model in PyTorch, in float32 or float16: the reference for every row in PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from qexport.core import Provider, UnsupportedHere
from qexport.inputs import copy_side_files
from qexport.quantization.schemes.scheme import SchemeResult, with_fields
from qexport.runtime import Compute, load_model, require_torch_provider, stored_tensor_bytes, torch_versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qexport.inputs import ModelSource


@dataclass(frozen=True, kw_only=True)
class TorchFloat:
    """Every weight in one floating-point type; nothing is quantized."""

    compute: Compute
    provider: Provider = "cpu"

    OPTIONS: ClassVar[tuple[str, ...]] = ()
    takes_nodes: ClassVar[bool] = False

    def configured(self, choices: Mapping[str, object]) -> TorchFloat:
        """This scheme itself, which has no options.

        Raises:
            InputError: an option was given.
        """
        return with_fields(self, choices)

    def apply(self, source: ModelSource, folder: Path) -> SchemeResult:
        """Save ``source`` in this type into ``folder``, with tokenizer and configuration.

        Raises:
            UnsupportedHere: the model brings its own code.
        """
        if source.trust_remote_code:
            raise UnsupportedHere(f"{source.name}: its code is remote; rows in PyTorch are for models of transformers")
        require_torch_provider(self.provider)
        pickled = any(file.suffix != ".safetensors" for file in source.weight_files)
        model = load_model(source.path, provider="cpu", compute=self.compute, safetensors=not pickled)
        copy_side_files(source, folder)
        model.save_pretrained(folder)
        return SchemeResult(
            quantized=(),
            weight_bytes=stored_tensor_bytes(folder),
            settings={"compute": self.compute},
            versions=torch_versions(),
        )
