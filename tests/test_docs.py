"""The pages for people: their links lead somewhere, their commands are commands, their words are plain."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
import typer

from qexport.cli.app import app
from qexport.gating import budgets
from tests.test_house import BANNED_WORDS, ROOMS, face

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
WRITTEN_BY_PROGRAMS = {*DOCS.glob("results/**/report.md"), DOCS / "python.md"}
TASK_PAGES = [DOCS / name for name in ("quantize.md", "measure.md", "gate.md", "deploy/README.md", "targets.md")]
AT_THE_TOP = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
LINKED = [*AT_THE_TOP, *(page for page in sorted(DOCS.rglob("*.md")) if page.name != "report.md")]
OLDER = ("results", "decisions")
PLAIN = [
    page
    for page in LINKED
    if page not in WRITTEN_BY_PROGRAMS and not (page.is_relative_to(DOCS) and page.relative_to(DOCS).parts[0] in OLDER)
]
MOST_WORDS = 700
AND = ("&&", ";")

_CODE = re.compile(r"^```(?s:.*?)^```$|^(?: {4}.*\n)+", re.MULTILINE)
_COMMAND = re.compile(r"(?:^ *(?:- run: )?|&& |; )qexport ")
_SPAN = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def named(path):
    return str(path.relative_to(ROOT))


def prose(text):
    return _SPAN.sub("", _CODE.sub("", text))


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page):
    """The relative links of a page that lead to no file, or to no heading of a page."""
    for link in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"\w+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", LINKED, ids=named)
def test_links_lead_to_files_and_headings(page):
    assert list(broken(page)) == []


def test_broken_links_are_seen(tmp_path):
    (tmp_path / "there.md").write_text("# There, *and* back\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](there.md) [b](there.md#there-and-back) [c](#page) [d](https://example.com)\n"
        "[e](away.md) ![f](away.png) [g](there.md#nowhere) [h](#nowhere) `[i](code.md)`\n\n    [j](code.md)\n"
    )
    assert list(broken(page)) == ["away.md", "away.png", "there.md#nowhere", "#nowhere"]


def code_lines(text):
    """The lines of fenced and indented code, those that a backslash continues joined."""
    for block in _CODE.findall(text):
        yield from block.replace("\\\n", " ").splitlines()


def commands(text):
    """The words of each qexport command in fenced or indented code."""
    for line in code_lines(text):
        if not _COMMAND.search(line):
            continue
        words = [*shlex.split(line, comments=True), *AND]
        while "qexport" in words:
            start = words.index("qexport")
            end = next(at for at in range(start, len(words)) if words[at] in AND)
            if start == 0 or words[start - 1] in {*AND, "run:"}:
                yield words[start + 1 : end]
            words = words[end + 1 :]


@functools.cache
def command_line():
    return typer.main.get_command(app)


def parse(words):
    """Parse a command line, and run nothing of it."""
    root = command_line()
    context = root.make_context("qexport", list(words))
    name, command, rest = root.resolve_command(context, [*context._protected_args, *context.args])
    return command.make_context(name, rest, parent=context)


def opening(page):
    """A page up to its second heading."""
    return re.split(r"^## ", page.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]


def test_commands_are_found():
    text = (
        "    qexport a -o b  # why\n    pip install qexport\n\n```console\nqexport --quiet c \\\n  'd e' && qexport f\n```\n"
        "qexport no code\n\n```yaml\n      - run: qexport g && other\n```\n"
    )
    assert list(commands(text)) == [["a", "-o", "b"], ["--quiet", "c", "d e"], ["f"], ["g"]]


@pytest.mark.parametrize(
    "words", ["quantize", "compare --recipe fp32", "deploy a --to nowhere -o b", "nothing", "gate --x"]
)
def test_wrong_commands_are_refused(words):
    with pytest.raises(Exception, match=r"(?i)no such|missing|not one of|required"):
        parse(words.split())


@pytest.mark.parametrize("page", TASK_PAGES, ids=named)
def test_a_task_page_opens_with_a_command(page):
    assert list(commands(opening(page)))


@pytest.mark.parametrize("page", [page for page in LINKED if page in PLAIN], ids=named)
def test_commands_parse(page):
    for words in commands(page.read_text(encoding="utf-8")):
        assert parse(words).command is not None


@pytest.mark.parametrize("page", PLAIN, ids=named)
def test_words_are_plain(page):
    assert BANNED_WORDS.findall(prose(page.read_text(encoding="utf-8"))) == []


def test_the_readme_is_one_page_with_one_picture_and_one_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert 6 <= len(rows) - 2 <= 8
    assert re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text) == ["docs/results/reference/perplexity.png"]
    assert len(re.sub(r"^\|.*$", "", text, flags=re.MULTILINE).split()) <= MOST_WORDS
    assert len(list(commands(text))) == 5


def test_every_page_is_in_the_index():
    index = DOCS / "README.md"
    linked = {(DOCS / link).resolve() for link in _LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in DOCS.rglob("*.md") if page != index} <= linked


def test_the_rows_of_the_readme_are_those_of_the_whole_table():
    """Figures; the last column says in other words what a row is for."""
    short, whole = (
        {line.rpartition("|")[0].rpartition("|")[0] for line in page.read_text(encoding="utf-8").splitlines()}
        for page in (ROOT / "README.md", DOCS / "quantize.md")
    )
    figures = {line for line in short if re.match(r"\| `.*\d", line)}
    assert len(figures) >= 6
    assert figures <= whole


def test_contributing_names_the_rooms_their_names_and_files_that_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named_rooms = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert sorted(named_rooms) == ROOMS
    for room, names in named_rooms.items():
        assert set(re.findall(r"`(\w+)`", names)) <= face(room)
    paths = {span for span in re.findall(r"`([^`\s]+)`", text) if "/" in span}
    assert len(paths) > 20
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_the_metrics_of_budgets_are_those_of_the_gate():
    text = (DOCS / "gate.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*) \| (yes|no) \| (yes|no) \|$", text, re.MULTILINE)
    listed = {metric: (fp32, baseline) for names, fp32, baseline in rows for metric in re.findall(r"`(\w+)`", names)}
    del listed["at_most"]
    assert listed.keys() == set(budgets.GATED)
    assert {metric for metric, bases in listed.items() if bases[1] == "no"} == set(budgets.SAME_RUN)
    assert [metric for metric, bases in listed.items() if bases[0] == "no"] == [budgets.DRIFT]
