from .baseline import Baseline as Baseline
from .bench import GateOptions as GateOptions
from .budgets import load_gate_plan as load_gate_plan
from .pages.data import gate_json as gate_json
from .pages.folder import write_gate_pages as write_gate_pages
from .pages.github import workflow_commands as workflow_commands
from .pages.markdown import gate_summary as gate_summary
from .pages.terminal import render_gate as render_gate
from .pipeline import add_cpu as add_cpu, gate as gate, gate_against as gate_against, update as update
from .verdict import GateReport as GateReport
