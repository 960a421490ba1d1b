"""onnxruntime-genai as its users call it: {folder, prompts, batch, new_tokens, text} on stdin, the tokens on stdout."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime_genai as og


def main() -> None:
    request = json.load(sys.stdin)
    model = og.Model(request["folder"])
    tokenizer = og.Tokenizer(model)
    tokenizer.update_options(add_special_tokens="true")  # it adds none by itself, whatever the files say
    new = request["new_tokens"]
    alone = [generate(model, [prompt], new)[0] for prompt in request["prompts"]]
    answer = {
        "alone": alone,
        "batch": generate(model, request["batch"], new),
        "encoded": tokenizer.encode(request["text"]).tolist(),
        "streamed": streamed(tokenizer, alone[0]),
        "decoded": tokenizer.decode(np.array(alone[0], np.int32)),
        "version": og.__version__,
    }
    print(json.dumps(answer))


def generate(model: og.Model, rows: list[list[int]], new: int) -> list[list[int]]:
    ids = np.array(rows, np.int32)
    params = og.GeneratorParams(model)
    params.set_search_options(batch_size=len(rows), max_length=ids.shape[1] + new)
    generator = og.Generator(model, params)
    generator.append_tokens(ids if len(rows) > 1 else ids[0])
    steps = []
    while not generator.is_done():
        generator.generate_next_token()
        steps.append(generator.get_next_tokens().tolist())
    return np.array(steps).T.tolist()


def streamed(tokenizer: og.Tokenizer, tokens: list[int]) -> str:
    stream = tokenizer.create_stream()
    return "".join(stream.decode(token) for token in tokens)


main()
