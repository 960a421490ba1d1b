"""bitsandbytes: LLM.int8 and the 4-bit formats FP4 and NF4, kept in PyTorch.

References: Dettmers et al., LLM.int8() (https://arxiv.org/abs/2208.07339) and QLoRA (https://arxiv.org/abs/2305.14314).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from qexport.core import ContractError, Provider, QuantizedNode, UnsupportedHere, first_words
from qexport.inputs import copy_side_files
from qexport.quantization.schemes.scheme import SchemeResult, Settings, with_fields
from qexport.runtime import (
    BLOCK_SIZE,
    Compute,
    linear_modules,
    load_model,
    quantized_modules,
    require_same_modules,
    require_torch_provider,
    stored_tensor_bytes,
    torch_dtype,
    torch_logits,
    torch_versions,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import BitsAndBytesConfig, PreTrainedModel

    from qexport.inputs import ModelSource

Kind = Literal["int8", "fp4", "nf4"]


@dataclass(frozen=True, kw_only=True)
class Bnb:
    """Quantizes all linear layers except the output embedding, through transformers' ``BitsAndBytesConfig``."""

    kind: Kind
    outlier_threshold: float = 6.0
    """``int8`` only: activation columns with a value of at least this are multiplied in full precision."""
    double_quant: bool = False
    """``fp4`` and ``nf4`` only: the scales of the blocks are quantized too."""
    compute: Compute = "fp32"
    """The type of the arithmetic, and of all weights that are not quantized."""
    provider: Provider = "cpu"
    """The device on which the weights are quantized."""

    OPTIONS: ClassVar[tuple[str, ...]] = ("double_quant", "compute")
    takes_nodes: ClassVar[bool] = False

    def configured(self, choices: Mapping[str, object]) -> Bnb:
        """This scheme with other values of some options.

        Raises:
            InputError: the scheme has no such option, or the option does not take the value.
        """
        return with_fields(self, choices)

    def apply(self, source: ModelSource, folder: Path) -> SchemeResult:
        """Quantize ``source`` and save it into ``folder`` with tokenizer and configuration.

        Raises:
            UnsupportedHere: bitsandbytes is missing, or cannot run this model here.
            ContractError: the quantized layers are not exactly the linear layers without the output embedding.
        """
        if source.trust_remote_code:
            raise UnsupportedHere(
                f"{source.name}: its code is remote; bitsandbytes rows are for models of transformers"
            )
        require_torch_provider(self.provider)
        pickled = any(file.suffix != ".safetensors" for file in source.weight_files)
        model = load_model(
            source.path,
            provider=self.provider,
            compute=self.compute,
            quantization=self._config(),
            safetensors=not pickled,
        )
        quantized = self._verified(source.name, model)
        # Save before anything runs: on some processors the first run repacks the weights and rounds their scales.
        copy_side_files(source, folder)
        model.save_pretrained(folder)
        self._probe(source.name, model)
        return SchemeResult(
            quantized=quantized,
            weight_bytes=stored_tensor_bytes(folder),
            settings=self._settings(),
            versions=torch_versions(),
        )

    def _config(self) -> BitsAndBytesConfig:
        from transformers import BitsAndBytesConfig

        settings: dict[str, Any] = {"load_in_8bit": True, "llm_int8_threshold": self.outlier_threshold}
        if self.kind != "int8":
            settings = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": self.kind,
                "bnb_4bit_compute_dtype": torch_dtype(self.compute),
                "bnb_4bit_use_double_quant": self.double_quant,
            }
        factory: Any = BitsAndBytesConfig
        config: BitsAndBytesConfig = factory(**settings)
        return config

    def _settings(self) -> Settings:
        common: Settings = {"weight_dtype": self.kind, "compute": self.compute}
        if self.kind == "int8":
            return common | {"outlier_threshold": self.outlier_threshold}
        return common | {"block_size": BLOCK_SIZE, "double_quant": self.double_quant}

    def _verified(self, name: str, model: PreTrainedModel) -> tuple[QuantizedNode, ...]:
        wanted = dict.fromkeys(linear_modules(model.config), self.kind)
        if not wanted:
            raise UnsupportedHere(
                f"{name}: has no linear layer that bitsandbytes could quantize; take a recipe for ONNX such as w4a16-rtn"
            )
        require_same_modules(name, found=quantized_modules(model), wanted=wanted)
        return tuple(
            QuantizedNode(
                name=path,
                weight=f"{path}.weight",
                weight_dtype=self.kind,
                per_channel=self.kind == "int8",
                activation="dynamic" if self.kind == "int8" else "none",
            )
            for path, _ in model.named_modules()
            if path in wanted
        )

    def _probe(self, name: str, model: PreTrainedModel) -> None:
        """Run two tokens: only then does bitsandbytes find out if it has a kernel for the shapes."""
        try:
            logits = torch_logits(model, np.zeros((1, 2), np.int64))
        except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
            raise UnsupportedHere(
                f"{name}: bitsandbytes {self.kind} cannot run here ({first_words(error)}); take a recipe for ONNX"
            ) from error
        if not np.isfinite(logits).all():
            raise ContractError(f"{name}: bitsandbytes {self.kind} computes logits that are not finite")
