"""{path} of a manifest on stdin; what KServe's own Python models make of it on stdout.

Their deserializer drops a field that it does not know, so what comes back is what was understood.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import yaml
from kserve import constants, models
from kubernetes import client


def main() -> None:
    with open(json.load(sys.stdin)["path"], encoding="utf-8") as file:
        written = yaml.safe_load(file)
    for name in dir(models):
        setattr(client.models, name, getattr(models, name))  # KServe's are looked up among those of Kubernetes
    api = client.ApiClient()
    written["spec"]["predictor"]["model"].setdefault("name", "")  # as KServe's model has it by itself
    service = api.deserialize(SimpleNamespace(data=json.dumps(written)), "V1beta1InferenceService")
    print(
        json.dumps(
            {
                "kind": f"{constants.KSERVE_GROUP}/{constants.KSERVE_V1BETA1_VERSION}",
                "type": type(service).__name__,
                "written": written,
                "understood": api.sanitize_for_serialization(service),
            }
        )
    )


main()
