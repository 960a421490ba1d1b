"""Torch in float64, with the weights left in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, cast


def float64() -> AbstractContextManager[Any]:
    """A context in which every operation of torch takes and returns float64.

    A weight is widened only for the operation that reads it: a float64 copy of the model would take 8 more bytes a
    weight. Norms, softmax and rotary angles, for which transformers asks for float32 by name, are in float64 too. Run
    it under ``no_grad``: under ``inference_mode`` torch fails to index a weight here.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            return value.double()
        if type(value) in (list, tuple):
            return type(value)(map(widened, value))
        return torch.float64 if value is torch.float32 else value

    class Float64(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            # A view of a weight is widened by the operation that computes with it, rows of a table after they are read.
            if func.is_view:
                return func(*args, **(kwargs or {}))
            if func is not torch.ops.aten.embedding.default:
                args = widened(args)
                kwargs = {name: widened(value) for name, value in (kwargs or {}).items()}
            return widened(func(*args, **(kwargs or {})))

    mode: Any = Float64  # its constructor has no types
    return cast("AbstractContextManager[Any]", mode())
