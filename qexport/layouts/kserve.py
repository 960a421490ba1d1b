"""KServe: an InferenceService beside a Triton model repository."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from qexport.artifact import Artifact
from qexport.errors import InputError
from qexport.layouts import Laid, Layout, Request, triton
from qexport.layouts.device import runs_on_gpu

MANIFEST = "inferenceservice.yaml"
RUNTIME = "kserve-tritonserver"
"""The serving runtime that KServe brings; its own image is of 2023, whose ONNX Runtime knows no fused attention."""
CONTAINER = "25.11-py3"
"""NVIDIA's container to use in its place, with ONNX Runtime 1.23; see docs/deploy/triton.md."""
_SCHEMES = ("gs", "s3", "pvc", "hf", "https", "http", "hdfs", "webhdfs", "oci", "file")
_LONGEST_NAME = 50
"""Of 63 characters of a DNS label: KServe puts ``-predictor`` behind it."""
_SERVER_MIB = 1024
"""The server and its Python processes."""
_SHARED_MIB = 1024
"""Memory that they hand each other logits and caches in; a pod has 64 MiB of it by itself."""


def write(request: Request, folder: Path) -> Laid:
    """Fill a Triton model repository, and describe the service that serves it.

    Raises:
        InputError: no address that KServe can fetch the folder from, or a name that no service can have.
        UnsupportedHere: see :func:`qexport.layouts.triton.check`.
        ContractError: see :func:`qexport.layouts.triton.check`.
    """
    (artifact,) = request.artifacts
    scheme, mark, _ = request.storage_uri.partition("://")
    if not mark or scheme not in _SCHEMES:
        raise InputError(
            f"--storage-uri {request.storage_uri or 'is not given'}: KServe fetches the folder from an address that begins with "
            f"{', '.join(f'{known}://' for known in _SCHEMES[:4])} or another of its kinds; say where the folder will lie"
        )
    laid = triton.write(request, folder)
    yaml = _service(artifact, service_name(request.name), request.storage_uri)
    (folder / MANIFEST).write_text(yaml, encoding="utf-8", newline="\n")
    return Laid(
        models=laid.models, changes={**laid.changes, MANIFEST: f"the service, served from {request.storage_uri}"}
    )


def service_name(name: str) -> str:
    """A name as Kubernetes takes it: a DNS label of small letters, digits and ``-``, which begins with a letter.

    Raises:
        InputError: nothing is left of it.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    label = f"m-{label}" if label[:1].isdigit() else label
    if not label:
        raise InputError(f"{name}: no letter or digit to call the service by; rename the artifact's folder")
    return label[:_LONGEST_NAME].rstrip("-")


def memory_mib(artifact: Artifact) -> int:
    """What the server needs: the weights twice, as read and as ONNX Runtime repacks them, and room for itself."""
    return _SERVER_MIB + _SHARED_MIB + 2 * math.ceil(artifact.disk_bytes / 2**20)


def _service(artifact: Artifact, name: str, storage_uri: str) -> str:
    gpu = ['nvidia.com/gpu: "1"'] if runs_on_gpu(artifact) else []
    lines = [
        "apiVersion: serving.kserve.io/v1beta1",
        "kind: InferenceService",
        "metadata:",
        f"  name: {name}",
        "  annotations:",
        f"    qexport/artifact-sha256: {json.dumps(artifact.sha256)}",
        "spec:",
        "  predictor:",
        "    model:",
        "      modelFormat:",
        "        name: triton",
        "      protocolVersion: v2",
        f"      runtime: {RUNTIME}",
        f"      runtimeVersion: {CONTAINER}",
        f"      storageUri: {json.dumps(storage_uri)}",
        "      resources:",
    ]
    for kind in ("requests", "limits"):
        lines += [f"        {kind}:", '          cpu: "2"', f"          memory: {memory_mib(artifact)}Mi"]
        lines += [f"          {device}" for device in gpu]
    lines += [
        "      volumeMounts:",
        "        - name: shared-memory",
        "          mountPath: /dev/shm",
        "    volumes:",
        "      - name: shared-memory",
        "        emptyDir:",
        "          medium: Memory",
        f"          sizeLimit: {_SHARED_MIB}Mi",
    ]
    return "\n".join(lines) + "\n"


LAYOUT = Layout(
    runtime="KServe",
    check=triton.check,
    write=write,
    proved={"kserve": "0.21.0", **triton.LAYOUT.proved},
    options=frozenset({"storage_uri"}),
)
