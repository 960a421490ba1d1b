from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, strategies as st

from qexport.core.display import require_utf8, shown
from tests.inputs.conftest import refused

ANY = st.text(st.characters(exclude_categories=()), max_size=40)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("int8-static (attention) · A", "int8-static (attention) · A"),
        ("名前 é 👩\u200d👩", "名前 é 👩\u200d👩"),
        ("\x1b[31m\x00\x7f\x9b", r"\x1b[31m\x00\x7f\x9b"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egnp.exe\u2069\u200f", r"\u202egnp.exe\u2069\u200f"),
        ("in\u200bvisible\ufeff\U000e0041", r"in\u200bvisible\ufeff\U000e0041"),
        ("caf\udce9 \ud83d", r"caf\xe9 \ud83d"),
        ("\ufffe\uffff\u2028", r"\ufffe\uffff\u2028"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, written):
    assert shown(text) == written
    assert shown(written) == written


def test_line_ends_may_stay():
    assert shown("a\n\tb\r\x1b", lines=True) == "a\n\tb\\r\\x1b"


@given(ANY)
def test_any_format_holds_what_is_shown(text):
    written = shown(text)
    written.encode()
    assert ET.fromstring(ET.tostring(_element(written))).text == (written or None)
    assert not [
        character
        for character in written
        if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    ]
    assert not re.search(r"[\u200e\u200f\u061c]", written)


def _element(text):
    element = ET.Element("name")
    element.text = text
    return element


def test_a_path_that_is_not_utf8_is_refused(monkeypatch, tmp_path):
    require_utf8(tmp_path / "é\x1b")
    refused(lambda: require_utf8(Path("caf\udce9/out")), r"caf\xe9/out: a path that is not UTF-8", "rename")
    try:
        (tmp_path / "caf\udce9").mkdir()
    except OSError:
        return  # there are no such names here
    monkeypatch.chdir(tmp_path / "caf\udce9")
    refused(lambda: require_utf8("out"), "out: a path that is not UTF-8")
