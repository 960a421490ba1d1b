"""What a client must write: the tokens of torch for fp32 artifacts, of qexport's own runtime for quantized ones."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qexport.core.artifact import load_artifact
from qexport.inputs.location import Trust, locate
from qexport.inputs.models import load_tokenizer, load_torch_model, source_of, stop_ids
from qexport.runtime.decoding import generate, padded
from qexport.runtime.opening import open_session

MODELS = ("stories260K", "reference")
TEXTS = ("Once upon a time there was a little fox", "One day", "The owl and the rabbit went to the river to")
NEW_TOKENS = 24
PROGRAMS = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True)
class Case:
    """An artifact, prompts of unlike lengths, and the tokens that greedy decoding goes on with."""

    model: str
    """Where it was made from."""
    artifact: Path
    prompts: list[list[int]]
    wanted: list[list[int]]

    def batch(self, side: str, pad_id: int = 0) -> tuple[list[list[int]], list[list[int]]]:
        """All prompts as one padded batch, and its mask."""
        ids, mask = padded([np.array(prompt) for prompt in self.prompts], side, pad_id=pad_id)
        return ids.tolist(), mask.tolist()


def case_of(model: str, artifact: Path) -> Case:
    loaded = load_artifact(artifact)
    tokenizer = load_tokenizer(source_of(loaded))
    # Both models were trained on texts that begin with BOS; only one of the tokenizers adds it.
    prompts = [[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids] for text in TEXTS]
    if loaded.manifest.recipe == "fp32":
        wanted = [_by_torch(model, prompt) for prompt in prompts]
    else:
        wanted = [_by_qexport(artifact, prompt) for prompt in prompts]
    # Clients end at different places once a text is over: none of these is.
    assert not set(stop_ids(artifact, tokenizer)) & {token for row in wanted for token in row}
    return Case(model=model, artifact=artifact, prompts=prompts, wanted=wanted)


def _by_torch(model: str, prompt: list[int]) -> list[int]:
    import torch

    torch_model = load_torch_model(locate(model, None, Trust()))
    ids = torch.tensor([prompt])
    output = torch_model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


def _by_qexport(artifact: Path, prompt: list[int]) -> list[int]:
    session = open_session(load_artifact(artifact), threads=1)
    ids, mask = padded([np.array(prompt)], "left")
    decoder = session.decoder(batch=1, capacity=len(prompt) + NEW_TOKENS)
    return generate(decoder, ids, mask, new_tokens=NEW_TOKENS).tokens[0].tolist()


def ask(command: list[str | Path], request: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """Run a client's program, which reads JSON and answers JSON."""
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
