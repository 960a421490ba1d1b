"""KServe: an InferenceService next to a Triton model repository."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from qexport.core import Artifact, InputError
from qexport.deployment.layouts.device import runs_on_gpu
from qexport.deployment.layouts.layout import Laid, Layout, Request
from qexport.deployment.layouts.triton import repository

MANIFEST = "inferenceservice.yaml"
RUNTIME = "kserve-tritonserver"
"""KServe's serving runtime. Its own image is from 2023, whose ONNX Runtime has no fused attention."""
CONTAINER = "25.11-py3"
"""NVIDIA's container that replaces the image, with ONNX Runtime 1.23; see docs/deploy/triton.md."""
_SCHEMES = ("gs", "s3", "pvc", "hf", "https", "http", "hdfs", "webhdfs", "oci", "file")
_LONGEST_NAME = 50
"""The longest name. A DNS label has 63 characters, and KServe appends ``-predictor``."""
_SERVER_MIB = 1024
"""Memory of the server and its Python processes."""
_SHARED_MIB = 1024
"""Shared memory for logits and caches between these processes; by default a pod has 64 MiB."""


def write(request: Request, folder: Path) -> Laid:
    """Fill a Triton model repository, and describe the service for it.

    Raises:
        InputError: KServe cannot fetch the folder from the address, or the name cannot name a service.
        UnsupportedHere: see :func:`qexport.deployment.layouts.triton.repository.check`.
        ContractError: see :func:`qexport.deployment.layouts.triton.repository.check`.
    """
    (artifact,) = request.artifacts
    scheme, mark, _ = request.storage_uri.partition("://")
    if not mark or scheme not in _SCHEMES:
        raise InputError(
            f"--storage-uri {request.storage_uri or 'is not given'}: KServe fetches the folder from an address that begins with "
            f"{', '.join(f'{known}://' for known in _SCHEMES[:4])} or another that KServe knows; give the address of the folder"
        )
    laid = repository.write(request, folder)
    yaml = _service(artifact, service_name(request.name), request.storage_uri)
    (folder / MANIFEST).write_text(yaml, encoding="utf-8", newline="\n")
    return Laid(
        models=laid.models, changes={**laid.changes, MANIFEST: f"the service, served from {request.storage_uri}"}
    )


def service_name(name: str) -> str:
    """A name in the form of Kubernetes: a DNS label of small letters, digits and ``-``, which begins with a letter.

    Raises:
        InputError: no character of the name can be used.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    label = f"m-{label}" if label[:1].isdigit() else label
    if not label:
        raise InputError(f"{name}: has no letter or digit for the name of the service; rename the artifact's folder")
    return label[:_LONGEST_NAME].rstrip("-")


def memory_mib(artifact: Artifact) -> int:
    """The server's memory: the weights twice, as read and as repacked by ONNX Runtime, and room for itself."""
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
    check=repository.check,
    write=write,
    proved={"kserve": "0.21.0", **repository.LAYOUT.proved},
    options=frozenset({"storage_uri"}),
)
