"""Protobuf's text format, limited to the needs of a model configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence


class Name(str):
    """A value of an enumeration, which is written without quotes."""

    __slots__ = ()


Scalar = str | int | bool | Name
Message = Mapping[str, "Scalar | Message | Sequence[Scalar] | Sequence[Message]"]
"""Fields in order. A repeated field is a sequence; an empty one is left out."""


def text(message: Message) -> str:
    r"""A message as text.

    >>> text({"name": "m", "input": [{"data_type": Name("TYPE_INT64"), "dims": [-1]}]})
    'name: "m"\ninput {\n  data_type: TYPE_INT64\n  dims: [-1]\n}\n'
    """
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.items():
        if isinstance(value, str | int):
            yield f"{indent}{field}: {_scalar(value)}"
            continue
        items = [value] if isinstance(value, Mapping) else value
        scalars = [_scalar(item) for item in items if isinstance(item, str | int)]
        if scalars:
            yield f"{indent}{field}: [{', '.join(scalars)}]"
        for item in items:
            if isinstance(item, Mapping):
                yield from _block(field, item, indent)


def _block(field: str, message: Message, indent: str) -> Iterator[str]:
    yield f"{indent}{field} {{"
    yield from _lines(message, f"{indent}  ")
    yield f"{indent}}}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Name):
        return str(value)
    return json.dumps(value)  # the text format accepts JSON's quotes and escapes
