"""A table for notebooks: displayed as HTML, and available as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from qexport.core import CATALOGUE
from qexport.report import facts
from qexport.report.figures import plain
from qexport.report.markdown import cell_lines
from qexport.report.table import Table, build_table, gaps

if TYPE_CHECKING:
    import pandas as pd

    from qexport.core import Measurement


class NotebookTable:
    """The table of a run: one row for each artifact, one column for each metric that has a figure."""

    def __init__(self, records: Sequence[Measurement], folder: Path | None = None) -> None:
        """Derive the table.

        Args:
            records: the run's measurements.
            folder: the report's folder, if one was written.
        """
        self.records = tuple(records)
        self.folder = folder
        self.table: Table = build_table(self.records)

    def to_pandas(self) -> pd.DataFrame:
        """The figures as numbers in the record's units (bytes, s, tokens/s): index rows, columns metrics; NaN for none.

        Example:
            >>> table = qexport.measure("fp32", "int8", metrics=["weight_bytes"])
            >>> frame = table.to_pandas()
            >>> bool(frame.loc["w8a16-rtn (all)", "weight_bytes"] < frame.loc["fp32", "weight_bytes"])
            True
        """
        import pandas as pd

        asked = [metric for metric in CATALOGUE if any(record.metric == metric for record in self.records)]
        shown = {column.metric for column in self.table.columns}
        columns = sorted(asked, key=lambda metric: metric not in shown)
        values = [
            [plain(row.cells[metric].figure) if metric in shown else None for metric in columns]
            for row in self.table.rows
        ]
        index = pd.Index([row.label for row in self.table.rows], name="row")
        return pd.DataFrame(values, index=index, columns=columns, dtype=float)

    def _repr_html_(self) -> str:
        """The HTML for Jupyter: figures with intervals, ratios and notes, as in ``report.md``."""
        head = "".join(f"<th>{escape(column.heading)}</th>" for column in self.table.columns)
        body = "".join(
            f"<tr><th>{escape(row.label)}</th>"
            + "".join(f"<td>{'<br>'.join(map(escape, cell_lines(row, column)))}</td>" for column in self.table.columns)
            + "</tr>"
            for row in self.table.rows
        )
        missing = "".join(f"<li>{escape(facts.gap_sentence(gap, self.table))}</li>" for gap in gaps(self.table))
        notes = f"<ul>{missing}</ul>" if missing else ""
        return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def __repr__(self) -> str:
        """The figures, for a terminal."""
        return f"qexport.Table\n{self.to_pandas()}"
