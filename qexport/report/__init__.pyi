from . import numbers as numbers
from .escaping import escaped as escaped
from .evidence import Evidence as Evidence, EvidenceFigure as EvidenceFigure, find_evidence as find_evidence
from .figures import Latency as Latency, Repeated as Repeated, derive as derive, distance as distance, plain as plain
from .folder import check_report_folder as check_report_folder, write_report as write_report
from .merge import merge_runs as merge_runs
from .notebook import NotebookTable as NotebookTable
from .numbers import (
    listed as listed,
    no_difference as no_difference,
    ratio_with_interval as ratio_with_interval,
    significant as significant,
)
from .table import COLUMN as COLUMN, COLUMNS as COLUMNS, Column as Column, build_table as build_table
from .terminal import render_table as render_table
