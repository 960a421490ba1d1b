"""Tiny artifacts of one model for the gate, a text, and what was measured of them: each thing once a session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qexport import quantization
from qexport.core.artifact import load_artifact
from qexport.core.selection import parse_selector
from qexport.gating.baseline import read_baseline
from qexport.gating.bench import GateOptions
from qexport.gating.budgets import GatePlan
from qexport.gating.pipeline import update
from qexport.measurement import bench, probing
from qexport.measurement.effect import idle, known_choices
from tests import in_process

NO_GRAPH = b"\x08\x07"
"""A model of ONNX that has a version and nothing else: it can be read, and does not run."""
QUESTIONS = Path(__file__).resolve().parent / "data" / "tasks"
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "then", "other", "was", "not", "here")
WINDOWS = 32
ONE = GateOptions(threads=1)
ON = GateOptions(threads=1, add_windows=True)
METRICS = ("perplexity", "sentence_perplexity", "disk_bytes", "weight_bytes")
"""What the shared baseline has."""


@dataclass(frozen=True)
class Gated:
    """A folder with ``fp32`` and ``int8``, a text, and the baseline of both; nothing in it must be written to."""

    folder: Path

    @property
    def fp32(self) -> Path:
        return self.folder / "fp32"

    @property
    def int8(self) -> Path:
        return self.folder / "int8"

    @property
    def both(self) -> list[Path]:
        return [self.fp32, self.int8]

    @property
    def text(self) -> Path:
        return self.folder / "text.txt"

    @property
    def baseline(self) -> Path:
        return self.folder / "gate.json"

    def plan(self, budgets: Any = None, **settings: Any) -> GatePlan:
        """A plan with these budgets, on the text of this folder and a few local questions."""
        common = {"text": self.text, "window": 24, "sentences": None, "tasks": {"data": QUESTIONS, "limit": 12}}
        made = GatePlan.model_validate({"budgets": budgets or {}, **common, **settings})
        unused = set(idle(known_choices(made.model_fields_set), made.metrics, ())) - settings.keys()
        common = {name: value for name, value in common.items() if name not in unused}
        return GatePlan.model_validate({"budgets": budgets or {}, **common, **settings})

    def config(self, path: Path, budgets: str) -> Path:
        """The same as a file of budgets."""
        scored = "perplexity" in budgets or "drift" in budgets
        text = f"text = {json.dumps(str(self.text))}\nwindow = 24\n" if scored else ""
        path.write_text(text + budgets)
        return path


def write_text(path: Path, *, documents: int = WINDOWS, seed: int = 0) -> Path:
    """A document for each window, each shorter than one."""
    rng = np.random.default_rng(seed)
    told = [" ".join(rng.choice(WORDS, size=int(rng.integers(6, 11)))).capitalize() for _ in range(documents)]
    path.write_text("\n<|endoftext|>\n".join(f"{each}." for each in told))
    return path


class Memory:
    """What was measured, each thing really and once: another row of the same files is not measured again."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}
        self._measure, self._evaluate = probing.measure, bench.evaluate
        self.asked: list[tuple[str, str, int]] = []
        """Row, probe and number of sequences, each time a child would be asked."""

    def measure(self, job: probing.Job) -> Any:
        tokens = job.tokens
        fed = tokens and (tokens.kind, tokens.origin, tokens.description, tokens.sha256)
        manifest = load_artifact(job.artifact).manifest.model_dump_json()
        key = (manifest, job.probe, fed, job.provider, job.threads, job.round, job.new_tokens)
        self.asked.append((job.row, job.probe, len(tokens.sequences) if tokens else 0))
        if job.distributions is not None:  # a file is written or read
            return self._measure(job)
        if key not in self._known:
            self._known[key] = self._measure(job)
        return [record.model_copy(update={"row": job.row, "run": job.run}) for record in self._known[key]]

    def evaluate(self, artifact: Any, tasks: Any, plan: Any, respondent: Any, place: Any) -> Any:
        data = {name: task.data_sha256 for name, task in tasks.items()}
        key = (artifact.manifest.model_dump_json(), json.dumps(data), plan.model_dump_json())
        if key not in self._known:
            self._known[key] = self._evaluate(artifact, tasks, plan, respondent, place)
        return [record.model_copy(update={"row": place.row, "run": place.run}) for record in self._known[key]]

    def install(self, patch: pytest.MonkeyPatch) -> None:
        in_process.install(patch)
        patch.setattr(probing, "measure", self.measure)
        patch.setattr(bench, "evaluate", self.evaluate)


@pytest.fixture(scope="session")
def memory() -> Memory:
    return Memory()


@pytest.fixture
def asked(memory, monkeypatch) -> list[tuple[str, str, int]]:
    """Measurements are remembered; the list says what of a gate was asked for."""
    memory.install(monkeypatch)
    del memory.asked[:]
    return memory.asked


@pytest.fixture(scope="session")
def gated(fp32, memory, tmp_path_factory) -> Gated:
    made = Gated(tmp_path_factory.mktemp("gated"))
    shutil.copytree(fp32("gpt2").path, made.fp32)
    quantization.quantize(str(made.fp32), made.int8, recipe_name="int8-dynamic", options={"engine": "ort"})
    write_text(made.text)
    budgets = {metric: {"at_most": 1.1, "of": "baseline"} for metric in METRICS}
    with pytest.MonkeyPatch.context() as patch:
        memory.install(patch)
        update(made.both, made.baseline, made.plan(budgets), ONE)
    return made


@pytest.fixture
def edited(gated, tmp_path) -> Callable[..., Path]:
    """``edited(change)`` is a copy of the baseline, once ``change`` had its values."""

    def edit(change: Callable[[Any], object]) -> Path:
        values = json.loads(gated.baseline.read_text())
        change(values)
        path = tmp_path / "edited.json"
        path.write_text(json.dumps(values))
        read_baseline(path)
        return path

    return edit


@pytest.fixture
def attention(gated, tmp_path) -> Path:
    """Another selection of nodes, in a folder of the same name."""
    folder = tmp_path / "attention" / "int8"
    quantization.quantize(
        str(gated.fp32),
        folder,
        recipe_name="int8-dynamic",
        selector=parse_selector("attention"),
        options={"engine": "ort"},
    )
    return folder
