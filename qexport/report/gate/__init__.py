"""What the gate says, for the terminal, for people who review, and for the services that run it."""

from __future__ import annotations

from qexport.report.gate.folder import write
from qexport.report.gate.markdown import summary

__all__ = ["summary", "write"]
