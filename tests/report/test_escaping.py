from __future__ import annotations

import html
import re

import pytest
from hypothesis import given, strategies as st

from qexport.core.display import shown
from qexport.report.escaping import escaped

LIVE = (
    r"@[\w\"]",
    r"(?i)\bwww\.",
    r"://",
    r"#\w",
    r"!\w",
    r"(?i)\bgh-[0-9]",
    r"(?i)mailto:",
    r"(?i):[0-9_+-]*[a-z][a-z0-9_+-]*:",
)
"""What GitHub and GitLab make a link or a call of, in the page that is made of the Markdown."""
TEXT = st.text(st.characters(exclude_categories=()), max_size=40) | st.lists(
    st.sampled_from(
        ["@", "a", "www.", "://", "#1", ":x:", "\u202e", "&", "|", "`", "*", "\\", "<", " ", "/close", "\x1b"]
    ),
    max_size=12,
).map("".join)


def page(text):
    """What a reader is shown of Markdown in which everything is text."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]<>|#&~$/])", lambda found: f"&#{ord(found[1])};", text))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("int8-static (attention), 50.5 % · A", "int8-static (attention), 50.5 % · A"),
        ("@octocat", "@&#8203;octocat"),
        ("www.evil.example", "www&#8203;.evil.example"),
        ("https://a.b", "https:&#8203;//a.b"),
        ("a\u202eb\x1b", r"a\\u202eb\\x1b"),
        ("see #12, !3 and GH-4", r"see \#&#8203;12, !&#8203;3 and GH&#8203;-4"),
        ("so :tada: at a.jsonl:3: it", "so :&#8203;tada: at a.jsonl:3: it"),
        ("/close", r"\/close"),
        ("a|b\n`c` <i>", r"a\|b \`c\` \<i\>"),
    ],
)
def test_a_name_is_text(text, written):
    assert escaped(text) == written


@given(TEXT)
def test_a_reader_sees_the_name_and_nothing_in_it_is_live(text):
    written = escaped(text)
    seen = page(written)
    assert seen.replace("\u200b", "") == shown(" ".join(text.split()))
    for live in LIVE:
        assert not re.search(live, seen), live
    assert not written.startswith("/")
    assert re.fullmatch(r"(?:\\.|&#8203;|[^\\`*_\[\]<>|#&~$\n])*", written)
