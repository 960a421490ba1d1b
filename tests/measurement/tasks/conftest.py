"""Tiny models with tokenizers of the real kind, as artifacts, and a way to ask any model of lm-eval the same questions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from qexport.core.artifact import Artifact, load_artifact
from qexport.core.silence import quiet
from qexport.inputs.bundle import bundled
from qexport.inputs.experiment import Tasks
from qexport.measurement.answers import Here, Opened
from qexport.measurement.conditions import of_session
from qexport.measurement.tasks.load import LoadedTask
from qexport.runtime.opening import open_session
from tests.plants import planted
from tests.task_rows import write_mmlu

ROWS = Path(__file__).resolve().parent.parent.parent / "data" / "tasks"
SIX = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "gsm8k", "mmlu")
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.15}


@dataclass(frozen=True)
class Subject:
    """A model as Hugging Face saves it, and its fused fp32 artifact; neither must be written to."""

    source: Path
    artifact: Artifact


@pytest.fixture(scope="session")
def subject(request, tmp_path_factory) -> Callable[[str], Subject]:
    """``subject("llama")``; an export takes seconds, so all workers of a run share them."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "subjects"

    @cache
    def make(name: str) -> Subject:
        from qexport import exporting

        folder = shared / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            source = SOURCES[name](request, folder / name)
            if not (folder / "fp32").exists():
                exporting.export(str(source), folder / "fp32")
        return Subject(source, load_artifact(folder / "fp32"))

    return make


def _llama(_request, folder: Path) -> Path:
    """Of 512 positions, with the tokenizer of the bundled model, which adds no BOS."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        **WIDTH,
        vocab_size=1024,
        intermediate_size=56,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    return _save(folder, config, lambda auto: auto.from_pretrained(bundled("models/reference")))


def _gpt2(request, folder: Path) -> Path:
    """Of 1024 positions, with GPT-2's own tokenizer and vocabulary."""
    from transformers import GPT2Config, GPT2TokenizerFast

    place = request.getfixturevalue("data_dir") / "tokenizers" / "gpt2"
    files = {"vocab_file": str(place / "vocab.json"), "merges_file": str(place / "merges.txt")}
    return _save(folder, GPT2Config(**WIDTH), lambda _: GPT2TokenizerFast(**files))


def _stories(request, _folder: Path) -> Path:
    """Really trained, of 512 positions; its tokenizer adds BOS."""
    return request.getfixturevalue("data_dir") / "models" / "stories260K"


SOURCES = {"llama": _llama, "gpt2": _gpt2, "stories": _stories}


def _save(folder: Path, config: Any, tokenizer: Callable[[Any], Any]) -> Path:
    if not folder.exists():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer(AutoTokenizer).save_pretrained(folder)
    return folder


def changed(artifact: Artifact, folder: Path, change: Callable[[Path], None]) -> Artifact:
    """A copy of an artifact, once ``change`` had its folder."""
    return planted(artifact, folder, files=change)


@cache
def hf(source: Path, **settings: Any) -> Any:
    """lm-eval's own model of what an artifact was made from: the measure of all others."""
    import torch

    torch.set_num_threads(1)  # of tiny models, the rest is waiting
    with quiet():
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=str(source), **{"dtype": "float32", "batch_size": 1, "device": "cpu"} | settings)


def ours(artifact: Artifact, **settings: Any) -> Any:
    """The artifact as a model of lm-eval, answered for in this process."""
    from qexport.measurement.tasks.lm import ArtifactLM

    return ArtifactLM(artifact.path, Direct(artifact), **settings)


class Direct(Here):
    """Answers from this process where others are asked apart."""

    def __init__(self, artifact: Artifact) -> None:
        self.session = open_session(artifact, threads=1, observe="kernels")
        super().__init__(artifact, self.session)

    @property
    def opened(self) -> Opened:
        return Opened(conditions=of_session(self.session, {}), facts=self.session.facts())


def ask(model: Any, tasks: Mapping[str, LoadedTask], plan: Tasks) -> dict[str, Any]:
    """lm-eval's results of tasks, with all its samples."""
    with quiet():
        from lm_eval.evaluator import evaluate

        parts = {name: part for task in tasks.values() for name, part in task.parts.items()}
        for part in parts.values():
            part.set_fewshot_seed(plan.seed)
        return evaluate(
            lm=model,
            task_dict={"tasks": parts},
            samples={name: asked for task in tasks.values() for name, asked in task.asked.items()},
            system_instruction=plan.system_instruction,
            apply_chat_template=plan.apply_chat_template,
            fewshot_as_multiturn=plan.fewshot_as_multiturn,
        )


def tolerance(log_likelihood: float) -> float:
    """1e-4 nats, or one step of float32, in which lm-eval sums, where that is coarser."""
    return max(1e-4, float(np.spacing(np.float32(abs(log_likelihood)))))


def unlike(found: Any, wanted: Any) -> bool:
    """Whether two answers differ: texts, likelihoods with their greedy flags, or likelihoods of whole texts."""
    if isinstance(wanted, str):
        return found != wanted
    if isinstance(wanted, float):
        return not abs(found - wanted) <= tolerance(wanted)
    return unlike(found[0], wanted[0]) or bool(found[1]) != bool(wanted[1])


def some_subjects(task: LoadedTask) -> LoadedTask:
    """MMLU with three of its subjects."""
    names = list(task.parts)[::20]
    return replace(
        task, parts={name: task.parts[name] for name in names}, asked={name: task.asked[name] for name in names}
    )


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In which answers, predictions and figures two results of :func:`ask` differ, in words."""
    told = []
    assert found["samples"].keys() == wanted["samples"].keys()
    for task, samples in wanted["samples"].items():
        for one, other in zip(found["samples"][task], samples, strict=True):
            place = f"{task} {other['doc_id']}"
            keys = ("doc_id", "arguments", "target", "metrics", *other["metrics"])
            told += [f"{place}: {key} {one[key]} instead of {other[key]}" for key in keys if one[key] != other[key]]
            answers = zip(one["resps"], other["resps"], strict=True)
            told += [f"{place}: {a[0]!r} instead of {b[0]!r}" for a, b in answers if unlike(a[0], b[0])]
            if isinstance(other["resps"][0][0], str) and one["filtered_resps"] != other["filtered_resps"]:
                told.append(f"{place}: {one['filtered_resps']} instead of {other['filtered_resps']}")
        if found["results"][task] != wanted["results"][task]:
            told.append(f"{task}: {found['results'][task]} instead of {wanted['results'][task]}")
    return told


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """A folder with local questions of all six tasks; it must not be written to."""
    folder = shutil.copytree(ROWS, tmp_path_factory.mktemp("questions") / "tasks")
    write_mmlu(folder, questions=2, examples=3)
    return folder


@pytest.fixture
def hub(monkeypatch) -> Callable[..., None]:
    """``hub(rows, *splits)`` is what lm-eval gets from the hub: ``rows(path, name)`` by split, the others empty."""

    def put(rows: Callable[[str, str | None], Mapping[str, Any]], *splits: str) -> None:
        import datasets

        def load_dataset(path: str, name: str | None = None, **_given: Any) -> Any:
            found = rows(path, name)
            some = next(iter(found.values()))
            tables = {split: datasets.Dataset.from_list(list(found.get(split, some))) for split in splits}
            return datasets.DatasetDict(tables)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return put
