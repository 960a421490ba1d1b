"""The ONNX Runtime backend's part, played in Triton's Python backend: runs the very model.onnx that lies beside this file.

What PyPI has of the server is built without the ONNX Runtime backend. As there, requests that the server's dynamic batcher
hands over together are one run, and inputs and outputs must be the graph's own.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

TYPES = {"tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(int64)": "TYPE_INT64"}


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [output["name"] for output in config["output"]]
        self.inputs = [given["name"] for given in config["input"]]
        for declared, own in (
            (config["input"], self.session.get_inputs()),
            (config["output"], self.session.get_outputs()),
        ):
            said = {tensor["name"]: (tensor["data_type"], list(map(int, tensor["dims"]))) for tensor in declared}
            has = {
                tensor.name: (TYPES[tensor.type], [dim if isinstance(dim, int) else -1 for dim in tensor.shape[1:]])
                for tensor in own
            }
            if said != has:
                raise pb_utils.TritonModelException(f"the configuration says {said}, the graph has {has}")
        self.log = Path(args["model_repository"]) / "runs.jsonl"

    def execute(self, requests):
        given = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
            for request in requests
        ]
        rows = [len(one["input_ids"]) for one in given]
        feeds = {name: np.concatenate([one[name] for one in given]) for name in self.inputs}
        with self.log.open("a") as log:
            shape = feeds["input_ids"].shape
            log.write(json.dumps({"rows": rows, "tokens": shape[1], "mask": feeds["attention_mask"].shape[1]}) + "\n")
        outputs = self.session.run(self.outputs, feeds)
        parts = [np.split(output, np.cumsum(rows)[:-1]) for output in outputs]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, part[index]) for name, part in zip(self.outputs, parts, strict=True)]
            )
            for index in range(len(requests))
        ]
