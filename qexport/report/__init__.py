"""From records to what people read: a table on the terminal, report.md, report.html and charts; of one run, or of several together."""

from __future__ import annotations

from qexport.report.folder import check_report_folder, write_report
from qexport.report.merge import merge
from qexport.report.table import Table, build_table

__all__ = ["Table", "build_table", "check_report_folder", "merge", "write_report"]
