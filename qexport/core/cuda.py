"""CUDA without a framework: the devices that the driver offers, and the exact bytes a runtime allocates on one."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_NAME_BYTES = 256


def device_names() -> list[str]:
    """Names of the CUDA devices that the driver offers, in its order; empty without a driver or a device.

    This makes no context on a device, so it costs no device memory.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    names = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
        if driver.cuDeviceGet(ctypes.byref(device), ordinal) == 0:
            driver.cuDeviceGetName(name, _NAME_BYTES, device)
            names.append(name.value.decode(errors="replace"))
    return names


class _MemoryInfo(ctypes.Structure):
    """``nvmlMemory_t``."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def used_bytes() -> int | None:
    """Memory in use on the first device, by all processes, with their contexts; None if it is unknown."""
    memory = _memory()
    return None if memory is None else int(memory.used)


def free_bytes() -> int | None:
    """Memory that is free on the first device; None if it is unknown."""
    memory = _memory()
    return None if memory is None else int(memory.free)


def _memory() -> _MemoryInfo | None:
    """The memory of the first CUDA device, from the driver's management library, which makes no context.

    A context would take memory. The device is found by its bus: CUDA_VISIBLE_DEVICES numbers devices in another order
    than the library.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        management: Any = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    device, bus, handle, memory = ctypes.c_int(), ctypes.create_string_buffer(32), ctypes.c_void_p(), _MemoryInfo()
    calls = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), 0),
        lambda: driver.cuDeviceGetPCIBusId(bus, len(bus), device),
        management.nvmlInit_v2,
        lambda: management.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle)),
        lambda: management.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)),
    )
    return memory if all(call() == 0 for call in calls) else None


class AllocationMeter:
    """Exact bytes that one ONNX Runtime session holds on its CUDA device, and their peak.

    ONNX Runtime calls these callbacks instead of its arena, whose blocks grow by powers of two and would make INT8
    weights look as large as FP16 ones. So the peak corresponds to ``torch.cuda.max_memory_allocated()``: it counts
    tensors (weights, prepacked copies, activations), but not the context, code or cuBLAS workspaces. Use it for memory
    only, never while timing: each allocation is a call into Python. Close the session before the meter.
    """

    def __init__(self) -> None:
        # onnxruntime.preload_dlls() has loaded it; CUDA 13 is what onnxruntime-gpu is built for since 1.27.
        runtime = ctypes.CDLL("libcudart.so.13")
        runtime.cudaMalloc.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t]
        runtime.cudaFree.argtypes = [ctypes.c_void_p]
        self._runtime: Any = runtime
        self._sizes: dict[int, int] = {}
        self.current_bytes = 0
        self.peak_bytes = 0
        self._callbacks = (
            ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(self._allocate),
            ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._free),
            ctypes.CFUNCTYPE(None)(lambda: None),
        )

    def provider_options(self) -> dict[str, str]:
        """Options for ``CUDAExecutionProvider`` that put this meter in place of the arena."""
        names = ("gpu_external_alloc", "gpu_external_free", "gpu_external_empty_cache")
        return {
            name: str(ctypes.cast(callback, ctypes.c_void_p).value)
            for name, callback in zip(names, self._callbacks, strict=True)
        }

    def _allocate(self, size: int) -> int | None:
        pointer = ctypes.c_void_p()
        if self._runtime.cudaMalloc(ctypes.byref(pointer), max(size, 1)) != 0 or pointer.value is None:
            return None
        self._sizes[pointer.value] = size
        self.current_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        return pointer.value

    def _free(self, pointer: int | None) -> None:
        if pointer is not None:
            self.current_bytes -= self._sizes.pop(pointer, 0)
            self._runtime.cudaFree(pointer)
