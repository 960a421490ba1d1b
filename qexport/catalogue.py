"""The one table of metrics: what each figure is called, in which unit it is recorded, and what it means.

How a metric is measured is the business of ``qexport.measure``, how it is shown that of ``qexport.report``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from qexport.errors import InputError, near_names

Unit = Literal["bytes", "s", "tokens/s", "tokens", ""]
Group = Literal["memory", "speed", "quality", "tasks", "session"]
Form = Literal["size", "latency", "rounds", "count", "corpus", "sentences", "accuracy", "answer"]
"""What the samples are, and so which statistics may be made of them.

``size``: bytes, one sample, or one for each round. Columns: the metric's name, then ``round`` where there are several.
``latency``: seconds of many runs in each round. Columns: the metric's name, ``tokens``, ``round``.
``rounds``: seconds, or a rate, once a round. Columns: the metric's name, ``tokens``, ``round``.
``count``: a number once a round. Columns: the metric's name, ``round``.
``corpus``, ``sentences``: ``nll_nats``, ``tokens``, a sample for each sequence.
``accuracy``: 1 or 0 for each question of a task, in the task's order. Column: ``correct``. The facts have ``task_version``,
``num_fewshot``, ``split``, ``stderr`` (as lm-eval computes it), ``data_sha256`` and ``truncated`` (contexts cut from the left).
``answer``: 1 or 0 once a round, columns as ``count``; the facts have ``prompt``, ``response`` and ``expected``.
"""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure."""

    name: str
    title: str
    unit: Unit
    group: Group
    form: Form
    meaning: str
    better: Literal["lower", "higher", "neither"] = "lower"
    task: str = ""
    """The task of lm-eval that yields it; empty for what qexport measures itself."""
    scored: str = ""
    """What lm-eval calls it in the task's results: ``metric,filter``."""


_CHOSEN = "The part of {} for which the right choice is the likeliest."
_NORMALIZED = "The same with each choice's log-likelihood divided by its length in characters, as lm-eval's acc_norm."


_TABLE = (
    Metric(
        name="disk_bytes",
        title="On disk",
        unit="bytes",
        group="memory",
        form="size",
        meaning="The sizes of all files of the artifact, tokenizer and configuration included.",
    ),
    Metric(
        name="weight_bytes",
        title="Weights",
        unit="bytes",
        group="memory",
        form="size",
        meaning=(
            "The bytes of the weights as stored, scales and zero points included, tied weights counted once. "
            "Published figures of a model's memory stand beside this one."
        ),
    ),
    Metric(
        name="loaded_rss_bytes",
        title="Loaded",
        unit="bytes",
        group="memory",
        form="size",
        meaning=(
            "The resident memory that loading the artifact adds to a process whose runtime is warm: the weights, what "
            "the kernels pack of them, and the graph."
        ),
    ),
    Metric(
        name="peak_rss_bytes",
        title="Peak memory",
        unit="bytes",
        group="memory",
        form="size",
        meaning=(
            "The highest resident memory of a fresh process that loads the artifact and runs a few sentences: "
            "interpreter and runtime are in it, so rows that need torch carry torch."
        ),
    ),
    Metric(
        name="final_private_bytes",
        title="Private at the end",
        unit="bytes",
        group="memory",
        form="size",
        meaning=(
            "Resident memory of that process after the sentences, of pages that no other process maps: what a second "
            "copy of the process would take again."
        ),
    ),
    Metric(
        name="final_shared_bytes",
        title="Shared at the end",
        unit="bytes",
        group="memory",
        form="size",
        meaning=(
            "Resident memory after the sentences, of pages that other processes map too at that moment: code of "
            "libraries, and weights that are mapped from a file."
        ),
    ),
    Metric(
        name="loaded_device_bytes",
        title="Loaded on device",
        unit="bytes",
        group="memory",
        form="size",
        meaning="Bytes of tensors on the accelerator once the artifact is loaded, exact; the context is not among them.",
    ),
    Metric(
        name="peak_device_bytes",
        title="Peak device memory",
        unit="bytes",
        group="memory",
        form="size",
        meaning=(
            "The most bytes of tensors held on the accelerator at once while a few sentences ran, weights included: "
            "exact, the same count in both runtimes, the context not in it. Measured on CUDA only."
        ),
    ),
    Metric(
        name="latency_s",
        title="Latency per sentence",
        unit="s",
        group="speed",
        form="latency",
        meaning=(
            "Wall-clock time of one forward pass over one sentence, warm-ups left out. p50 and p95 are percentiles over "
            "all sentences and rounds, so their distance holds the sentences' lengths too."
        ),
    ),
    Metric(
        name="first_token_s",
        title="First token",
        unit="s",
        group="speed",
        form="latency",
        meaning="From handing over a prompt to its first new token, greedy, one prompt at a time.",
    ),
    Metric(
        name="token_latency_s",
        title="Per token",
        unit="s",
        group="speed",
        form="latency",
        meaning=(
            "Seconds for each new token after the first: the mean over one prompt's tokens is one sample. Every row makes "
            "the same number of tokens, whatever it says."
        ),
    ),
    Metric(
        name="generation_s",
        title="Generation",
        unit="s",
        group="speed",
        form="latency",
        meaning="From handing over a prompt to its last new token: the first token and all others, one prompt at a time.",
    ),
    Metric(
        name="sequential_s",
        title="All prompts in turn",
        unit="s",
        group="speed",
        form="rounds",
        meaning="Seconds for the new tokens of all prompts, one prompt after another.",
    ),
    Metric(
        name="tokens_per_s",
        title="Tokens per second",
        unit="tokens/s",
        group="speed",
        form="rounds",
        meaning="New tokens of all prompts over the seconds they took, one prompt after another.",
        better="higher",
    ),
    Metric(
        name="batch_s",
        title="All prompts at once",
        unit="s",
        group="speed",
        form="rounds",
        meaning="Seconds for the new tokens of all prompts as one padded batch.",
    ),
    Metric(
        name="batch_tokens_per_s",
        title="Tokens per second, batch",
        unit="tokens/s",
        group="speed",
        form="rounds",
        meaning="New tokens of all prompts over the seconds they took as one padded batch.",
        better="higher",
    ),
    Metric(
        name="perplexity",
        title="Perplexity",
        unit="",
        group="quality",
        form="corpus",
        meaning=(
            "exp(Σ NLL / Σ tokens): the summed negative log-likelihood, in nats, over the number of scored tokens, "
            "over the same windows of text for every row. The interval is a 95 % percentile bootstrap over windows."
        ),
    ),
    Metric(
        name="sentence_perplexity",
        title="Sentence perplexity",
        unit="",
        group="quality",
        form="sentences",
        meaning=(
            "The mean over sentences of each sentence's own perplexity. Short and unlikely sentences dominate it, "
            "so it is another figure than perplexity, and the two are never compared."
        ),
    ),
    Metric(
        name="arc_easy_acc",
        title="ARC-Easy",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_CHOSEN.format("ARC's easy questions of school science"),
        better="higher",
        task="arc_easy",
        scored="acc,none",
    ),
    Metric(
        name="arc_easy_acc_norm",
        title="ARC-Easy, normalized",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_NORMALIZED,
        better="higher",
        task="arc_easy",
        scored="acc_norm,none",
    ),
    Metric(
        name="arc_challenge_acc",
        title="ARC-Challenge",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_CHOSEN.format("ARC's hard questions of school science"),
        better="higher",
        task="arc_challenge",
        scored="acc,none",
    ),
    Metric(
        name="arc_challenge_acc_norm",
        title="ARC-Challenge, normalized",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_NORMALIZED,
        better="higher",
        task="arc_challenge",
        scored="acc_norm,none",
    ),
    Metric(
        name="hellaswag_acc",
        title="HellaSwag",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_CHOSEN.format("HellaSwag's situations to be continued"),
        better="higher",
        task="hellaswag",
        scored="acc,none",
    ),
    Metric(
        name="hellaswag_acc_norm",
        title="HellaSwag, normalized",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_NORMALIZED,
        better="higher",
        task="hellaswag",
        scored="acc_norm,none",
    ),
    Metric(
        name="piqa_acc",
        title="PIQA",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_CHOSEN.format("PIQA's questions of how to do things"),
        better="higher",
        task="piqa",
        scored="acc,none",
    ),
    Metric(
        name="piqa_acc_norm",
        title="PIQA, normalized",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_NORMALIZED,
        better="higher",
        task="piqa",
        scored="acc_norm,none",
    ),
    Metric(
        name="gsm8k_strict",
        title="GSM8K, strict",
        unit="",
        group="tasks",
        form="accuracy",
        meaning="The part of GSM8K's word problems whose written answer has the right number behind ####.",
        better="higher",
        task="gsm8k",
        scored="exact_match,strict-match",
    ),
    Metric(
        name="gsm8k_flexible",
        title="GSM8K, flexible",
        unit="",
        group="tasks",
        form="accuracy",
        meaning="The part of GSM8K's word problems in whose written answer the last number is the right one.",
        better="higher",
        task="gsm8k",
        scored="exact_match,flexible-extract",
    ),
    Metric(
        name="mmlu_acc",
        title="MMLU",
        unit="",
        group="tasks",
        form="accuracy",
        meaning=_CHOSEN.format("MMLU's questions of 57 subjects, every question counted alike,"),
        better="higher",
        task="mmlu",
        scored="acc,none",
    ),
    Metric(
        name="total_s",
        title="Whole session",
        unit="s",
        group="session",
        form="rounds",
        meaning=(
            "Load, answer one prompt, free, in one fresh process, the import of the runtime left out; the parts stand "
            "beside it."
        ),
    ),
    Metric(
        name="load_s",
        title="Load",
        unit="s",
        group="session",
        form="rounds",
        meaning="From the artifact's folder to a session that is ready, on the device where there is one.",
    ),
    Metric(
        name="checkpoint_load_s",
        title="Read the weights",
        unit="s",
        group="session",
        form="rounds",
        meaning=(
            "Reading the artifact's files of weights from disk, without making anything of them; the reads of the load "
            "proper then come from the page cache."
        ),
    ),
    Metric(
        name="response_s",
        title="Answer",
        unit="s",
        group="session",
        form="rounds",
        meaning="The answer to one prompt, greedy, up to the end that the model chooses or the most tokens allowed.",
    ),
    Metric(
        name="free_s",
        title="Free",
        unit="s",
        group="session",
        form="rounds",
        meaning="Letting the session go and giving its memory back.",
    ),
    Metric(
        name="rss_start_bytes",
        title="Process at the start",
        unit="bytes",
        group="session",
        form="size",
        meaning="Resident memory of the process with the runtime imported and nothing loaded.",
        better="neither",
    ),
    Metric(
        name="rss_end_bytes",
        title="Process at the end",
        unit="bytes",
        group="session",
        form="size",
        meaning="Resident memory of the process after the answer, the model still loaded.",
    ),
    Metric(
        name="rss_increase_bytes",
        title="Process, increase",
        unit="bytes",
        group="session",
        form="size",
        meaning="What the process took on between start and end.",
    ),
    Metric(
        name="system_start_bytes",
        title="System at the start",
        unit="bytes",
        group="session",
        form="size",
        meaning="Memory in use on the whole machine, all processes, caches not counted, before anything is loaded.",
        better="neither",
    ),
    Metric(
        name="system_end_bytes",
        title="System at the end",
        unit="bytes",
        group="session",
        form="size",
        meaning="The same after the answer, the model still loaded.",
        better="neither",
    ),
    Metric(
        name="system_increase_bytes",
        title="System, increase",
        unit="bytes",
        group="session",
        form="size",
        meaning="What the machine's memory in use grew by; other processes on it are in the figure.",
    ),
    Metric(
        name="device_context_bytes",
        title="Device context",
        unit="bytes",
        group="session",
        form="size",
        meaning=(
            "What the runtime takes of the accelerator before any model: context, code and workspace, after one small "
            "product. Of the whole device, so other processes on it are in the figure."
        ),
    ),
    Metric(
        name="device_increase_bytes",
        title="Device, increase",
        unit="bytes",
        group="session",
        form="size",
        meaning="What the whole accelerator's memory in use grew by from there to the end of the answer.",
    ),
    Metric(
        name="response_tokens",
        title="Answer's length",
        unit="tokens",
        group="session",
        form="count",
        meaning="Tokens of the answer, its end mark left out.",
        better="neither",
    ),
    Metric(
        name="response_correct",
        title="Answer correct",
        unit="",
        group="session",
        form="answer",
        meaning="Whether the answer holds one of the expected ones as whole words, whatever the case.",
        better="higher",
    ),
    Metric(
        name="warning_count",
        title="Warnings",
        unit="",
        group="session",
        form="count",
        meaning="Different warnings that Python, the libraries' loggers or the runtime gave on the way; their texts are in the records.",
    ),
)

CATALOGUE: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _TABLE})
"""Every metric by name, in the order in which tables show them."""

GROUPS: tuple[Group, ...] = ("memory", "speed", "quality", "tasks", "session")

TASKS: tuple[str, ...] = tuple(dict.fromkeys(metric.task for metric in _TABLE if metric.task))
"""The tasks whose accuracies are metrics, by lm-eval's names."""


def metrics_of(task: str) -> tuple[Metric, ...]:
    """The metrics that a task yields."""
    return tuple(metric for metric in _TABLE if metric.task == task)


def require_known(names: Iterable[str]) -> None:
    """Make sure that metrics exist.

    Raises:
        InputError: one does not; the message has the near names.
    """
    for name in names:
        if name not in CATALOGUE:
            raise InputError(f"{name}: no such metric; {near_names(name, CATALOGUE)}")


def require_tasks(names: Iterable[str]) -> None:
    """Make sure that tasks exist.

    Raises:
        InputError: one does not, or none is named; the message has the near names.
    """
    chosen = list(names)
    for name in chosen:
        if name not in TASKS:
            raise InputError(
                f"{name}: no such task here; {near_names(name, TASKS)} "
                "(all others of lm-eval's: lm_eval --model qexport)"
            )
    twice = next((name for name in chosen if chosen.count(name) > 1), None)
    if twice is not None or not chosen:
        raise InputError(
            f"{twice}: is there twice; leave one out" if twice else f"no task is named; known: {', '.join(TASKS)}"
        )
