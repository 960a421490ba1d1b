"""The figures qexport promises, measured against the peers in one run: quality on trained models, cost on GPT-2's shapes.

    python benchmarks/run.py             # all
    python benchmarks/run.py quality     # perplexity ratios of every recipe, on stories260K and the reference model
    python benchmarks/run.py outliers    # the same models with activation outliers
    python benchmarks/run.py gpt2        # size, speed, time and memory on GPT-2 124M shapes (random weights)
    python benchmarks/run.py generation  # the generation loop on the same shapes, against the bare session and Optimum's
    python benchmarks/run.py tasks       # ARC-Challenge on the same shapes, against lm-eval's own two models for ONNX
    python benchmarks/run.py peers       # SmolLM2-135M-Instruct by every peer, on a page of its own: docs/results/peers.md

The table goes to stdout and, from a whole run (all but the peers), to docs/results/benchmarks.md with the machine it was measured on. Exit
code 1 says that a promise is not kept.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks and tests are not installed

from benchmarks.figures import report
from benchmarks.generation import generation
from benchmarks.gpt2 import gpt2
from benchmarks.peers.pipeline import peers
from benchmarks.quality import outliers, quality
from benchmarks.tasks import tasks
from benchmarks.trained import ROOT

RESULT = ROOT / "docs" / "results" / "benchmarks.md"
PARTS = {"quality": quality, "outliers": outliers, "gpt2": gpt2, "generation": generation, "tasks": tasks}
PAGES = {"peers": peers}
"""Parts that write a page of their own, without promises."""


def main() -> None:
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := set(chosen) - PARTS.keys() - PAGES.keys():
        sys.exit(f"{', '.join(sorted(unknown))}: no such part; the parts are {', '.join([*PARTS, *PAGES])}")
    figures = []
    with tempfile.TemporaryDirectory(prefix="qexport-bench-") as name:
        os.environ["QEXPORT_CACHE"] = f"{name}/cache"
        for part in chosen:
            if part in PAGES:
                PAGES[part](Path(name))
                continue
            for figure in PARTS[part](Path(name)):
                print(figure.row(), flush=True)
                figures.append(figure)
    if chosen == list(PARTS):
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(report(figures))
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    sys.exit(0 if all(figure.kept for figure in figures) else 1)


if __name__ == "__main__":
    main()
