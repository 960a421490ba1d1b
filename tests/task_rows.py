"""Questions of the form of MMLU, made up."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from qexport.measurement.tasks.subjects import MMLU_SUBJECTS


def write_mmlu(folder: Path, *, questions: int = 2, examples: int = 5) -> None:
    """Write ``mmlu/test/<subject>_test.csv`` and ``mmlu/dev/<subject>_dev.csv`` as Hendrycks does: without a header."""
    draw = random.Random(0)
    for split, count in (("test", questions), ("dev", examples)):
        place = folder / "mmlu" / split
        place.mkdir(parents=True)
        for subject in MMLU_SUBJECTS:
            with (place / f"{subject}_{split}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(_sum(draw, subject.replace("_", " ")) for _ in range(count))


def _sum(draw: random.Random, topic: str) -> list[str]:
    """A question about a sum, its four choices, and the letter of the right one."""
    first, second = draw.randint(2, 40), draw.randint(2, 40)
    choices = [first + second, *draw.sample([first + second + off for off in (-3, -2, -1, 1, 2, 3)], 3)]
    draw.shuffle(choices)
    letter = "ABCD"[choices.index(first + second)]
    question = f"In a class on {topic} are {first} girls and {second} boys. How many children, all in all, are that?"
    return [question, *map(str, choices), letter]
