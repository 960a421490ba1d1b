"""Escapes names and reasons for Markdown, so that they hold no markup and no link, and mention nobody."""

from __future__ import annotations

import re

from qexport.core import shown

_SPECIAL = re.compile(
    r"(?P<live>"
    r"[@#!~$%&^](?=[\w\"])"  # people, issues, merge requests, labels, snippets, milestones, epics, alerts
    r"|:(?=//|[0-9_+-]*+[a-z][a-z0-9_+-]*+:)"  # addresses and emoji
    r"|\b(?:www(?=\.)|gh(?=-[0-9])|mailto(?=:)|xmpp(?=:)))"
    r"|[\\`*_\[\]<>|#&~$]",
    re.IGNORECASE,
)
"""Markup, and the starts of text that GitHub and GitLab turn into links in the page, after escapes are gone."""
_APART = "&#8203;"
"""A zero-width space, which separates such first characters from the rest."""


def escaped(text: str) -> str:
    r"""One line of text without markup for Markdown and HTML, and without links and mentions for GitHub and GitLab.

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
"""Characters that are not markup themselves."""
