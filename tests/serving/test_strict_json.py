"""What is JSON to one reader and something else to another is refused."""

from __future__ import annotations

import json

import pytest

from qexport.serving.strict_json import cut, has_more_values, loads, quoted


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Expecting value"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" occurs twice'),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "byte 0 is not UTF-8"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'{"\\udfff": 1, "\\udfff": 2}', "twice"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"1" * 5000, "limit"),
    ],
)
def test_what_is_refused(body, said):
    with pytest.raises(ValueError, match=said):
        loads(body)


def test_whole_pairs_and_other_escapes_are_read():
    assert loads(b'{"a": "\\ud83d\\ude00 \\u00fc \xc3\xbc"}') == {"a": "\U0001f600 \u00fc \u00fc"}


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ([1] * 50, 50),
        ([[]] * 50, 50),
        ([""] * 50, 50),
        ({str(key): [key] for key in range(50)}, 50),
        ([",,,,,\\", '"\\",,', ","] * 10, 30),
        (["\\" * 5 + '"' * 7 + "," * 9] * 10, 10),
    ],
)
def test_values_are_counted_without_those_inside_of_strings(value, values):
    body = json.dumps(value).encode()
    assert not has_more_values(body, values)
    assert has_more_values(body, values - 1)


def test_what_is_repeated_is_short():
    assert cut("a" * 80) == "a" * 80
    assert cut("a" * 81) == "a" * 80 + "..."
    assert len(quoted(["x"] * 100_000)) == 83
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert quoted(nested) == "..."
