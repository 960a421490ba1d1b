"""Score every artifact here and on emulated CPUs, and print the table of docs/results/cpus.md.

    python -m benchmarks.cpus runs/gate/artifacts --text models/reference/held_out_evaluation.jsonl

Needs ``qemu-x86_64`` (Debian's qemu-user). Drift is the root mean square of the change of each window, in nats per token.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qexport import inputs
from qexport.core import cpu, stats
from qexport.core.artifact import Artifact, load_artifact
from qexport.core.record import Measurement
from qexport.core.version import VERSION
from qexport.gating.explained import arithmetic
from qexport.gating.pipeline import artifacts_in
from qexport.inputs.models import load_tokenizer
from qexport.inputs.text import load_text, make_windows
from qexport.measurement import probing
from qexport.measurement.job import Job
from qexport.runtime.session import SATURATES
from tests.cpus.emulator import CPUS, Emulated, missing

WINDOWS, LENGTH = 4, 96


def scored(artifact: Artifact, job: Job, emulated: Emulated | None) -> Measurement:
    """The log-likelihoods of one artifact, here or there."""
    if emulated is None:
        (record,) = probing.measure(job)
        return record
    answer = emulated.ask(job, artifact, job.tokens)
    (record,) = probing._records(job, artifact, ["perplexity"], answer)
    return record


def drift(record: Measurement, reference: Measurement) -> float:
    (nll, tokens), (base, _) = (np.array(one.samples).T for one in (record, reference))
    return float(stats.drift(nll, base, tokens).value)


def table(found: Mapping[str, Mapping[str, float]], columns: list[str], kinds: Mapping[str, str]) -> list[str]:
    lines = [f"| row | arithmetic | {' | '.join(columns)} |", "|---|---|" + "---:|" * len(columns)]
    for name, drifts in found.items():
        cells = [f"{drifts[column]:.6f}" if column in drifts else "-" for column in columns]
        lines.append(f"| {name} | {kinds[name]} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--cpus", nargs="*", default=list(CPUS), choices=list(CPUS))
    parser.add_argument("--json", type=Path, help="also write the log-likelihoods there")
    options = parser.parse_args()
    if reason := missing():
        print(reason, file=sys.stderr)
        return 3
    artifacts = [load_artifact(path) for folder in options.artifacts for path in artifacts_in(folder)]
    artifacts = [each for each in artifacts if each.manifest.kind == "onnx"]
    source = inputs.source_of(artifacts[0])
    tokens = make_windows(load_text(options.text), load_tokenizer(source), window=options.length, limit=options.windows)
    here = {each.path.name: each for each in artifacts}
    kinds = {name: arithmetic(each.manifest) for name, each in here.items()}
    processes = {name: Emulated(CPUS[name]) for name in options.cpus}
    found: dict[str, dict[str, float]] = {name: {} for name in here}
    classes: dict[str, str] = {}
    kept: dict[str, dict[str, list[float]]] = {name: {} for name in here}
    for name, artifact in here.items():
        job = Job(artifact=artifact.path, row=name, probe="perplexity", tokens=tokens, threads=1)
        native = scored(artifact, job, None)
        classes["here"] = native.conditions.kernel_class
        kept[name]["here"] = [nll for nll, _ in native.samples]
        for cpu_name, process in processes.items():
            began = time.monotonic()
            record = scored(artifact, job, process)
            title = CPUS[cpu_name].title
            found[name][title] = drift(record, native)
            kept[name][cpu_name] = [nll for nll, _ in record.samples]
            classes[title] = record.conditions.kernel_class + (
                ", u8 x s8 saturates" if record.facts.get(SATURATES) else ""
            )
            took = time.monotonic() - began
            print(f"{name} on {title}: {found[name][title]:.6f} ({took:.0f} s)", file=sys.stderr, flush=True)
    for process in processes.values():
        process.close()
    if options.json:
        options.json.write_text(json.dumps(kept))
    count = sum(len(sequence) - 1 for sequence in tokens.sequences)
    print(
        f"{source.name}: {len(tokens.sequences)} {tokens.description}, {count} tokens; here {cpu.cpu_name()}, qexport {VERSION}."
    )
    print("; ".join(f"class of {title}: {name}" for title, name in classes.items()) + ".\n")
    print("\n".join(table(found, [CPUS[name].title for name in options.cpus], kinds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
