"""Score windows of tokens with artifacts, on whatever CPU this process runs, native or emulated.

Usage: python -m tests.cpus.score WINDOWS.npz ANSWER.json ARTIFACT...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from qexport.artifact import load_artifact
from qexport.errors import QExportError
from qexport.metrics.perplexity import sequence_nll
from qexport.runtime import SATURATES, open_session


def main(windows: Path, answer: Path, artifacts: list[Path]) -> None:
    with np.load(windows) as archive:
        sequences = [archive[name] for name in archive.files]
    found = {}
    for path in artifacts:
        try:
            session = open_session(load_artifact(path), threads=1, observe="kernels")
        except QExportError as error:
            found[path.name] = {"error": str(error)}
            continue
        found[path.name] = {
            "kernel_class": session.kernel_class,
            "saturates": session.facts().get(SATURATES, 0),
            "nll": [sequence_nll(session.logits(sequence[None])[0], sequence) for sequence in sequences],
        }
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(each) for each in sys.argv[3:]])
