"""The command line as users type it, in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from qexport.cli.app import app


def qexport(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code == code, result.stderr
    return result


def failure(*words):
    """The one line that a command says when it fails with exit code 3, and nothing on stdout."""
    result = qexport("--quiet", *words, code=3)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("qexport: ")
    return result.stderr
