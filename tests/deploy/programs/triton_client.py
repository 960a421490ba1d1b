"""tritonclient as its users call it: {address, asked: [{model, inputs}]} on stdin, the streamed answers on stdout.

All that is asked goes out at once, each over a connection of its own. ``stop_after`` cancels after so many tokens.
"""

from __future__ import annotations

import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton

TYPES = {"text_input": ("BYTES", object)}


def main() -> None:
    request = json.load(sys.stdin)
    calls = [Call(request["address"], **one) for one in request["asked"]]
    print(json.dumps({"answers": [call.answer() for call in calls]}))


class Call:
    def __init__(self, address, *, model, inputs, stop_after=None):
        self.client = triton.InferenceServerClient(address)
        self.results = queue.Queue()
        self.stop_after = stop_after
        given = []
        for name, values in inputs.items():
            kind, dtype = TYPES.get(name, ("INT64", np.int64))
            array = np.array(values, dtype)
            tensor = triton.InferInput(name, list(array.shape), kind)
            tensor.set_data_from_numpy(array)
            given.append(tensor)
        self.client.start_stream(callback=lambda result, error: self.results.put((result, error)))
        self.client.async_stream_infer(model, given)

    def answer(self):
        """Tokens of each row, text of each row, and the error."""
        steps, texts, problem = [], [], ""
        while True:
            result, error = self.results.get(timeout=60)
            if error is not None:
                problem = error.message()
                break
            steps.append(result.as_numpy("token_ids").tolist())
            if (text := result.as_numpy("text_output")) is not None:
                texts.append([row.decode() for row in text])
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
            if len(steps) == self.stop_after:
                self.client.stop_stream(cancel_requests=True)
                return {"rows": np.array(steps).T.tolist(), "texts": [], "error": "stopped"}
        self.client.stop_stream()
        joined = ["".join(row) for row in zip(*texts, strict=True)]
        return {"rows": np.array(steps).T.tolist(), "texts": joined, "error": problem}


main()
