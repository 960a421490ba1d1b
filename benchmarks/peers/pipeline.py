"""qexport against its peers on the same model and the same tokens; the page is docs/results/peers.md."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.figures import PACKAGES
from benchmarks.peers import texts
from benchmarks.peers.measuring import Quality, time_all
from benchmarks.peers.page import PAGE, RECORDS, write_page
from benchmarks.peers.rows import BASELINE, MODEL, ROWS, Row
from benchmarks.peers.runner import Runner
from benchmarks.peers.workshop import Skipped, Workshop, model_bytes
from qexport.core import cpu
from qexport.inputs import NO_TRUST, locate
from qexport.inputs.packages import packaged


def peers(work: Path) -> None:
    """Measure every row that this machine can, keep the records as they come, and write the page."""
    source = locate(MODEL, None, NO_TRUST)
    windows = list(texts.evaluation(source, work))
    calibration = texts.calibration(source, work)
    workshop = Workshop(work, {"gguf": packaged(MODEL), "hf": source.path, "calibration": calibration.file})
    quality = Quality(windows, work)
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    with RECORDS.open("w") as records, contextlib.ExitStack() as stack:

        def keep(**record: Any) -> None:
            records.write(json.dumps(record) + "\n")
            records.flush()

        keep(run=_conditions(windows))
        runners: dict[str, Runner] = {}
        for row in ROWS:
            try:
                runner, record = _measured(row, workshop, quality, work)
            except Skipped as error:
                if row is BASELINE:
                    raise
                record = {"skipped": str(error)}
            else:
                stack.callback(runner.close)
                runners[row.label] = runner
            keep(row=row.label, tool=row.tool, settings=row.settings, **record)
            print(f"{row.label}: {record.get('skipped', 'measured')}", flush=True)
        keep(load_before=os.getloadavg())
        for label, found in time_all(runners, windows[-1].sequences[0]):
            keep(times=label, **found)
        keep(load_after=os.getloadavg())
    write_page(RECORDS, PAGE)


def _measured(row: Row, workshop: Workshop, quality: Quality, work: Path) -> tuple[Runner, dict[str, Any]]:
    folder, made_s = workshop.make(row)
    runner = Runner(row.program, folder, work / "runner.log")
    try:
        scores = quality.score(runner)
    except Skipped:
        runner.close()
        raise
    record = {
        "version": runner.version,
        "made_s": round(made_s, 1),
        "model_bytes": model_bytes(folder),
        "peak_rss_bytes": runner.peak_rss_bytes,
        "quality": scores,
    }
    return runner, record


def _conditions(windows: list[texts.Windows]) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu.cpu_name(),
        "isa": cpu.isa(),
        "cores": cpu.cores(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "windows": {text.name: [len(text.sequences), texts.WINDOW] for text in windows},
    }
