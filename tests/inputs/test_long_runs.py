"""Text of real logs and tables: a megabyte of one kind of character, at which nothing may hang.

The time is bounded from outside, in a process of its own: a regular expression cannot be interrupted.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

RUNS = {
    "spaces": "' ' * N",
    "tabs": "'\\t' * N",
    "dots": "'.' * N",
    "marks": "'!?' * (N // 2)",
    "newlines": "'\\n' * N",
    "letters": "'a' * N",
    "capitals": "'M' * N",
    "quotes": "'\"' * N",
    "closing quotes": "'’' * N",
    "digits": "'1' * N",
    "commas and digits": "'1,' * (N // 2)",
    "equals signs": "' =' * (N // 2)",
    "dotted digits": "'1.' * (N // 2)",
    "dotted spaces": "'. ' * (N // 2)",
    "dotted quotes": "'.\"' * (N // 2)",
    "spaces behind a mark": "'.' + ' ' * N + 'a'",
    "titles": "'Mr. ' * (N // 4)",
    "a table": "('| a   ' + ' ' * 90 + '| 1.5 |\\n') * (N // 100)",
    "words": "'one two ' * (N // 8)",
    "colons": "':a' * (N // 2)",
    "at signs": "'@' * N",
    "backslashes": "'\\\\' * N",
    "mixed": "''.join(random.Random(0).choices(' .!?\"\\n\\ta1=@:#', k=N))",
}
SCRIPT = """
import random, sys, tempfile
from pathlib import Path
N = 1_000_000
text = {run}
from qexport.inputs import text as texts
from qexport.core.display import shown
from qexport.inputs.prompts import _lines
from qexport.measurement.probing import holds_words
from qexport.report.escaping import escaped

assert "".join("".join(texts.split_sentences(text)).split()) == "".join(text.split())
texts._join_articles([text, " = A = "])
escaped(text)
shown(text)
holds_words(text, "a b")
holds_words(text, "1")
path = Path(tempfile.mkdtemp()) / "text.txt"
path.write_text(text + "\\nx")
texts.load_text(path)
list(_lines(path))
print("done")
"""


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_a_megabyte_of_one_kind_does_not_hang(run):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(run=run)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done\n", done.stderr[-2000:]
