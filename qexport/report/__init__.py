"""From records to what people read: a table on the terminal, report.md, report.html and charts."""

from __future__ import annotations

from qexport.report.folder import check_report_folder, write_report
from qexport.report.table import Table, build_table

__all__ = ["Table", "build_table", "check_report_folder", "write_report"]
