"""An InferenceService against KServe's own Python models, in an environment of their own."""

from __future__ import annotations

import pytest

from qexport.core.artifact import load_artifact
from qexport.deployment.layouts.kserve import LAYOUT, MANIFEST
from qexport.deployment.layouts.layout import Request
from tests.deploy.proof import PROGRAMS, ask

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def folder(artifact, tmp_path):
    request = Request(artifacts=[load_artifact(artifact("reference", "w4"))], name="w4", storage_uri="s3://models/w4")
    LAYOUT.write(request, tmp_path)
    return tmp_path


def understood(client, folder):
    return ask([client("kserve") / "bin" / "python", PROGRAMS / "kserve_service.py"], {"path": str(folder / MANIFEST)})


def test_the_models_of_kserve_understand_every_field(client, folder):
    found = understood(client, folder)
    assert found["type"] == "V1beta1InferenceService"
    assert found["written"]["apiVersion"] == found["kind"]
    assert found["understood"] == found["written"]
    assert found["understood"]["spec"]["predictor"]["model"]["storageUri"] == "s3://models/w4"


def test_a_field_that_kserve_has_not_would_be_noticed(client, folder):
    manifest = folder / MANIFEST
    manifest.write_text(manifest.read_text().replace("storageUri", "storageUrl"))
    found = understood(client, folder)
    assert "storageUrl" in found["written"]["spec"]["predictor"]["model"]
    assert "storageUrl" not in found["understood"]["spec"]["predictor"]["model"]
