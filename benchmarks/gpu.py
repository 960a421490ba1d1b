"""Every published table on the CUDA device of this machine, with the real models' shapes.

    python benchmarks/gpu.py                 # all experiments
    python benchmarks/gpu.py gpt2 mistral-7b # some
    python benchmarks/gpu.py --size tiny     # to see that everything runs

The models are stand-ins: their shapes decide time and memory, and their weights can be made anywhere. Reports go to
docs/results/gpu/NAME; a run that was cut short goes on where it ended. Without a device it says so and ends with code 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "gpu"
EXPERIMENTS = ("gpt2", "qwen2.5-3b", "phi-3-mini-128k-instruct", "mistral-7b", "llama-3-8b")
"""From the smallest to the largest."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS, metavar="NAME")
    parser.add_argument("--size", default="full", choices=("tiny", "medium", "full"))
    chosen = parser.parse_args()
    if unknown := set(chosen.experiments) - set(EXPERIMENTS):
        parser.error(f"{', '.join(sorted(unknown))}: no such experiment; they are {', '.join(EXPERIMENTS)}")
    failed = [name for name in chosen.experiments if not _compare(name, chosen.size)]
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def _compare(name: str, size: str) -> bool:
    """Whether an experiment came to its report; a row that cannot run is in it with the reason."""
    command = [sys.executable, "-m", "qexport", "compare", str(ROOT / "models" / f"{name}.toml"), "--resume"]
    command += ["--provider", "cuda", "--stand-in", "--stand-in-size", size, "-o", str(RESULTS / name)]
    print(" ".join(["qexport", *command[3:]]), flush=True)
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    main()
