"""Writes the report's folder completely or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qexport.core import (
    RECORDS_NAME,
    Measurement,
    check_replaceable,
    progress,
    require_utf8,
    shown,
    whole_folder,
    write_records,
)
from qexport.report import charts, html, markdown
from qexport.report.table import build_table


def check_report_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder that must not be replaced; called before long work starts.

    Raises:
        InputError: the folder exists and ``overwrite`` is not set, it is not a report, or its path is
            not UTF-8.
    """
    require_utf8(folder)
    ours = (folder / RECORDS_NAME).is_file()
    check_replaceable(folder, f"a report, it has no {RECORDS_NAME}", is_ours=ours, overwrite=overwrite)


def write_report(
    records: Sequence[Measurement],
    folder: Path,
    *,
    title: str,
    overwrite: bool = False,
    artifacts: Path | None = None,
) -> None:
    """Write ``report.md``, ``report.html``, the charts as PNG and SVG, and ``records.jsonl``.

    Everything is written to a hidden folder next to ``folder``; at the end one rename puts it in place.

    Args:
        records: the measurements of one compare run, or of several (:func:`qexport.report.merge.merge_runs`).
        folder: the report's folder.
        title: the title of the report.
        overwrite: if True, replace an existing report.
        artifacts: a folder on the same disk; the same rename makes it the report's folder ``artifacts``.

    Raises:
        InputError: see :func:`check_report_folder`, or the records are empty.
        NotComparable: the records have different conditions, see :func:`qexport.report.table.build_table`.
    """
    title = shown(title)
    table = build_table(records)
    with (
        whole_folder(folder, lambda path: check_report_folder(path, overwrite=overwrite)) as beside,
        progress.task("writing the report", total=len(charts.CHARTS)) as advance,
    ):
        drawn = []
        for chart in charts.CHARTS:
            picture = charts.svg(chart, table)
            if picture is not None:
                (beside / f"{chart.name}.svg").write_text(picture, encoding="utf-8")
                (beside / f"{chart.name}.png").write_bytes(charts.png(picture))
                drawn.append(chart)
            advance()
        (beside / "report.md").write_text(markdown.markdown(table, title=title, charts=drawn), encoding="utf-8")
        (beside / "report.html").write_text(html.page(table, title=title, charts=drawn), encoding="utf-8")
        write_records(beside / RECORDS_NAME, records)
        if artifacts is not None:
            artifacts.rename(beside / "artifacts")
