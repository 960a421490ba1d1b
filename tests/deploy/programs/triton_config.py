"""{paths} of config.pbtxt on stdin; what the server's own protobuf makes of them on stdout."""

from __future__ import annotations

import json
import sys

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2


def main() -> None:
    answers = []
    for path in json.load(sys.stdin)["paths"]:
        with open(path, encoding="utf-8") as file:
            config = text_format.Parse(file.read(), model_config_pb2.ModelConfig())
        again = text_format.Parse(text_format.MessageToString(config), model_config_pb2.ModelConfig())
        binary = model_config_pb2.ModelConfig.FromString(config.SerializeToString())
        told = json_format.MessageToDict(config, preserving_proto_field_name=True)
        answers.append({"config": told, "comes_back": again == config == binary})
    print(json.dumps({"configs": answers}))


main()
