"""How often the gate catches what was planted, and how often it fails where nothing changed.

    make gate && python benchmarks/gate.py runs/gate/artifacts

Two experiments on the reference model, under the budgets of pyproject.toml, with real artifacts, real baselines and the
whole of the gate each time; about 40 minutes on two cores. The page goes to docs/results/gate.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks and tests are not installed
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models" / "reference"))

import grammar

from qexport.core import cpu
from qexport.core.artifact import Artifact, load_artifact
from qexport.gating.bench import GateOptions
from qexport.gating.budgets import GatePlan, load_gate_plan
from qexport.gating.pipeline import gate, update
from qexport.gating.verdict import Outcome, RowVerdict
from tests.plants import planted, scaled, scales, shifted, zero_points

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "docs" / "results" / "gate.md"
RUNS = 200
STORIES = 40
"""Of each run's own text: half of what the project's gate reads, so twice the variance."""
FIRST_SEED = 50_000
"""Of texts: far from those of training and of the bundled texts."""
PLANTED = ("int8-static-all", "int8-dynamic-all", "w8a16-rtn-all", "w4a16-rtn-all", "w4a16-gptq-all", "nf4-body")


@dataclass(frozen=True, kw_only=True)
class Plant:
    row: str
    kind: str
    name: str
    outcome: Outcome
    failed: frozenset[str]
    ratio: float
    drift: float


def plants(artifacts: Path, plan: GatePlan, work: Path) -> Iterator[Plant]:
    """Every scale and every zero point of some rows, each off by itself, held to the budgets of the baseline."""
    for row in PLANTED:
        artifact = load_artifact(artifacts / row)
        of_baseline = {
            metric: tuple(budget for budget in budgets if budget.of == "baseline")
            for metric, budgets in plan.of(artifact.manifest.recipe).items()
        }
        alone = plan.model_copy(update={"budgets": of_baseline, "recipes": {}})
        baseline = work / f"{row}.json"
        update([artifact.path], baseline, alone, GateOptions())
        kinds = {
            "scale off by 2 %": (scales(artifact.path), scaled),
            "zero point off by one": (zero_points(artifact.path), shifted),
        }
        for kind, (names, change) in kinds.items():
            for number, name in enumerate(names):
                folder = work / kind.replace(" ", "-").replace("%", "percent") / f"{number}" / row
                folder.parent.mkdir(parents=True, exist_ok=True)
                verdict = judged(planted(artifact, folder, files=change(name)), baseline, alone)
                found = {check.what: check.found.value for check in verdict.checks if check.found}
                plant = Plant(
                    row=row,
                    kind=kind,
                    name=name,
                    outcome=verdict.outcome,
                    failed=frozenset(check.what for check in verdict.checks if check.outcome == "fail"),
                    ratio=found["perplexity"],
                    drift=found["drift"],
                )
                print(plant, flush=True)
                yield plant


def judged(artifact: Artifact, baseline: Path, plan: GatePlan) -> RowVerdict:
    (row,) = gate([artifact.path], baseline, plan, GateOptions()).rows
    return row


def unchanged(artifacts: Path, plan: GatePlan, work: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Row, outcome and what did not pass of each run: other text each time, the row measured again on one thread."""
    rows = sorted(path.name for path in artifacts.iterdir() if path.name != "fp32-fused")
    for run in range(RUNS):
        row = rows[run % len(rows)]
        text = work / f"{run}.jsonl"
        text.write_text("".join(json.dumps(story) + "\n" for story in grammar.stories(FIRST_SEED + run, STORIES)))
        recipe = load_artifact(artifacts / row).manifest.recipe
        recipes = {name: budgets for name, budgets in plan.recipes.items() if name == recipe}
        own = plan.model_copy(update={"text": text, "recipes": recipes})
        paths, baseline = [artifacts / "fp32-fused", artifacts / row], work / f"{run}.json"
        update(paths, baseline, own, GateOptions())
        report = gate(paths, baseline, own, GateOptions(threads=1))
        troubles = tuple(check.message for each in report.rows for check in each.checks if check.outcome != "pass")
        print(run, row, report.outcome, *troubles, flush=True)
        yield row, report.outcome, troubles


def page(found: list[Plant], runs: list[tuple[str, str, tuple[str, ...]]]) -> str:
    failed, open_ = (sum(outcome == name for _, outcome, _ in runs) for name in ("fail", "inconclusive"))
    lines = [
        "# What the gate catches, and how often it is wrong",
        (
            f"Reference model, {cpu.cpu_name()}, {cpu.cores()} cores, onnxruntime {version('onnxruntime')}, qexport "
            f"{version('qexport')}, {datetime.now(UTC):%Y-%m-%d}; `python benchmarks/gate.py runs/gate/artifacts`, with the budgets of "
            "pyproject.toml: perplexity at most 1.0005 of the baseline, drift at most 0.0002 nats per token, of int8-static 0.001."
        ),
        "## Nothing changed",
        (
            f"{len(runs)} runs, each with a text of its own ({STORIES} stories of the model's grammar), a baseline made of it on all "
            "processors, and the same artifacts measured again on one thread, all recipes in turn: "
            f"**{failed} failed ({100 * failed / len(runs):.1f} %), {open_} were inconclusive, {len(runs) - failed - open_} passed.**"
        ),
        *([inconclusive(runs)] if failed + open_ else []),
        "## Planted",
        (
            "One scale, or one zero point, of one weight at a time; the manifest agrees with the file, as a faulty tool would leave it. "
            "A row fails where an interval is wholly outside its budget; one that is inconclusive does not pass either (exit code 4)."
        ),
        table(found),
        (
            "A perplexity moves as often for the better as for the worse when one layer is off, and by less than the text's noise: a "
            "budget of perplexity alone misses most of these. Drift, the root mean square of the change window by window, does not cancel. What "
            "passes has moved next to nothing."
        ),
    ]
    return "\n\n".join(lines) + "\n"


def inconclusive(runs: list[tuple[str, str, tuple[str, ...]]]) -> str:
    counts = Counter((row, outcome) for row, outcome, _ in runs if outcome != "pass")
    return (
        "Not passed: "
        + ", ".join(f"{row} {count} times {outcome}" for (row, outcome), count in sorted(counts.items()))
        + "."
    )


def table(found: list[Plant]) -> str:
    lines = [
        "| row | planted | weights | fails | inconclusive | passes | by perplexity | by drift | drift | perplexity ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row, kind in dict.fromkeys((plant.row, plant.kind) for plant in found):
        mine = [plant for plant in found if (plant.row, plant.kind) == (row, kind)]
        drifts, ratios = [plant.drift for plant in mine], [plant.ratio for plant in mine]
        outcomes = Counter(plant.outcome for plant in mine)
        by = Counter(what for plant in mine for what in plant.failed)
        counts = [outcomes["fail"], outcomes["inconclusive"], outcomes["pass"], by["perplexity"], by["drift"]]
        lines.append(
            f"| {row} | {kind} | {len(mine)} | {' | '.join(map(str, counts))} "
            f"| {min(drifts):.5f} to {max(drifts):.5f} | {min(ratios):.4f} to {max(ratios):.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    artifacts = Path(sys.argv[1])
    plan = load_gate_plan(ROOT / "pyproject.toml")
    with tempfile.TemporaryDirectory(prefix="qexport-gate-bench-") as name:
        found = list(plants(artifacts, plan, Path(name)))
        runs = list(unchanged(artifacts, plan, Path(name)))
    RESULT.write_text(page(found, runs))


if __name__ == "__main__":
    main()
