"""A seeded grammar of short children's stories: unlimited training text that belongs to this project.

Why a grammar: a reference model that shows what quantization costs has to be trained on far more tokens than a small
corpus holds, and the text has to be free of anyone else's licence. Why this much of it: a model can only learn to keep
a story together if the text keeps itself together, so a story draws its cast, its things, its place and its cause once,
and every later sentence refers back to them.

The words are in :mod:`plots`; this module expands them. A plot is a list of beats, one a line:

* ``[a|b|c]`` picks one alternative, and alternatives nest;
* ``{slot}`` is a value drawn once for the whole story: the hero, a pronoun, a toy, where it was hidden;
* ``<name>`` is one of the phrases of :data:`plots.PHRASES`, expanded again at each use;
* a line that begins with ``~`` is told in half of the stories, and an empty line begins a new paragraph.

:func:`stories` is all that training needs. A story depends on its seed and its index alone. Training takes its seeds
from :data:`TRAINING_SEEDS` and evaluation from :data:`HELD_OUT_SEEDS`; the two never meet.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from functools import cache

import plots

TRAINING_SEEDS = range(1_000)
HELD_OUT_SEEDS = range(1_000, 1_100)

MIN_WORDS, MAX_WORDS = 60, 240

Node = str | tuple["Sequence[Node]", ...]
"""Part of a parsed template: literal text, or a choice among alternatives that are sequences of parts themselves."""

_SLOT = re.compile(r"\{(\w+)\}")
_PHRASE = re.compile(r"<(\w+)>")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\w))")
_SPACES = re.compile(r" {2,}")
_SENTENCE_START = re.compile(r"""((?:^|\n|[.!?] |\."\s)"?|\s")([a-z])""")


@cache
def _parse(template: str) -> tuple[Node, ...]:
    """The template as literal text and choices, its phrases written out."""
    while _PHRASE.search(template):
        template = _PHRASE.sub(lambda match: f"[{plots.PHRASES[match.group(1)]}]", template)
    nodes, rest = _parse_sequence(template, 0)
    if rest != len(template):
        raise ValueError(f"unbalanced brackets at character {rest} of {template!r}")
    return nodes


def _parse_sequence(template: str, at: int) -> tuple[tuple[Node, ...], int]:
    """The parts from ``at`` to the end of this alternative, and the index where it ends."""
    nodes: list[Node] = []
    begin = at
    while at < len(template) and template[at] not in "|]":
        if template[at] != "[":
            at += 1
            continue
        nodes.append(template[begin:at])
        alternatives: list[Sequence[Node]] = []
        while template[at] != "]":
            alternative, at = _parse_sequence(template, at + 1)
            alternatives.append(alternative)
        nodes.append(tuple(alternatives))
        at += 1
        begin = at
    nodes.append(template[begin:at])
    return tuple(nodes), at


def _choose(nodes: Sequence[Node], rng: random.Random) -> str:
    """The text of the parts, one alternative picked for each choice."""
    return "".join(
        node if isinstance(node, str) else _choose(node[int(rng.random() * len(node))], rng) for node in nodes
    )


class _Teller:
    """One story in the making: its random numbers and the slots that it has drawn so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.slots: dict[str, str] = {}

    def expand(self, template: str) -> str:
        """The template with its alternatives chosen and its slots filled in."""
        return _SLOT.sub(lambda match: self.slots[match.group(1)], _choose(_parse(template), self.rng))

    def draw(self, names: str, options: Sequence[str | tuple[str, ...]]) -> None:
        """Set one slot, or several space-separated ones that must agree, to one of the options."""
        option = self.rng.choice(options)
        values = (option,) if isinstance(option, str) else option
        for name, value in zip(names.split(), values, strict=True):
            self.slots[name] = self.expand(value)

    def add_person(self, prefix: str, name: str, gender: str) -> None:
        """Set the name of a character and the pronouns that go with it."""
        he, him, his, himself = plots.PRONOUNS[gender]
        self.slots |= {
            prefix: name,
            f"{prefix}_he": he,
            f"{prefix}_him": him,
            f"{prefix}_his": his,
            f"{prefix}_self": himself,
            f"{prefix}_He": he.capitalize(),
            f"{prefix}_His": his.capitalize(),
        }

    def cast(self) -> None:
        """Draw who the story is about and the common things of its world."""
        rng = self.rng
        world = plots.ANIMAL_WORLD if rng.random() < plots.ANIMAL_SHARE else plots.CHILD_WORLD
        used: set[str] = set()
        for prefix in ("h", "f"):
            gender = rng.choice("mf")
            names = world.names[gender] if rng.random() < 0.5 else plots.ANY_NAMES[gender]
            name = rng.choice([name for name in names if name not in used])
            used.add(name)
            self.add_person(prefix, name, gender)
            self.slots[f"{prefix}_kind"] = rng.choice(world.kinds[gender])
        gender = rng.choice("mf")
        self.add_person("a", rng.choice(world.elders[gender]), gender)
        self.slots["A"] = self.slots["a"].capitalize()
        for names, options in (*world.draws.items(), *plots.COMMON_DRAWS.items()):
            self.draw(names, options)

    def tell(self, plot: plots.Plot) -> str:
        """The story of the plot, with its sentences capitalised and its paragraphs set."""
        self.cast()
        for names, options in plot.draws.items():
            self.draw(names, options)
        paragraphs: list[list[str]] = [[]]
        for beat in plot.beats.strip().split("\n"):
            if not beat:
                paragraphs.append([])
            elif not beat.startswith("~") or self.rng.random() < 0.5:
                paragraphs[-1].append(self.expand(beat.removeprefix("~")))
        separator = "\n\n" if self.rng.random() < 0.6 else " "
        return _polish(separator.join(" ".join(filter(None, beats)) for beats in paragraphs if beats))


def _polish(text: str) -> str:
    """The text with single spaces, the right articles and a capital at the start of each sentence and quotation."""
    text = _SPACES.sub(" ", text).replace(" .", ".").replace(" ,", ",").replace(" \n", "\n").strip()
    text = fix_articles(text)
    return _SENTENCE_START.sub(lambda match: match.group(1) + match.group(2).upper(), text)


def fix_articles(text: str) -> str:
    """The text with "an" before a vowel and "a" before any other letter."""
    return _ARTICLE.sub(lambda match: match.group(1) + ("n " if match.group(2) in "aeiou" else " "), text)


def story(seed: int, index: int) -> str:
    """The story with this index among the stories of this seed."""
    rng = random.Random(f"qexport story {seed} {index}")
    while True:
        text = _Teller(rng).tell(rng.choice(plots.PLOTS))
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


def stories(seed: int, n: int) -> Iterator[str]:
    """The first ``n`` stories of this seed."""
    return (story(seed, index) for index in range(n))


def main() -> None:
    """Print some stories, to read what the grammar writes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEEDS[0])
    parser.add_argument("-n", type=int, default=3)
    arguments = parser.parse_args()
    print("\n\n---\n\n".join(stories(arguments.seed, arguments.n)))


if __name__ == "__main__":
    main()
