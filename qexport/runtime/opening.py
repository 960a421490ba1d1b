"""Opens an artifact with the runtime of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qexport.core import ContractError, Provider
from qexport.runtime.decoding import Cache
from qexport.runtime.onnx_session import OrtSession
from qexport.runtime.session import QUANTIZED_KERNELS, Observe, Session

if TYPE_CHECKING:
    from qexport.core import Artifact, Manifest

_CACHES: Mapping[str, Cache] = {"fused": "shared", "fused-cuda": "by length"}
"""The cache of each exporter's graphs; all other graphs have ``grows``."""


def open_session(
    artifact: Artifact,
    *,
    provider: Provider = "cpu",
    threads: int | None = None,
    observe: Observe = "nothing",
    replay: bool = False,
) -> Session:
    """Load an artifact with the runtime of its kind.

    Args:
        artifact: the artifact to load.
        provider: the execution provider that must run the artifact.
        threads: the number of threads of the runtime; None takes every processor that this process may use.
        observe: ``kernels`` runs two tokens and compares the quantized kernels that ran with the manifest; ``device
            memory`` makes :meth:`Session.peak_device_bytes` exact.
        replay: on CUDA, capture a decoder's steps as a CUDA graph and replay them, if the graph's cache allows it.

    Raises:
        ProviderUnavailable: the requested provider is not available.
        UnsupportedHere: the provider would leave part of the model to another one.
        ContractError: the file does not load, or the quantized kernels that ran differ from the manifest.
    """
    if artifact.manifest.kind == "torch":
        from qexport.runtime.torch_session import TorchSession

        return TorchSession(artifact, provider=provider, threads=threads, observe=observe)
    session = OrtSession(
        artifact.onnx_path,
        provider=provider,
        threads=threads,
        observe=observe,
        cache=_CACHES.get(artifact.manifest.exporter, "grows"),
        replay=replay,
    )
    if observe == "kernels":
        _compare_with_manifest(session, artifact)
    return session


def _compare_with_manifest(session: OrtSession, artifact: Artifact) -> None:
    ran = session.quantized_kernels_run()
    # The CUDA provider has no fused W8A8 kernel: a QDQ graph runs in floating point there, as the facts show.
    if session.provider != "cpu":
        return
    for kind, named in named_kernels(artifact.manifest).items():
        if ran[kind] != named:
            raise ContractError(
                f"{artifact.onnx_path}: {ran[kind]} {kind.replace('_', ' ')} ran where the manifest names {named}; "
                "ONNX Runtime did not run the graph as it was written, so its figures would be of another model"
            )


def named_kernels(manifest: Manifest) -> dict[str, int]:
    """The number of kernels of each of :data:`QUANTIZED_KERNELS` that must run, from the manifest's quantized nodes.

    8-bit floats have no kernels on the CPU: their products run in float32. Lookups of rows with one scale are plain
    Gathers.
    """
    lookups = {node.name for node in manifest.selection.nodes if node.role == "embedding"} if manifest.selection else {}
    named = dict.fromkeys(QUANTIZED_KERNELS, 0)
    for node in manifest.quantized:
        if node.weight_dtype.startswith("float8"):
            continue
        if node.weight_dtype in ("nf4", "fp4"):
            named["bnb4_matmuls"] += 1
        elif node.activation != "none":
            named["integer_matmuls"] += 1
        elif node.block_size is not None:
            named["block_lookups" if node.name in lookups else "block_matmuls"] += 1
    return named
