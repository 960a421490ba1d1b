"""Write docs/python.md from the docstrings of the Python face: ``python -m tests.docs_page``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from qexport import api
from qexport.report.notebook import NotebookTable

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
VERBS = ("export", "nodes", "quantize", "measure", "compare", "gate", "deploy")
_OPENING = """# Python

    import qexport

    qexport.export("gpt2", "gpt2-fp32")
    qexport.quantize("gpt2-fp32", "gpt2-int8", recipe="int8-static")
    qexport.measure("gpt2-fp32", "gpt2-int8").to_pandas()

The verbs of the command line are functions, and their choices have the same names. The functions raise subclasses of
`qexport.QExportError` with the messages of the command line. `python -m tests.docs_page` writes this page
from the docstrings, and `make test` runs each example after `import qexport`.
"""
_SECTION = re.compile(r"^(Args|Returns|Raises|Example):$", re.MULTILINE)


def page() -> str:
    parts = [_OPENING, *(_section(f"qexport.{name}", getattr(api, name)) for name in VERBS)]
    parts += [_section("qexport.Table.to_pandas", NotebookTable.to_pandas)]
    return "\n".join(parts)


def _section(name: str, thing: object) -> str:
    text, *sections = _SECTION.split(inspect.getdoc(thing))
    lines = [f"## `{name}`", "", "```python", _signature(name, thing), "```", "", _plain(text), ""]
    for title, content in zip(sections[::2], sections[1::2], strict=True):
        body = inspect.cleandoc(content)
        lines += [f"**{title}**", ""]
        if title == "Example":
            lines += ["```python", body, "```"]
        elif title == "Returns":
            lines += [_plain(body)]
        else:
            lines += [
                f"- `{item}`: {_plain(told)}"
                for item, told in re.findall(r"^(\w[\w, ]*): ((?:.|\n(?!\w[\w, ]*: ))*)", body, re.MULTILINE)
            ]
        lines.append("")
    return "\n".join(lines)


def _signature(name: str, thing: object) -> str:
    parameters = inspect.signature(thing).parameters
    lines = []
    starred = False
    for key, each in parameters.items():
        if key == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not starred:
            lines.append("    *,")
        starred = starred or each.kind in {each.KEYWORD_ONLY, each.VAR_POSITIONAL}
        star = "*" if each.kind is each.VAR_POSITIONAL else ""
        default = "" if each.default is each.empty else f" = {each.default!r}"
        lines.append(f"    {star}{key}: {each.annotation}{default},")
    return "\n".join([f"{name}(", *lines, ")"]) if lines else f"{name}()"


def _plain(text: str) -> str:
    """A docstring's words as Markdown: one line, with code in single backquotes."""
    words = re.sub(r":(?:class|func|mod|meth|data):`~?([^`]+)`", r"`\1`", text)
    return re.sub(r"\s*\n\s*", " ", words.replace("``", "`")).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
