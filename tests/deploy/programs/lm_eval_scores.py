"""lm-eval's own ONNX models: {backend, folder, max_length, pairs} on stdin, log-likelihoods and greedy matches on stdout."""

from __future__ import annotations

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model


def main() -> None:
    request = json.load(sys.stdin)
    model = get_model(request["backend"])(pretrained=request["folder"], max_length=request["max_length"])
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=place)
        for place, pair in enumerate(request["pairs"])
    ]
    scores = model.loglikelihood(asked, disable_tqdm=True)
    print(json.dumps({"scores": [[float(score), bool(greedy)] for score, greedy in scores]}))


main()
