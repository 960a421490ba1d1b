"""Runs artifacts through one small :class:`qexport.runtime.session.Session` protocol: ONNX Runtime here, torch in its own module.

Nothing here imports torch: a process that measures an ONNX artifact must hold only what the artifact needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qexport.core import ContractError, Provider, UnsupportedHere, cpu, cuda, scratch_folder
from qexport.runtime import kernels
from qexport.runtime.decoding import Cache, Decoder, OrtDecoder, Tensor, cache_shape
from qexport.runtime.session import (
    INTEGER_MATMULS,
    NODES_ON,
    QUANTIZED_KERNELS,
    SATURATES,
    Observe,
    ProviderUnavailable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""On import, ONNX Runtime 1.31 for Linux looks up a Microsoft host and writes ``.ses`` to the temporary folder. So this
line comes before every import. A value that the user sets is kept."""


_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_RELU = (
    b'\x08\x08:7\n\x0e\n\x01x\x12\x01y"\x04Relu:\x00\x12\x01gZ\x10\n\x01x\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01n'
    b"b\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01nB\x04\n\x00\x10\r"
)
"""An ONNX file of one node."""
_DEVICE_FAILED = re.compile("allocate memory|out of memory|CUDA failure|CUDA error|cudaError", re.IGNORECASE)
_LOG_WARNINGS, _LOG_ERRORS = 2, 3
_PROBE_IDS = np.zeros((1, 2), np.int64)
_COMPUTE_OPS = INTEGER_MATMULS | {
    "Attention",
    "DynamicQuantizeLinear",
    "Gemm",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "MatMul",
    "MatMulBnb4",
    "MatMulNBits",
    "MultiHeadAttention",
}
"""Nodes that decide a latency. Shape arithmetic belongs on the CPU and is not in this set."""


def warm_up(provider: Provider = "cpu") -> None:
    """Load ONNX Runtime's own code first (about 10 MB), so that later memory growth is due to the artifact alone.

    On CUDA this makes the context too.

    Raises:
        ProviderUnavailable: the provider is not available.
    """
    import onnxruntime

    require_provider(provider)
    if provider == "cuda":
        _preload_cuda()
    try:
        session = onnxruntime.InferenceSession(_RELU, providers=[_PROVIDERS[provider]], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors have no common class
        raise ProviderUnavailable(
            f"--provider {provider}: onnxruntime cannot use it ({_first_line(error)}); "
            "check the driver, or leave --provider out"
        ) from error
    session.run(None, {"x": np.zeros(1, np.float32)})


def require_provider(provider: Provider) -> None:
    """Make sure that ``provider`` is available to ONNX Runtime on this machine.

    Raises:
        ProviderUnavailable: the package has no such provider, or the driver offers no device.
    """
    if provider == "cpu":
        return
    import onnxruntime

    if _PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise ProviderUnavailable(
            f"--provider {provider}: the installed onnxruntime {onnxruntime.__version__} has no CUDA provider; "
            "on a machine with an NVIDIA GPU install qexport[gpu] in an environment of its own"
        )
    if not cuda.device_names():
        raise ProviderUnavailable(
            f"--provider {provider}: the NVIDIA driver offers no GPU on this machine; "
            "check `nvidia-smi`, or use --provider cpu"
        )


class OrtSession:
    """One graph in ONNX Runtime, on exactly one execution provider."""

    def __init__(
        self,
        path: Path,
        *,
        provider: Provider = "cpu",
        threads: int | None = None,
        observe: Observe = "nothing",
        cache: Cache = "grows",
        replay: bool = False,
        spin: bool = True,
    ) -> None:
        """Load ``path``; see :func:`open_session` for most arguments and the errors, and ``Cache`` for ``cache``.

        With ``spin`` the threads wait for the next run in a loop, which starts the run sooner. Without ``spin`` they
        sleep between runs. That suits callers that compute with numpy meanwhile, whose threads need the processors:
        GPTQ took 42 s of processor time on the bundled model with ``spin``, and 18 s without.
        """
        import onnxruntime

        require_provider(provider)
        self.path = path
        self.provider: Provider = provider
        self.threads = threads or cpu.cores()
        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self.device = cuda.device_names()[0] if provider == "cuda" else ""
        self.kernel_class = (self.device or kernels.onnx_class()) if observe == "kernels" else ""
        self._facts: dict[str, float | int | str] = {}
        if observe == "kernels" and provider == "cpu":
            self._facts[SATURATES] = int(kernels.saturates())
        self._profile_folder: tempfile.TemporaryDirectory[str] | None = None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Only errors, unless asked: qexport itself checks what ONNX Runtime warns of.
        options.log_severity_level = _LOG_WARNINGS if observe == "warnings" else _LOG_ERRORS
        # Weights get their own memory, outside the arena, which grows by powers of two: 12 MB less of 73.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        # Weights between DequantizeLinear and MatMul become MatMulNBits, whose default rounds activations to int8.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if observe == "kernels":
            self._profile_folder = scratch_folder("kernels")
            options.enable_profiling = True
            options.profile_file_prefix = f"{self._profile_folder.name}/run"
        if provider == "cuda":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            # 4- and 8-bit weights in blocks of 32 are multiplied without being expanded first; kernels are chosen
            # for a step, a small batch and a prompt.
            options.add_session_config_entry("ep.cuda.fpa_intb_gemm", "1")
            options.add_session_config_entry("ep.cuda.fpa_intb_profile_m", "1,8,64")
            _preload_cuda()
        metered = provider == "cuda" and observe == "device memory"
        self._meter = cuda.AllocationMeter() if metered else None
        provider_options = self._meter.provider_options() if self._meter else {}
        if replay and provider == "cuda" and cache == "by length":
            provider_options["enable_cuda_graph"] = "1"
            self._facts["cuda_graph"] = 1
        try:
            self._session = _load(path, options, _PROVIDERS[provider], provider_options)
        except BaseException:
            if self._profile_folder is not None:
                self._profile_folder.cleanup()
            raise
        # A graph that counts positions from the past's length would count the whole buffer.
        self._cache: Cache = cache if any(tensor.name == "position_ids" for tensor in self.inputs) else "grows"
        self._check_provider()

    def _check_provider(self) -> None:
        """Compare the provider obtained with the one requested: ONNX Runtime only logs that it fell back to the CPU."""
        obtained = self._session.get_providers()[0]
        if obtained != _PROVIDERS[self.provider]:
            raise ProviderUnavailable(
                f"--provider {self.provider}: ONNX Runtime gave {obtained} instead; the CUDA 13 and cuDNN 9 libraries "
                "that onnxruntime-gpu needs did not load, install qexport[gpu]"
            )
        if self.provider == "cpu":
            return
        elsewhere = Counter(
            node.op_type
            for group in self._session.get_provider_graph_assignment_info()
            if group.ep_name != obtained
            for node in group.get_nodes()
            if node.op_type in _COMPUTE_OPS
        )
        if elsewhere:
            ops = ", ".join(f"{count} {op}" for op, count in sorted(elsewhere.items()))
            raise UnsupportedHere(
                f"{self.path}: the CUDA provider has no kernel for {ops} of this graph and would leave them to the "
                "CPU; export with --exporter optimum, take another recipe, or use --provider cpu"
            )

    @property
    def inputs(self) -> Sequence[Tensor]:
        """The graph's inputs in order."""
        declared: Sequence[Tensor] = self._session.get_inputs()
        return declared

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Run the graph; ``outputs`` None returns all outputs."""
        names = list(outputs) if outputs is not None else [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def logits(self, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`qexport.runtime.session.Session.logits`."""
        outputs = self.run(decoder_feeds(self.inputs, input_ids, None), ["logits"])
        return np.asarray(outputs["logits"], np.float32)

    def decoder(self, *, batch: int, capacity: int) -> Decoder:
        """See :meth:`qexport.runtime.session.Session.decoder`."""
        return OrtDecoder(self._session, batch=batch, capacity=capacity, cache=self._cache, device=self.provider)

    def quantized_kernels_run(self) -> dict[str, int]:
        """The number of nodes of each of :data:`QUANTIZED_KERNELS` that ran on two tokens; needs ``observe="kernels"``.

        Only the profile shows which kernels ran: the partitioned graph is the one before ONNX Runtime's fusions, and
        the optimized graph can only be saved with its weights.
        """
        if self._profile_folder is not None:
            self.logits(_PROBE_IDS)
            events = json.loads(Path(self._session.end_profiling()).read_text())
            self._profile_folder.cleanup()
            self._profile_folder = None
            ran = {
                (event["args"].get("node_index"), event["name"]): event["args"]
                for event in events
                if event.get("cat") == "Node"
            }
            for kind, ops in QUANTIZED_KERNELS.items():
                self._facts[f"{kind}_run"] = sum(args.get("op_name") in ops for args in ran.values())
            for name, count in Counter(args.get("provider", "") for args in ran.values()).items():
                self._facts[f"{NODES_ON}{name.removesuffix('ExecutionProvider').lower()}"] = count
        return {kind: int(self._facts[f"{kind}_run"]) for kind in QUANTIZED_KERNELS}

    def facts(self) -> dict[str, float | int | str]:
        """See :meth:`qexport.runtime.session.Session.facts`: ``integer_matmuls_run``, ``nodes_on_cpu`` and others if kernels were observed."""
        return dict(self._facts)

    def device_bytes(self) -> int:
        """See :meth:`qexport.runtime.session.Session.device_bytes`; needs ``observe="device memory"`` on CUDA."""
        return self._metered().current_bytes

    def peak_device_bytes(self) -> int:
        """See :meth:`qexport.runtime.session.Session.peak_device_bytes`; needs ``observe="device memory"`` on CUDA."""
        return self._metered().peak_bytes

    def _metered(self) -> cuda.AllocationMeter:
        if self._meter is None:
            raise ContractError(f"{self.path}: device memory was not observed; open it with observe='device memory'")
        return self._meter


def _preload_cuda() -> None:
    """Load the CUDA libraries that pip installed beside onnxruntime-gpu."""
    import onnxruntime

    with contextlib.redirect_stdout(sys.stderr):  # it prints the libraries that it cannot load
        onnxruntime.preload_dlls()


def _load(path: Path, options: Any, provider: str, provider_options: dict[str, str]) -> Any:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    failures = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.RuntimeException,
    )
    try:
        # enable_fallback=0: without it onnxruntime prints a line and continues on the CPU.
        return onnxruntime.InferenceSession(path, options, providers=[(provider, provider_options)], enable_fallback=0)
    except state.NotImplemented as error:
        raise UnsupportedHere(
            f"{path}: onnxruntime has no kernel for it here ({_first_line(error)}); quantize with --target for this provider"
        ) from error
    except failures as error:
        if _DEVICE_FAILED.search(str(error)):
            raise UnsupportedHere(
                f"{path}: the device failed while loading it ({_first_line(error)}); free its memory, or run on the CPU"
            ) from error
        raise ContractError(
            f"{path}: onnxruntime cannot load it ({_first_line(error)}); export or quantize the model again"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def decoder_feeds(
    inputs: Sequence[Tensor], input_ids: NDArray[np.int64], past: Mapping[str, NDArray[Any]] | None
) -> dict[str, NDArray[Any]]:
    """Feeds for a decoder with Optimum's input names, for a batch without padding.

    Args:
        inputs: the graph's inputs; those named below are fed.
        input_ids: the new tokens, ``[batch, sequence]``.
        past: the keys and values by input name, ``[batch, kv_heads, past_sequence, head_dim]``; None if there is no
            past.

    Raises:
        ContractError: the graph has an input other than ``input_ids``, ``attention_mask``, ``position_ids`` and
            ``past_key_values.*``, or one of the last whose shape or type cannot be fed.
    """
    batch, sequence = input_ids.shape
    length = next(iter(past.values())).shape[2] if past else 0
    known = {
        "input_ids": lambda: np.asarray(input_ids, np.int64),
        "attention_mask": lambda: np.ones((batch, length + sequence), np.int64),
        "position_ids": lambda: np.tile(np.arange(length, length + sequence, dtype=np.int64), (batch, 1)),
    }
    feeds: dict[str, NDArray[Any]] = {}
    for tensor in inputs:
        if tensor.name in known:
            feeds[tensor.name] = known[tensor.name]()
        elif tensor.name.startswith("past_key_values."):
            feeds[tensor.name] = past[tensor.name] if past else _empty_past(tensor, batch)
        else:
            raise ContractError(
                f"the graph asks for {tensor.name}, which is no input of qexport's decoders; export it again"
            )
    return feeds


def _empty_past(tensor: Tensor, batch: int) -> NDArray[Any]:
    return np.empty(cache_shape(tensor, batch, 0, _DTYPES), _DTYPES[tensor.type])


def present_to_past(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The outputs ``present.N.key`` and ``.value``, under the input names of the next step."""
    return {
        name.replace("present.", "past_key_values.", 1): value
        for name, value in outputs.items()
        if name.startswith("present.")
    }
