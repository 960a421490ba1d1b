"""The one table of metrics: the name, the recorded unit and the meaning of each figure.

The table of probes (:mod:`qexport.measurement.probes`) says how a metric is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from qexport.core.errors import InputError, near_names

Unit = Literal["bytes", "s", "tokens/s", "tokens", "nats", ""]
Group = Literal["memory", "speed", "quality", "tasks", "session"]
Form = Literal[
    "size",
    "latency",
    "rounds",
    "count",
    "corpus",
    "sentences",
    "token_mean",
    "token_rms",
    "token_median",
    "token_p999",
    "accuracy",
    "answer",
]
"""The kind of the samples, which decides the statistics that may be made from them.

``size``: bytes, one sample, or one for each round. Columns: the metric's name, then ``round`` if there are several.
``latency``: seconds of many runs in each round. Columns: the metric's name, ``tokens``, ``round``.
``rounds``: seconds, or a rate, once a round. Columns: the metric's name, ``tokens``, ``round``.
``count``: a number once a round. Columns: the metric's name, ``round``.
``corpus``, ``sentences``: ``nll_nats``, ``tokens``, a sample for each sequence.
``token_mean``, ``token_rms``: the distance from the baseline, summed over the tokens of a window; for ``token_rms`` the
sum of squares. Columns: the metric's name, ``tokens``. The facts have ``rest_share``, the mean probability of the tokens
without an exact term, and ``rest_nats``, the mean part of the divergence that is estimated from a sample of them.
``token_median``, ``token_p999``: the distance of each token. Columns: the metric's name, ``window``.
``accuracy``: 1 or 0 for each question of a task, in the task's order. Column: ``correct``. The facts have
``task_version``, ``num_fewshot``, ``split``, ``stderr`` (as lm-eval computes it), ``data_sha256`` and ``truncated``
(contexts cut from the left).
``answer``: 1 or 0 once a round, columns as for ``count``; the facts have ``prompt``, ``response`` and ``expected``.
"""


@dataclass(frozen=True)
class Metric:
    """One figure, and every fact about it that a table, a chart or a gate shows."""

    name: str
    title: str
    _: KW_ONLY
    heading: str = ""
    """The title in a terminal's column, on two lines, with the unit; empty for title and unit."""
    unit: Unit
    group: Group
    form: Form
    meaning: str
    better: Literal["lower", "higher", "neither"] = "lower"
    task: str = ""
    """The task of lm-eval that yields the metric; empty if qexport measures the metric itself."""
    scored: str = ""
    """The metric's name in the results of the task: ``metric,filter``."""


_memory = partial(Metric, unit="bytes", group="memory", form="size")
_latency = partial(Metric, unit="s", group="speed", form="latency")
_time = partial(Metric, unit="s", group="speed", form="rounds")
_session_memory = partial(Metric, unit="bytes", group="session", form="size")
_session_time = partial(Metric, unit="s", group="session", form="rounds")
_distance = partial(Metric, unit="nats", group="quality")


def _task(task: str, scored: str, *, name: str, title: str, heading: str, meaning: str) -> Metric:
    return Metric(
        name,
        title,
        heading=heading,
        unit="",
        group="tasks",
        form="accuracy",
        meaning=meaning,
        better="higher",
        task=task,
        scored=scored,
    )


def _multiple_choice(task: str, title: str, questions: str) -> tuple[Metric, Metric]:
    """Accuracy, and accuracy with normalized log-likelihoods, of a task with choices."""
    return (
        _task(
            task,
            "acc,none",
            name=f"{task}_acc",
            title=title,
            heading="",
            meaning=f"Share of {questions} where the correct choice has the highest likelihood.",
        ),
        _task(
            task,
            "acc_norm,none",
            name=f"{task}_acc_norm",
            title=f"{title}, normalized",
            heading=f"{title},\nnormalized",
            meaning="The same with each choice's log-likelihood divided by its length in characters (lm-eval's acc_norm).",
        ),
    )


_TABLE = (
    _memory(
        "disk_bytes",
        "On disk",
        heading="On disk\nMB",
        meaning="The sizes of all files of the artifact, tokenizer and configuration included.",
    ),
    _memory(
        "weight_bytes",
        "Weights",
        heading="Weights\nMB",
        meaning="The bytes of the weights as stored, scales and zero points included, tied weights counted once. Published figures of a model's memory stand beside this one.",
    ),
    _memory(
        "loaded_rss_bytes",
        "Loaded",
        heading="Loaded\nMB",
        meaning="The resident memory that loading the artifact adds to a process whose runtime is warm: the weights, what the kernels pack of them, and the graph.",
    ),
    _memory(
        "peak_rss_bytes",
        "Peak memory",
        heading="Peak\nmemory MB",
        meaning="The highest resident memory of a fresh process that loads the artifact and runs a few sentences: interpreter and runtime are in it, so rows that need torch carry torch.",
    ),
    _memory(
        "final_private_bytes",
        "Private at the end",
        heading="Private at\nthe end, MB",
        meaning="Resident memory of that process after the sentences, of pages that no other process maps: what a second copy of the process would take again.",
    ),
    _memory(
        "final_shared_bytes",
        "Shared at the end",
        heading="Shared at\nthe end, MB",
        meaning="Resident memory after the sentences, of pages that other processes map too at that moment: code of libraries, and weights that are mapped from a file.",
    ),
    _memory(
        "loaded_device_bytes",
        "Loaded on device",
        heading="Loaded on\ndevice, MB",
        meaning="Bytes of tensors on the accelerator once the artifact is loaded, exact; the context is not among them.",
    ),
    _memory(
        "peak_device_bytes",
        "Peak device memory",
        heading="Peak\ndevice MB",
        meaning="The most bytes of tensors held on the accelerator at once while a few sentences ran, weights included: exact, the same count in both runtimes, the context not in it. Measured on CUDA only.",
    ),
    _latency(
        "latency_s",
        "Latency per sentence",
        heading="Sentence, ms\np50 / p95",
        meaning="Wall-clock time of one forward pass over one sentence, warm-ups left out. p50 and p95 are percentiles over all sentences and rounds, so their distance holds the sentences' lengths too.",
    ),
    _latency(
        "first_token_s",
        "First token",
        heading="First token, ms\np50 / p95",
        meaning="From handing over a prompt to its first new token, greedy, one prompt at a time.",
    ),
    _latency(
        "token_latency_s",
        "Per token",
        heading="Per token, ms\np50 / p95",
        meaning="Seconds for each new token after the first: the mean over one prompt's tokens is one sample. Every row makes the same number of tokens, whatever it says.",
    ),
    _latency(
        "generation_s",
        "Generation",
        heading="Generation, ms\np50 / p95",
        meaning="From handing over a prompt to its last new token: the first token and all others, one prompt at a time.",
    ),
    _time(
        "sequential_s",
        "All prompts in turn",
        heading="Prompts in\nturn, s",
        meaning="Seconds for the new tokens of all prompts, one prompt after another.",
    ),
    Metric(
        "tokens_per_s",
        "Tokens per second",
        heading="Tokens\nper s",
        unit="tokens/s",
        group="speed",
        form="rounds",
        meaning="New tokens of all prompts over the seconds they took, one prompt after another.",
        better="higher",
    ),
    _time(
        "batch_s",
        "All prompts at once",
        heading="Prompts at\nonce, s",
        meaning="Seconds for the new tokens of all prompts as one padded batch.",
    ),
    Metric(
        "batch_tokens_per_s",
        "Tokens per second, batch",
        heading="Batch,\ntokens/s",
        unit="tokens/s",
        group="speed",
        form="rounds",
        meaning="New tokens of all prompts over the seconds they took as one padded batch.",
        better="higher",
    ),
    Metric(
        "perplexity",
        "Perplexity",
        heading="Perplexity",
        unit="",
        group="quality",
        form="corpus",
        meaning="exp(Σ NLL / Σ tokens): the summed negative log-likelihood, in nats, over the number of scored tokens, over the same windows of text for every row. The interval is a 95 % percentile bootstrap over windows.",
    ),
    Metric(
        "sentence_perplexity",
        "Sentence perplexity",
        heading="Sentence\nperplexity",
        unit="",
        group="quality",
        form="sentences",
        meaning="The mean over sentences of each sentence's own perplexity. Short and unlikely sentences dominate it, so it is another figure than perplexity, and the two are never compared.",
    ),
    _distance(
        "kl_divergence",
        "KL divergence",
        heading="KL\ndivergence",
        form="token_mean",
        meaning="The mean over tokens of Σ p ln(p / q), in nats: p is the next-token distribution of the baseline of the run, and q that of the row, over the windows of perplexity. The 256 likeliest tokens of p are exact; the divergence among all others is estimated from 256 of them. The interval is a 95 % percentile bootstrap over windows.",
    ),
    _distance(
        "kl_divergence_median",
        "KL divergence, median",
        heading="KL,\nmedian",
        form="token_median",
        meaning="The median over tokens of the same divergence.",
    ),
    _distance(
        "kl_divergence_p999",
        "KL divergence, 99.9 %",
        heading="KL,\n99.9 %",
        form="token_p999",
        meaning="The 99.9th percentile over tokens of the same divergence: the worst token of a thousand.",
    ),
    _distance(
        "same_top_share",
        "Same top token",
        heading="Same top\ntoken",
        unit="",
        form="token_mean",
        meaning="The share of tokens where the row and the baseline of the run hold the same next token for the likeliest.",
        better="higher",
    ),
    _distance(
        "probability_change_rms",
        "Probability change",
        heading="Probability\nchange",
        unit="",
        form="token_rms",
        meaning="The root mean square over tokens of the change of the right token's probability from the baseline of the run.",
    ),
    *_multiple_choice("arc_easy", "ARC-Easy", "ARC's easy questions of school science"),
    *_multiple_choice("arc_challenge", "ARC-Challenge", "ARC's hard questions of school science"),
    *_multiple_choice("hellaswag", "HellaSwag", "HellaSwag's unfinished situations"),
    *_multiple_choice("piqa", "PIQA", "PIQA's questions about everyday tasks"),
    _task(
        "gsm8k",
        "exact_match,strict-match",
        name="gsm8k_strict",
        title="GSM8K, strict",
        heading="GSM8K,\nstrict",
        meaning="Share of GSM8K's word problems whose answer has the right number behind ####.",
    ),
    _task(
        "gsm8k",
        "exact_match,flexible-extract",
        name="gsm8k_flexible",
        title="GSM8K, flexible",
        heading="GSM8K,\nflexible",
        meaning="Share of GSM8K's word problems where the last number in the answer is the right one.",
    ),
    _multiple_choice("mmlu", "MMLU", "MMLU's questions from 57 subjects, each question with the same weight,")[0],
    _session_time(
        "total_s",
        "Whole session",
        meaning="Load, answer one prompt, free, in one fresh process, the import of the runtime left out; the parts stand beside it.",
    ),
    _session_time(
        "load_s",
        "Load",
        meaning="From the artifact's folder to a session that is ready, on the device where there is one.",
    ),
    _session_time(
        "checkpoint_load_s",
        "Read the weights",
        meaning="Reading the artifact's files of weights from disk, without making anything of them; the reads of the load proper then come from the page cache.",
    ),
    _session_time(
        "response_s",
        "Answer",
        meaning="The answer to one prompt, greedy, up to the end that the model chooses or the most tokens allowed.",
    ),
    _session_time("free_s", "Free", meaning="Letting the session go and giving its memory back."),
    _session_memory(
        "rss_start_bytes",
        "Process at the start",
        meaning="Resident memory of the process with the runtime imported and nothing loaded.",
        better="neither",
    ),
    _session_memory(
        "rss_end_bytes",
        "Process at the end",
        meaning="Resident memory of the process after the answer, the model still loaded.",
    ),
    _session_memory(
        "rss_increase_bytes", "Process, increase", meaning="Memory that the process gained between start and end."
    ),
    _session_memory(
        "system_start_bytes",
        "System at the start",
        meaning="Memory in use on the whole machine, all processes, caches not counted, before anything is loaded.",
        better="neither",
    ),
    _session_memory(
        "system_end_bytes",
        "System at the end",
        meaning="The same after the answer, the model still loaded.",
        better="neither",
    ),
    _session_memory(
        "system_increase_bytes",
        "System, increase",
        meaning="Growth of the machine's memory in use; other processes on it are in the figure.",
    ),
    _session_memory(
        "device_context_bytes",
        "Device context",
        meaning="Device memory that the runtime takes before any model: context, code and workspace, after one small product. It is read for the whole device, so other processes on it are in the figure.",
    ),
    _session_memory(
        "device_increase_bytes",
        "Device, increase",
        meaning="Growth of the whole accelerator's memory in use from there to the end of the answer.",
    ),
    Metric(
        "response_tokens",
        "Answer's length",
        unit="tokens",
        group="session",
        form="count",
        meaning="Tokens of the answer, its end mark left out.",
        better="neither",
    ),
    Metric(
        "response_correct",
        "Answer correct",
        unit="",
        group="session",
        form="answer",
        meaning="The answer contains one of the expected answers as whole words, in upper or lower case.",
        better="higher",
    ),
    Metric(
        "warning_count",
        "Warnings",
        unit="",
        group="session",
        form="count",
        meaning="Different warnings that Python, the libraries' loggers or the runtime gave on the way; their texts are in the records.",
    ),
)
CATALOGUE: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _TABLE})
"""Every metric by name, in the order in which tables show them."""

GROUPS: tuple[Group, ...] = ("memory", "speed", "quality", "tasks", "session")

DISTANCES: tuple[str, ...] = tuple(metric.name for metric in _TABLE if metric.form.startswith("token_"))
"""The metrics that compare a row with the baseline of its run, token by token."""

TASKS: tuple[str, ...] = tuple(dict.fromkeys(metric.task for metric in _TABLE if metric.task))
"""The tasks whose accuracies are metrics, by lm-eval's names."""


def metrics_of(task: str) -> tuple[Metric, ...]:
    """The metrics that a task yields."""
    return tuple(metric for metric in _TABLE if metric.task == task)


def require_known(names: Iterable[str]) -> None:
    """Make sure that metrics exist.

    Raises:
        InputError: a metric does not exist; the message has the near names.
    """
    for name in names:
        if name not in CATALOGUE:
            raise InputError(f"{name}: no such metric; {near_names(name, CATALOGUE)}")


def require_tasks(names: Iterable[str]) -> None:
    """Make sure that tasks exist.

    Raises:
        InputError: a task does not exist, or none is named; the message has the near names.
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
