"""Models in torch, plain or in bitsandbytes: loading, running, and the modules that are really quantized."""

from __future__ import annotations

import importlib.metadata
import inspect
import logging
import math
from collections.abc import Mapping
from copy import copy, deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qexport.core import ContractError, Provider, UnsupportedHere, cpu
from qexport.inputs import load_config, load_weights, without_weights
from qexport.runtime import kernels
from qexport.runtime.decoding import Side, last_real, positions
from qexport.runtime.session import Observe, ProviderUnavailable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

    from qexport.core import Artifact

BLOCK_SIZE = 64
"""Weights that share one scale in bitsandbytes' 4-bit formats."""

Compute = Literal["fp32", "fp16"]
"""The type of arithmetic, and of the weights that are not quantized."""

_HEADER_LENGTH_BYTES = 8
_PACKED_ROWS = 32
_NOISE = {
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",  # on every call, by design of LLM.int8
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # an optional kernel from the hub
}


class TorchSession:
    """One artifact of kind ``torch``, loaded by transformers."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        observe: Observe = "nothing",
    ) -> None:
        """Load an artifact and compare its quantized modules with the manifest.

        Raises:
            ProviderUnavailable: ``cuda`` was requested and torch has no CUDA device.
            UnsupportedHere: bitsandbytes is not installed.
            ContractError: the quantized modules, or their types, differ from the manifest.
        """
        import torch

        require_torch_provider(provider)
        self.provider: Provider = provider
        self.threads = threads or cpu.cores()
        self.runtime = f"torch {torch.__version__}"
        self.device = torch.cuda.get_device_name() if provider == "cuda" else ""
        torch.set_num_threads(self.threads)
        self.kernel_class = (self.device or kernels.torch_class()) if observe == "kernels" else ""
        compute: Any = artifact.manifest.settings.get("compute", "fp32")
        self._model = load_model(artifact.path, provider=provider, compute=compute)
        if provider == "cuda":
            # Loading stages weights in full precision; the peak to measure is that of running.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        named = {node.name: node.weight_dtype for node in artifact.manifest.quantized}
        found = quantized_modules(self._model) if _in_bitsandbytes(self._model.config) else {}
        require_same_modules(str(artifact.path), found=found, wanted=named)

    def logits(self, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`qexport.runtime.session.Session.logits`."""
        return torch_logits(self._model, input_ids)

    def decoder(self, *, batch: int, capacity: int) -> TorchDecoder:
        """See :meth:`qexport.runtime.session.Session.decoder`; transformers' cache grows by itself."""
        del batch, capacity
        return TorchDecoder(self._model)

    def facts(self) -> dict[str, float | int | str]:
        """The number of 4-bit modules that did not run as bitsandbytes runs them on other machines.

        ``bf16_packed_modules`` ran in bfloat16, on the AVX512-BF16 kernel. ``one_row_modules`` had their weight
        dequantized as one row, to avoid a kernel that takes the scales of other blocks.
        """
        modules = list(self._model.modules())
        return {
            "bf16_packed_modules": sum(map(_is_packed, modules)),
            "one_row_modules": sum(map(_is_one_row, modules)),
        }

    def device_bytes(self) -> int:
        """``torch.cuda.memory_allocated()``."""
        import torch

        return torch.cuda.memory_allocated()

    def peak_device_bytes(self) -> int:
        """``torch.cuda.max_memory_allocated()`` since the weights were loaded, the weights included."""
        import torch

        return torch.cuda.max_memory_allocated()


class TorchDecoder:
    """A decoder over transformers' own cache; see :class:`qexport.runtime.decoding.Decoder`."""

    side: Side = "left"
    forks = True

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._past: Any = None
        self._mask: Any = None
        self._positions: Any = None

    def begin(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`qexport.runtime.decoding.Decoder.begin`."""
        logits = self._prefill(input_ids, attention_mask)
        return _chosen(logits[range(len(logits)), last_real(attention_mask).tolist()])

    def step(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`qexport.runtime.decoding.Decoder.step`."""
        return _chosen(self._advance(tokens))

    def prefill(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`qexport.runtime.decoding.Decoder.prefill`."""
        return _on_host(self._prefill(input_ids, attention_mask))

    def advance(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`qexport.runtime.decoding.Decoder.advance`."""
        return _on_host(self._advance(tokens))

    def fork(self, rows: NDArray[np.intp], *, steps: int) -> TorchDecoder:
        """See :meth:`qexport.runtime.decoding.Decoder.fork`."""
        import torch

        del steps
        other = TorchDecoder(self._model)
        chosen = torch.from_numpy(rows).to(self._model.device)
        other._past = deepcopy(self._past)
        other._past.batch_select_indices(chosen)
        other._mask, other._positions = self._mask[chosen], self._positions[chosen]
        return other

    def _prefill(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> torch.Tensor:
        import torch

        device = self._model.device
        self._past = None
        self._mask = torch.from_numpy(attention_mask).to(device)
        where = torch.from_numpy(positions(attention_mask)).to(device)
        self._positions = where.max(dim=1, keepdim=True).values
        return self._run(torch.from_numpy(input_ids).to(device), where)

    def _advance(self, tokens: NDArray[np.int64]) -> torch.Tensor:
        import torch

        self._mask = torch.cat([self._mask, self._mask.new_ones((len(tokens), 1))], dim=1)
        self._positions = self._positions + 1
        ids = torch.from_numpy(tokens[:, None]).to(self._model.device)
        return self._run(ids, self._positions)[:, 0]

    def _run(self, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        import torch

        given = {"position_ids": where} if self._takes_positions else {}
        with torch.inference_mode():
            output = self._model(
                input_ids=ids, attention_mask=self._mask, past_key_values=self._past, use_cache=True, **given
            )
        self._past = output.past_key_values
        logits: torch.Tensor = output.logits
        return logits


def _chosen(logits: torch.Tensor) -> NDArray[np.int64]:
    """The most likely token of each row, on the host, so that a step ends when the token is known."""
    tokens: NDArray[np.int64] = logits.argmax(dim=-1).cpu().numpy()
    return tokens


def _on_host(logits: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = logits.float().cpu().numpy()
    return values


def torch_warm_up(folder: Path, provider: Provider) -> None:
    """Import the code of the model in ``folder`` and make the device context: later memory is the artifact's.

    Raises:
        ProviderUnavailable: torch cannot run on ``provider``.
    """
    import accelerate  # noqa: F401  # loading would import it
    import torch
    from transformers import AutoModelForCausalLM

    require_torch_provider(provider)
    AutoModelForCausalLM._model_mapping[type(load_config(folder))]  # noqa: SLF001
    block = torch.ones((16, 16))
    torch.mm(block, block)
    if provider == "cuda":
        block = torch.ones((16, 16), dtype=torch.float16, device="cuda")
        torch.mm(block, block).cpu()


def require_torch_provider(provider: Provider) -> None:
    """Make sure that torch can run on ``provider``.

    Raises:
        ProviderUnavailable: torch cannot run on it.
    """
    import torch

    if provider == "cuda" and not torch.cuda.is_available():
        raise ProviderUnavailable(
            f"--provider cuda: torch {torch.__version__} finds no CUDA device; on a machine with an NVIDIA GPU "
            "install qexport[gpu] in an environment of its own"
        )


def load_model(
    folder: Path,
    *,
    provider: Provider,
    compute: Compute = "fp32",
    quantization: BitsAndBytesConfig | None = None,
    safetensors: bool = True,
) -> PreTrainedModel:
    """Load a causal language model, whose linear layers may be in bitsandbytes.

    Args:
        folder: the folder of the model, in the Hugging Face layout.
        provider: the device of the weights.
        compute: the type of arithmetic, and of the weights that are not quantized.
        quantization: the way to quantize weights in full precision; None if the folder holds quantized weights, or to
            leave the weights unquantized.
        safetensors: refuse pickled weights.

    Raises:
        UnsupportedHere: bitsandbytes is not installed, or has no kernels for this machine.
    """
    _hush()
    config = load_config(folder)
    if quantization is not None or _in_bitsandbytes(config):
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise UnsupportedHere(
                f"bitsandbytes rows need bitsandbytes ({error}); install qexport[cpu] or [gpu]"
            ) from error
    # torch's own fused attention silently leaves out a soft cap.
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    choices: dict[str, Any] = {"attn_implementation": attention}
    if quantization is not None:
        choices["quantization_config"] = quantization
    model: PreTrainedModel = load_weights(
        folder,
        pickled=not safetensors,
        dtype=torch_dtype(compute),  # LLM.int8 would set the layers that it does not quantize to float16
        device_map={"": "cpu" if provider == "cpu" else 0},
        **choices,
    )
    if _in_bitsandbytes(model.config):
        for module in model.modules():
            _avoid_packing(module)
            _avoid_rows(module)
    return model


def _in_bitsandbytes(config: PretrainedConfig) -> bool:
    """True if a model of this configuration has layers of bitsandbytes; a plain model need not import it."""
    return getattr(config, "quantization_config", None) is not None


def torch_dtype(compute: Compute) -> torch.dtype:
    import torch

    return torch.float32 if compute == "fp32" else torch.float16


def stored_tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors in a folder's safetensors files: weights with their scales and states, tied weights once.

    A safetensors file is the length of its header, the header, and the tensors.
    """
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as handle:
            header = int.from_bytes(handle.read(_HEADER_LENGTH_BYTES), "little")
        total += path.stat().st_size - _HEADER_LENGTH_BYTES - header
    return total


def torch_versions() -> dict[str, str]:
    """Versions of the packages that a torch model is made with."""
    return {name: importlib.metadata.version(name) for name in ("bitsandbytes", "torch", "transformers")}


def torch_logits(model: PreTrainedModel, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Next-token logits ``[batch, sequence, vocab]`` of ids ``[batch, sequence]`` without padding."""
    import torch

    ids = torch.from_numpy(input_ids).to(model.device)
    # Without a mask, transformers builds one for packed sequences, which takes half the time of a small model.
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return _on_host(logits)


def linear_modules(config: PretrainedConfig) -> set[str]:
    """Module paths of all linear layers of an architecture except its output embedding."""
    import torch
    from transformers.pytorch_utils import Conv1D

    model = without_weights(config)
    head = model.get_output_embeddings()
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }


def quantized_modules(model: PreTrainedModel) -> dict[str, str]:
    """Module path to ``int8``, ``fp4`` or ``nf4`` for every layer whose weight is quantized now.

    The result is read from the weights themselves: a bitsandbytes layer that holds plain weights does not count.
    """
    import torch
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    found: dict[str, str] = {}
    for name, module in model.named_modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, Linear8bitLt):
            scales = module.state.SCB if weight.SCB is None else weight.SCB
            if weight.dtype == torch.int8 and scales is not None and len(scales) == module.out_features:
                found[name] = "int8"
        elif isinstance(module, Linear4bit):
            state = weight.quant_state
            if weight.dtype == torch.uint8 and state is not None and state.blocksize == BLOCK_SIZE:
                found[name] = str(state.quant_type)
    return found


def require_same_modules(what: str, *, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Compare the quantized modules with the requested ones.

    Raises:
        ContractError: a module is missing, is extra, or is quantized in another way.
    """
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        name = wrong[0]
        raise ContractError(
            f"{what}: bitsandbytes quantized {len(found)} modules where {len(wanted)} were asked for; "
            f"{name} is {found.get(name, 'not quantized')} instead of {wanted.get(name, 'left alone')}"
        )


def _avoid_packing(module: Any) -> None:
    """Keep layers off the AVX512-BF16 kernel if it cannot take their shapes; they dequantize and multiply instead.

    On processors that have that kernel, bitsandbytes 0.50.2 repacks every 4-bit layer for it. It then stops with an
    AssertionError unless the rows are a multiple of 32 and the columns a multiple of the block size.
    """
    if getattr(module, "support_avx512bf16_for_cpu", False):
        fits = module.out_features % _PACKED_ROWS == 0 and module.in_features % BLOCK_SIZE == 0
        module.support_avx512bf16_for_cpu = fits


def _is_packed(module: Any) -> bool:
    return bool(getattr(_state(module), "packing_format_for_cpu", False))


def _avoid_rows(module: Any) -> None:
    """Dequantize weights on the CPU as one row if a row is no multiple of the block.

    In such a weight a block continues in the next row, and the AVX512 kernel of bitsandbytes 0.50.2 takes the scales of
    other blocks (seen at all multiples of 16 up to 400). As one row the same bytes are read correctly, in the same
    time.
    """
    state = _state(module)
    if state is not None and module.in_features % BLOCK_SIZE and module.weight.device.type == "cpu":
        module.forward = partial(_forward_as_one_row, module)


def _forward_as_one_row(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Compute the same as ``Linear4bit.forward``, for any shape ``[..., in]``, in the dtype of ``x``."""
    import torch
    from bitsandbytes import functional

    state = copy(module.weight.quant_state)
    out_by_in, state.shape = state.shape, (1, math.prod(state.shape))
    weight = functional.dequantize_4bit(module.weight.data, state).reshape(out_by_in)
    return torch.nn.functional.linear(x, weight.to(x.dtype), module.bias)


def _is_one_row(module: Any) -> bool:
    return getattr(module.forward, "func", None) is _forward_as_one_row


def _state(module: Any) -> Any:
    """The ``QuantState`` of a layer with 4-bit weights; None for any other module."""
    return getattr(getattr(module, "weight", None), "quant_state", None)


def _hush() -> None:
    """Drop two warnings of bitsandbytes by name; all others stay."""
    for name, beginning in _NOISE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Without) for known in logger.filters):
            logger.addFilter(_Without(beginning))


class _Without(logging.Filter):
    def __init__(self, beginning: str) -> None:
        super().__init__()
        self.beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginning)
