"""Compares measurements with the baseline and the budgets: the checks of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from qexport.core import CATALOGUE, Interval, Measurement, NotComparable, QExportError, stats
from qexport.gating.baseline import Baseline, Seen, StoredFeed, structure_of
from qexport.gating.bench import GateBench
from qexport.gating.budgets import DISTANCES, DRIFT, LIKELIHOODS, SAME_RUN, SIZES, SPEEDS, Budget, GatePlan
from qexport.gating.explained import explained_nats, widened
from qexport.gating.verdict import Base, Bounds, Change, Check, RowVerdict
from qexport.quantization import WeightGrid
from qexport.report import COLUMN, Latency, Repeated, derive, distance, numbers, plain
from qexport.runtime import SATURATES

APPROVE = "if it is meant, approve it with `qexport gate --update`"
_NAMED = 3
"""The most nodes that a message names."""


class Judge:
    """Judges a gate's bench by its baseline and its budgets."""

    def __init__(self, bench: GateBench, stored: Baseline, plan: GatePlan) -> None:
        self._bench, self._stored, self._plan = bench, stored, plan

    def undecided(self) -> dict[str, list[str]]:
        """The rows whose likelihoods do not settle a budget yet, and fp32 with them, so that it has as many samples."""
        found: dict[str, list[str]] = {}
        fp32 = self._bench.fp32
        for name in self._bench.artifacts:
            for check in self._judged(name):
                metric = _measured(check.what)
                if check.outcome == "inconclusive" and metric in LIKELIHOODS:
                    rows = found.setdefault(metric, [])
                    beside = [fp32] if fp32 is not None and (fp32, metric) in self._bench.records else []
                    rows += [row for row in (*beside, name) if row not in rows]
        return found

    def row(self, name: str) -> RowVerdict:
        """The verdict of one row, with all its measurements."""
        bench = self._bench
        if name in bench.artifacts:
            checks = (*self._structure(name), *self._judged(name))
            changes = tuple(self._changes(name))
        else:
            missing = "missing: the baseline has this row, and no artifact in a folder of this name was given"
            reason = bench.problems.get(name, f"{missing}; {APPROVE}")
            checks, changes = (Check(what="artifact", outcome="fail", message=reason),), ()
        return RowVerdict(
            name=name, recipe=bench.recipe(name), checks=checks, changes=changes, line=self._stored.lines.get(name, 1)
        )

    def notes(self) -> Iterator[str]:
        """Other facts that a reader should know."""
        strange = [name for name in self._bench.artifacts if self._is_elsewhere(name)]
        if strange:
            records = [self._bench.scored(name) for name in strange]
            machine = next(record.conditions.machine for record in records if record is not None)
            yield (
                f"the kernels of this CPU ({machine}) are not in the baseline: {len(strange)} rows are held to the "
                "budgets of fp32, to the baseline's bytes, and to the drift that kernels explain; add this CPU with "
                "`qexport gate --add-cpu`, if the artifacts are known to be good"
            )
        delicate = [name for name in self._bench.artifacts if self._may_saturate(name)]
        if delicate:
            yield (
                f"{', '.join(delicate)}: int8 weights on the full grid, which CPUs without VNNI multiply wrongly; "
                "deploy to CPUs with VNNI only, or quantize with --weights int8-paired"
            )
        pairs = {
            (seen.ran.runtime, ran.runtime)
            for name in self._bench.artifacts
            if (seen := self._seen(name)) and (ran := self._bench.ran(name)).runtime and seen.ran.runtime
        }
        for before, now in sorted(pairs):
            if before != now:
                yield f"run by {now}, in the baseline by {before}"
        if any(check.outcome == "fail" for name in self._bench.artifacts for check in self._structure(name)):
            yield f"artifacts are not what the baseline has; {APPROVE}"

    def _budgets(self, name: str) -> Mapping[str, Sequence[Budget]]:
        return self._plan.of(self._bench.recipe(name))

    def _class(self, name: str) -> str:
        """The class of kernels in the baseline that a row is compared with: its own, otherwise the nearest."""
        row, record = self._stored.rows[name], self._bench.scored(name)
        if record is None:
            return row.kernel_class
        own = record.conditions.kernel_class
        return own if row.on(own) is not None else self._stored.nearest_class(name, record.conditions.isa)

    def _seen(self, name: str) -> Seen | None:
        """The baseline's figures that a row is compared with; None if the baseline has no such row."""
        row = self._stored.rows.get(name)
        return None if row is None else row.on(self._class(name))

    def _is_elsewhere(self, name: str) -> bool:
        """True if a row ran on kernels that the baseline has no figures for."""
        return (
            name in self._stored.rows
            and self._bench.scored(name) is not None
            and self._class(name) != self._bench.kernel_class(name)
        )

    def _may_saturate(self, name: str) -> bool:
        """True if the row's products are wrong on CPUs without VNNI."""
        manifest = self._bench.artifacts[name].manifest
        full = manifest.settings.get("weights") == WeightGrid.INT8.value
        return full and any(node.activation != "none" for node in manifest.quantized)

    def _structure(self, name: str) -> Iterator[Check]:
        """Checks the artifact's structure and the kernels that ran against the baseline."""
        row = self._stored.rows.get(name)
        if row is None:
            yield Check(what="baseline", outcome="fail", message=f"has no row in the baseline; {APPROVE}")
            return
        record = self._bench.scored(name)
        if record is not None and record.facts.get(SATURATES) and self._may_saturate(name):
            yield Check(
                what="kernels",
                outcome="fail",
                message="kernels: int8 weights on the full grid saturate on this CPU, which has no VNNI, so no figure here "
                "equals that of another CPU; quantize with --weights int8-paired",
            )
        now, ran, before = structure_of(self._bench.artifacts[name]), self._bench.ran(name), self._seen(name)
        pairs = {
            "recipe": (now.recipe, row.structure.recipe),
            "selection": (now.selection, row.structure.selection),
            "engine": (now.engine, row.structure.engine),
            "calibration text": (now.calibration[:12], row.structure.calibration[:12]),
        }
        if row.structure.float_channels is not None:
            pairs["channels in float"] = (str(now.float_channels or ""), str(row.structure.float_channels))
        if ran.providers and before is not None and before.ran.providers:
            pairs["providers"] = (", ".join(ran.providers), ", ".join(before.ran.providers))
            pairs["kernels that ran"] = (_counts(ran.kernels), _counts(before.ran.kernels))
        unlike = [
            Check(
                what=what,
                outcome="fail",
                message=f"{what}: {is_now or 'none'}, in the baseline {was or 'none'}",
            )
            for what, (is_now, was) in pairs.items()
            if is_now != was
        ]
        unlike += _nodes(_kinds(now.quantized), _kinds(row.structure.quantized))
        yield from unlike or [
            Check(
                what="structure",
                outcome="pass",
                message=f"{sum(map(len, now.quantized.values()))} quantized nodes, as in the baseline",
            )
        ]

    def _judged(self, name: str) -> Iterator[Check]:
        """A check for each budget of a row."""
        for metric, budgets in self._budgets(name).items():
            for budget in budgets:
                try:
                    yield self._judge(name, metric, budget)
                except QExportError as error:
                    yield _failed(metric, budget, str(error))

    def _judge(self, name: str, metric: str, budget: Budget) -> Check:
        """One figure against one budget.

        Raises:
            NotComparable: the divisor is missing, or was measured on another input.
        """
        measured = _measured(metric)
        record = self._bench.records[name, measured]
        if record.skipped is not None:
            return _failed(metric, budget, f"{_title(metric)} was not measured: {record.skipped}")
        reference = self._reference(record, budget.of)
        if metric in DISTANCES:
            found = distance(self._bench.records[name, metric], confidence=self._confidence(record))
        else:
            ratio = _compared(metric, record, reference, confidence=self._confidence(record))
            if ratio is None:
                raise NotComparable(
                    f"{_title(metric)}: {budget.of} has too few right answers to divide by; ask more questions"
                )
            found = ratio
        bounds = budget.bounds
        outcome = bounds.judge(found)
        message = _message(metric, budget, found)
        if outcome != "pass" and budget.of == "baseline" and metric not in SIZES and self._is_elsewhere(name):
            if self._bench.artifacts[name].sha256 == self._stored.rows[name].sha256:
                outcome = "pass"
                message += "; the artifact has the baseline's bytes, so this CPU's kernels explain it"
            elif measured in LIKELIHOODS:
                here, there = record.conditions.isa, self._stored.cpus.get(self._class(name))
                fma = there is not None and "avx2" in here and "avx2" in there.isa
                nats = explained_nats(self._bench.artifacts[name].manifest, fma=fma)
                bounds = widened(metric, bounds, nats)
                outcome = bounds.judge(found)
                message += f"; kernels of another CPU explain {nats:g} nats per token more"
        if outcome == "inconclusive":
            message += f"; {self._way_out(metric, record, bounds, found)}"
        return Check(what=metric, outcome=outcome, message=message, of=budget.of, found=found, bounds=bounds)

    def _confidence(self, record: Measurement) -> float:
        """Confidence level of an interval. All looks at a text share one risk, so repeated looks force no result."""
        looks = len(self._bench.lengths(record.row, record.metric)) if record.metric in LIKELIHOODS else 1
        return 1.0 - (1.0 - stats.CONFIDENCE) / looks

    def _reference(self, record: Measurement, of: Base) -> Measurement:
        """The divisor of a record, on the same sequences or questions.

        Raises:
            NotComparable: the divisor is missing, or was measured on another input.
        """
        name, metric, bench = record.row, record.metric, self._bench
        title, count = _title(metric), len(record.samples)
        if of == "baseline":
            kernel_class = None if metric in SIZES or name not in self._stored.rows else self._class(name)
            reference = self._stored.record(name, metric, count, kernel_class=kernel_class)
            if reference is None:
                raise NotComparable(f"{title}: the baseline has no such figure; {APPROVE}")
            if metric not in SIZES and (unlike := _unlike(self._stored.feeds[metric], bench.feed(name, metric))):
                raise NotComparable(f"{title}: {unlike} than in the baseline; {APPROVE}")
            return reference
        if bench.fp32 is None:
            raise NotComparable(f"{title}: no fp32 artifact was given that can be read, to divide by; name one")
        reference = bench.records[bench.fp32, metric]
        if reference.skipped is not None:
            raise NotComparable(
                f"{title}: fp32 was not measured ({reference.skipped}); take its budget out, or measure it elsewhere"
            )
        if metric not in (*SIZES, *SAME_RUN) and _unlike(bench.feed(bench.fp32, metric), bench.feed(name, metric)):
            raise NotComparable(f"{title}: {name} is fed other tokens than {bench.fp32}; its tokenizer is another one")
        if metric not in LIKELIHOODS:
            return reference
        if len(reference.samples) < count:
            raise NotComparable(
                f"{title}: fp32 was scored on {len(reference.samples):,} sequences, and this on {count:,}; give both the same text"
            )
        return reference.model_copy(update={"samples": reference.samples[:count]})

    def _way_out(self, metric: str, record: Measurement, bounds: Bounds, found: Interval) -> str:
        """The way to settle an inconclusive check, in words."""
        measured, count = _measured(metric), len(record.samples)
        if metric in SPEEDS:
            return "more rounds of timing may settle it"
        needed = bounds.samples_needed(found, count)
        if needed is None:
            return "it lies on the bound, so more text cannot settle it"
        more = max(1, needed - count)
        if measured not in LIKELIHOODS:
            return f"about {more:,} more questions would settle it"
        what = self._bench.tokens(record.row, measured).kind
        left = len(self._bench.tokens(record.row, measured).sequences) - count
        if not left:
            there = "the text is used up: give more text"
        elif left < more:
            there = f"the text has only {left:,} more"
        else:
            there = f"the text has {left:,} more, taken with --add-windows"
        return f"about {more:,} more {what} would settle it ({there})"

    def _changes(self, name: str) -> Iterator[Change]:
        """Every measured figure of a row."""
        for metric in self._plan.metrics:
            record = self._bench.records.get((name, metric))
            if record is None or record.skipped is not None:
                continue
            before, of_baseline = self._beside(record, "baseline")
            _, of_fp32 = self._beside(record, "fp32") if name != self._bench.fp32 else (None, None)
            now = plain(derive(record, None))
            assert now is not None
            yield Change(metric=metric, now=now, before=before, of_baseline=of_baseline, of_fp32=of_fp32)

    def _beside(self, record: Measurement, of: Base) -> tuple[float | None, Interval | None]:
        """The divisor of a record, and the ratio; None if it has no divisor."""
        if record.metric in DISTANCES or (of == "baseline" and record.metric in SAME_RUN):
            return None, None
        if of == "fp32" and (self._bench.fp32, record.metric) not in self._bench.records:
            return None, None
        try:
            reference = self._reference(record, of)
            ratio = _compared(record.metric, record, reference, confidence=self._confidence(record))
            return plain(derive(reference, None)), ratio
        except QExportError:
            return None, None


def wanted_rows(bench: GateBench, plan: GatePlan) -> dict[str, list[str]]:
    """The rows to measure for each metric: those with a budget for the metric, and fp32 if it is the divisor."""
    wanted: dict[str, list[str]] = {_measured(metric): [] for metric in plan.metrics}
    for name in bench.artifacts:
        for metric, budgets in plan.of(bench.recipe(name)).items():
            rows = wanted[_measured(metric)]
            fp32 = [bench.fp32] if bench.fp32 and any(budget.of == "fp32" for budget in budgets) else []
            rows += [row for row in (*fp32, name) if row not in rows]
    return wanted


def _unlike(before: StoredFeed, now: StoredFeed) -> str:
    """The difference between two inputs; empty if they are equal. A text with another name may be the same text."""
    if (before.sha256, before.tokens) != (now.sha256, now.tokens):
        return (
            "measured on another text" if before.text != now.text else "fed other tokens, of another tokenizer or text,"
        )
    return "asked in another way" if before.plan_sha256 != now.plan_sha256 else ""


def _measured(metric: str) -> str:
    """The metric whose measurement yields a budget's figure."""
    return "perplexity" if metric in (DRIFT, *DISTANCES) else metric


def _title(metric: str) -> str:
    return DRIFT if metric == DRIFT else numbers.lowered(CATALOGUE[metric].title)


def _failed(metric: str, budget: Budget, message: str) -> Check:
    return Check(what=metric, outcome="fail", message=message, of=budget.of, bounds=budget.bounds)


def _compared(metric: str, record: Measurement, reference: Measurement, *, confidence: float) -> Interval | None:
    """The ratio of two records, or the drift of the first; None if the reference cannot be a divisor."""
    form = CATALOGUE[record.metric].form
    if form == "size":
        ratio = record.samples[0][0] / reference.samples[0][0]
        return Interval(value=ratio, low=ratio, high=ratio)
    if form == "accuracy":
        return stats.accuracy_ratio(*(np.array(one.samples)[:, 0] for one in (record, reference)))
    if form not in {"corpus", "sentences"}:
        figure = derive(record, reference)
        return figure.ratio if isinstance(figure, Latency | Repeated) else None
    (nll, tokens), (base, _) = (np.array(one.samples).T for one in (record, reference))
    if metric == DRIFT:
        return stats.drift(nll, base, tokens, confidence=confidence)
    if form == "corpus":
        return stats.perplexity_ratio(nll, base, tokens, confidence=confidence)
    return stats.mean_ratio(np.exp(nll / tokens), np.exp(base / tokens), confidence=confidence)


def _message(metric: str, budget: Budget, found: Interval) -> str:
    """The result, and the allowed range."""
    if metric in DISTANCES:
        unit = f" {COLUMN[metric].unit}" if COLUMN[metric].unit else ""
        value, low, high = (numbers.significant(each) for each in (found.value, found.low, found.high))
        return f"{_title(metric)} {value}{unit} from {budget.of} ({low} to {high}), {_allowed(budget)}"
    decimals = 5 if metric == DRIFT else numbers.ratio_digits(COLUMN[metric])
    value, low, high = (numbers.ratio_value(each, decimals) for each in (found.value, found.low, found.high))
    spread = "" if low == high else f" ({low} to {high})"
    where = "nats per token from the baseline" if metric == DRIFT else f"of {budget.of}"
    return f"{_title(metric)} {value} {where}{spread}, {_allowed(budget)}"


def _allowed(budget: Budget) -> str:
    sides = [f"at least {budget.at_least:g}"] if budget.at_least is not None else []
    sides += [f"at most {budget.at_most:g}"] if budget.at_most is not None else []
    return f"{' and '.join(sides)} allowed"


def _counts(kernels: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(kernels.items()))


def _kinds(quantized: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The quantization of each node."""
    return {name: kind for kind, names in quantized.items() for name in names}


def _nodes(now: Mapping[str, str], before: Mapping[str, str]) -> Iterator[Check]:
    """The differences between the nodes quantized now and before."""
    differences = {
        "no longer quantized": sorted(before.keys() - now.keys()),
        "quantized and were not": sorted(now.keys() - before.keys()),
        "quantized in another way": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    parts = []
    for what, names in differences.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}")
    if parts:
        message = f"quantized nodes: {len(now)}, in the baseline {len(before)}; {'; '.join(parts)}"
        yield Check(what="quantized nodes", outcome="fail", message=message)
