from __future__ import annotations

import pytest
import yaml

from qexport.core.artifact import Artifact
from qexport.core.errors import InputError
from qexport.deployment.layouts.kserve import LAYOUT, MANIFEST, memory_mib, service_name
from qexport.deployment.layouts.layout import Request


def service(artifact, folder, name="My Model.v2", storage_uri="s3://bucket/model"):
    LAYOUT.write(Request(artifacts=[artifact], name=name, storage_uri=storage_uri), folder)
    return yaml.safe_load((folder / MANIFEST).read_text())


def test_the_service_serves_the_repository_beside_it(fp32, tmp_path):
    found = service(fp32("llama"), tmp_path)
    model = found["spec"]["predictor"]["model"]
    assert (found["kind"], found["metadata"]["name"]) == ("InferenceService", "my-model-v2")
    assert found["metadata"]["annotations"] == {"qexport/artifact-sha256": fp32("llama").sha256}
    assert model["modelFormat"] == {"name": "triton"}
    assert (model["protocolVersion"], model["runtime"]) == ("v2", "kserve-tritonserver")
    assert model["storageUri"] == "s3://bucket/model"
    assert (tmp_path / "My-Model.v2" / "config.pbtxt").is_file()


def test_memory_follows_the_artifact_and_the_server_shares_enough(fp32, tmp_path):
    artifact = fp32("llama")
    predictor = service(artifact, tmp_path)["spec"]["predictor"]
    assert predictor["model"]["resources"]["requests"] == predictor["model"]["resources"]["limits"]
    assert predictor["model"]["resources"]["limits"] == {"cpu": "2", "memory": "2050Mi"}
    (volume,) = predictor["volumes"]
    assert predictor["model"]["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
    big = artifact.manifest.files[0].model_copy(update={"size_bytes": 300 * 2**20})
    grown = artifact.manifest.model_copy(update={"files": (big,)})
    assert memory_mib(Artifact(path=artifact.path, manifest=grown)) == 2048 + 2 * 301


def test_an_artifact_for_a_gpu_asks_for_one(fp32, tmp_path):
    manifest = fp32("llama").manifest.model_copy(update={"settings": {"target": "cuda"}})
    found = service(Artifact(path=fp32("llama").path, manifest=manifest), tmp_path)
    assert found["spec"]["predictor"]["model"]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("address", ["", "/models/x", "bucket/x", "ftp://host/x"])
def test_an_address_that_kserve_cannot_fetch_from_is_refused(fp32, tmp_path, address):
    with pytest.raises(InputError, match="--storage-uri"):
        service(fp32("llama"), tmp_path, storage_uri=address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "wanted"), [("W4_a16.x", "w4-a16-x"), ("8bit", "m-8bit"), ("-a-", "a"), ("x" * 49 + ".y", "x" * 49)]
)
def test_the_service_has_a_name_that_kubernetes_takes(name, wanted):
    assert service_name(name) == wanted


def test_a_name_without_letters_is_refused():
    with pytest.raises(InputError, match="rename"):
        service_name("茶")
