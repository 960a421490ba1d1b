"""The table of test times by file, before and after a change, from two JUnit files.

    make test PYTEST_ARGS=--junitxml=before.xml       on the commit before
    make test PYTEST_ARGS=--junitxml=after.xml        on the commit after
    python benchmarks/test_times.py before.xml after.xml > table.md

A time is wall time with setup and teardown, summed over all workers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Times:
    tests: int = 0
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the times of two runs of the tests by file.")
    parser.add_argument("before", type=Path, help="JUnit file of the run before")
    parser.add_argument("after", type=Path, help="JUnit file of the run after")
    parser.add_argument("--at-least", type=float, default=1.0, help="seconds that give a file a row of its own")
    given = parser.parse_args()
    before, after = by_file(given.before), by_file(given.after)
    print("\n".join(table(before, after, given.at_least)))


def by_file(path: Path) -> dict[str, Times]:
    """Tests and seconds of each file."""
    try:
        cases = list(ET.parse(path).getroot().iter("testcase"))
    except (OSError, ET.ParseError) as error:
        sys.exit(f"{path}: cannot be read as a JUnit file: {error}")
    found: dict[str, Times] = {}
    for case in cases:
        times = found.setdefault(_file(case.get("classname", "")), Times())
        times.tests += 1
        times.seconds += float(case.get("time", "0"))
    return found


def _file(classname: str) -> str:
    """``tests.exporting.test_parity.TestClass`` is in ``tests/exporting/test_parity.py``."""
    parts = classname.split(".")
    paths = ["/".join(parts[:length]) + ".py" for length in range(len(parts), 0, -1)]
    return next((path for path in paths if (ROOT / path).is_file()), paths[0])


def table(before: Mapping[str, Times], after: Mapping[str, Times], at_least: float) -> list[str]:
    """Rows in Markdown, the slowest file of the run before first."""

    def row(name: str, one: Times, other: Times) -> str:
        return f"| {name} | {one.tests} | {other.tests} | {one.seconds:.1f} | {other.seconds:.1f} |"

    names = sorted(
        before.keys() | after.keys(),
        key=lambda name: (-before.get(name, Times()).seconds, -after.get(name, Times()).seconds, name),
    )
    pairs = {name: (before.get(name, Times()), after.get(name, Times())) for name in names}
    slow = {name: pair for name, pair in pairs.items() if max(times.seconds for times in pair) >= at_least}
    quick = [pair for name, pair in pairs.items() if name not in slow]
    rows = [row(f"`{name}`", *pair) for name, pair in slow.items()]
    if quick:
        rows.append(row(f"{len(quick)} files below {at_least:g} s", *_sums(quick)))
    return [
        "| file | tests before | after | seconds before | after |",
        "|---|---:|---:|---:|---:|",
        *rows,
        row("all", *_sums(list(pairs.values()))),
    ]


def _sums(pairs: list[tuple[Times, Times]]) -> tuple[Times, Times]:
    first, second = (
        Times(sum(pair[side].tests for pair in pairs), sum(pair[side].seconds for pair in pairs)) for side in (0, 1)
    )
    return first, second


if __name__ == "__main__":
    main()
