"""Makes names, and texts that others wrote, safe for any chart, page, table, log or terminal."""

from __future__ import annotations

import os
import re

from qexport.core.errors import InputError

_HIDDEN = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # they move a terminal's cursor; XML cannot hold them, and charts abort the process
    "\xad\u180e\u200b\u2060-\u2064\ufeff"  # they take no room: two names would look alike
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # they turn the text behind them round
    "\u2028\u2029"  # they end a line in some programs and not in others
    "\ud800-\udfff"  # halves of characters: UTF-8 cannot hold them
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f"  # they annotate, are no characters, or are unseen tags
    "]"
)
_LINES = frozenset("\n\t")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shown(text: str, *, lines: bool = False) -> str:
    r"""The text with all invisible characters written out.

    A byte of a file name that is not UTF-8 is shown as that byte.

    Args:
        text: any string, also the name of a file.
        lines: leave line ends and tabs unchanged.

    >>> shown("int8\x1b[31m\u202e"), shown("caf\udce9"), shown("名前")
    ('int8\\x1b[31m\\u202e', 'caf\\xe9', '名前')
    """
    return _HIDDEN.sub(lambda found: found[0] if lines and found[0] in _LINES else _written(found[0]), text)


def require_utf8(path: str | os.PathLike[str]) -> None:
    """Refuse a path that ONNX Runtime cannot open.

    Raises:
        InputError: the name of the path, or of a folder around it, is not UTF-8.
    """
    try:
        os.path.abspath(path).encode()  # noqa: PTH100 (resolve would follow links)
    except UnicodeEncodeError as error:
        raise InputError(
            f"{shown(str(path))}: a path that is not UTF-8, which ONNX Runtime cannot open; rename the folder"
        ) from error


def _written(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # what Python makes of a byte that is not UTF-8
        code -= 0xDC00
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return _SHORT.get(character) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")
