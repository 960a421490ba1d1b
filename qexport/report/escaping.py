"""Names and reasons inside Markdown: nothing in them is markup, is a link, or calls anybody."""

from __future__ import annotations

import re

from qexport.inputs.shown import shown

_SPECIAL = re.compile(
    r"(?P<live>"
    r"[@#!~$%&^](?=[\w\"])"  # people, issues, merge requests, labels, snippets, milestones, epics, alerts
    r"|:(?=//|[0-9_+-]*+[a-z][a-z0-9_+-]*+:)"  # addresses and emoji
    r"|\b(?:www(?=\.)|gh(?=-[0-9])|mailto(?=:)|xmpp(?=:)))"
    r"|[\\`*_\[\]<>|#&~$]",
    re.IGNORECASE,
)
"""Markup, and the beginnings of what GitHub and GitLab bring to life in the page that is made, where no escape is left."""
_APART = "&#8203;"
"""A space without width, which stands between such a beginning and the rest."""


def escaped(text: str) -> str:
    r"""Text in which Markdown and HTML see no markup, and services that show it no link and no name, on one line.

    >>> escaped("@me on www.host, #1 of a_b")
    '@&#8203;me on www&#8203;.host, \\#&#8203;1 of a\\_b'
    """
    line = shown(" ".join(text.split()))
    order = "\\" if line.startswith("/") else ""  # GitLab obeys /close at the start of a line
    return order + _SPECIAL.sub(_harmless, line)


def _harmless(found: re.Match[str]) -> str:
    text = found[0]
    whole = text if text.isalpha() or text in _PLAIN else f"\\{text}"
    return whole + (_APART if found["live"] else "")


_PLAIN = frozenset("@!%^:")
"""No markup of themselves."""
