"""Text, and the token sequences made from it: windows for perplexity and calibration, sentences for latency.

Prompts, which become token sequences too, are read by ``qexport.inputs.prompts``. Every recipe of a table is fed the
same :class:`TokenSet`; its digest is part of a measurement's conditions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qexport.errors import InputError
from qexport.files import read_text
from qexport.inputs.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

DOCUMENT_END = "<|endoftext|>"
"""A line that holds this alone ends a document of a ``.txt`` file."""

MIN_TOKENS = 3
"""Shorter sequences are dropped: at most one token would be scored behind BOS and a first word."""

_PAUSE = re.compile(
    r"(?P<title>(?<=\bMr)|(?<=\bMrs)|(?<=\bMs)|(?<=\bDr)|(?<=\bSt))?(?P<mark>[.!?]++)[\"'”’)\]]*+(?P<gap>\s*+)"
    r"|(?P<space>\s++)"
)
"""Marks with what follows them, and white space: whole runs, each read once, so that a long run takes no longer."""
_DOCUMENT_END = re.compile(rf"^[ \t]*{re.escape(DOCUMENT_END)}[ \t]*$", re.MULTILINE)
_HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair: JSON can write one, and it is no character."""
_ARTICLE = re.compile(r"\s*= [^=].*[^=] =\s*")
"""The heading that opens an article of WikiText; deeper headings have more than one ``=``."""


@dataclass(frozen=True)
class Place:
    """Where a text stands."""

    words: str
    """The file, with the line or the item where each line or item is a text: ``/data/chat.jsonl:3``."""
    line: int | None = None
    """The line of the file at which a text begins that goes over lines."""

    def of(self, text: str, part: str) -> str:
        """Where a part of the text stands."""
        if self.line is None:
            return self.words
        return f"{self.words}:{self.line + text.count(chr(10), 0, max(0, text.find(part)))}"


@dataclass(frozen=True)
class Text:
    """Documents in order, and where they came from."""

    origin: str
    """In words that hold on every machine: a file's name, ``wikitext:wikitext-2-raw-v1:test``."""
    documents: tuple[str, ...]
    places: tuple[Place, ...] = field(default=(), compare=False, repr=False)
    """Of each document; none where documents are counted only."""

    def placed(self) -> Iterator[tuple[Place, str]]:
        """The documents, each with its place."""
        for number, document in enumerate(self.documents):
            yield self.places[number] if self.places else Place(f"{self.origin}: document {number + 1}"), document


@dataclass(frozen=True, eq=False)
class TokenSet:
    """Token sequences that every variant of a model is fed, one by one and in order."""

    kind: Literal["windows", "sentences", "prompts"]
    origin: str
    description: str
    """How they were made: ``windows of at most 256 tokens``, ``sentences``."""
    sequences: tuple[NDArray[np.int64], ...]
    """Each ``[tokens]``, at least :data:`MIN_TOKENS` long; a prompt, of which nothing is scored, may be shorter."""

    @cached_property
    def sha256(self) -> str:
        """Digest of the token ids and of where each sequence ends."""
        digest = hashlib.sha256()
        for sequence in self.sequences:
            digest.update(len(sequence).to_bytes(8, "little"))
            digest.update(sequence.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def tokens(self) -> int:
        """Number of tokens fed; the first of each sequence is not scored."""
        return sum(len(sequence) for sequence in self.sequences)


def load_text(path: Path) -> Text:
    """Read documents from a ``.txt``, ``.jsonl`` or ``.json`` file.

    * ``.txt``: documents end at lines that hold ``<|endoftext|>`` alone; without such a line the file is one document.
    * ``.jsonl``: a line is a string, or an object with a string under ``text``.
    * ``.json``: a list of such values.

    Raises:
        InputError: no such file, not UTF-8, another form, half a character, or nothing but white space.
    """
    readers = {".txt": _txt_documents, ".jsonl": _json_documents, ".json": _json_documents}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: unknown kind of text; use {', '.join(readers)}")
    found = [(place, document.strip("\n")) for place, document in reader(path) if document.strip()]
    if not found:
        raise InputError(f"{path}: holds no text; give a file with some prose in it")
    places, documents = zip(*found, strict=True)
    return Text(origin=shown(path.name), documents=documents, places=places)


def _txt_documents(path: Path) -> Iterator[tuple[Place, str]]:
    content = read_text(path)
    start, line = 0, 1
    for end in (*_DOCUMENT_END.finditer(content), None):
        document = content[start:] if end is None else content[start : end.start()]
        blank = len(document) - len(document.lstrip("\n"))
        yield Place(str(path), line + blank), document
        line += document.count("\n")
        start = start if end is None else end.end()


def _json_documents(path: Path) -> Iterator[tuple[Place, str]]:
    for place, value in read_json_values(path):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise InputError(f'{place}: neither a string nor an object with a string under "text"; correct that')
        yield Place(place), text


def read_json_values(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a ``.jsonl`` file, one a line, or of the list in a ``.json`` file, each with its place in words.

    Raises:
        InputError: no such file, not UTF-8, not JSON, no list, or a text with half a character in it.
    """
    content = read_text(path)
    values = _jsonl_values(path, content) if path.suffix.lower() == ".jsonl" else _json_values(path, content)
    for place, value in values:
        for text in _texts_in(value):
            if half := _HALF.search(text):
                raise InputError(
                    f"{place}: half a surrogate pair; write the whole character in place of {shown(half[0])}, or remove it"
                )
        yield place, value


def _texts_in(value: object) -> Iterator[str]:
    """All strings of a JSON value, keys among them."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case list() as items:
                left += items
            case dict() as fields:
                left += (*fields, *fields.values())
            case _:
                pass


def _jsonl_values(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    # Only "\n" ends a line of JSON lines: str.splitlines() would also cut at U+2028 inside a string.
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:  # the latter where it is nested too deep
                raise InputError(f"{path}:{number}: not a line of JSON ({error}); correct that line") from error
            yield f"{path}:{number}", value


def _json_values(path: Path, content: str) -> Iterator[tuple[str, Any]]:
    try:
        values = json.loads(content) if content.strip() else []
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); for one value a line use the ending .jsonl") from error
    if not isinstance(values, list):
        raise InputError(f"{path}: holds no list; give a list of strings or of objects with a text")
    for number, value in enumerate(values):
        yield f"{path}: item {number}", value


def load_dataset_text(spec: str) -> Text:
    """Read documents through ``datasets``: ``NAME:CONFIG:SPLIT`` or ``NAME:SPLIT``, the column ``text``.

    ``NAME`` is a hub id or a local folder that ``datasets`` can read. The lines of WikiText are joined to articles.

    Raises:
        InputError: another form, a dataset that cannot be reached, or one without a column of text.
    """
    name, config, split = _split_spec(spec)
    import datasets

    try:
        loaded: Any = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # what a name, a builder or the network raises has no common base
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(
            f"{spec}: datasets cannot load it ({reason}); check the name, or give a file with --text"
        ) from error
    columns = loaded.column_names
    if "text" not in columns:
        raise InputError(f"{spec}: has no column text, only {', '.join(columns)}; choose another dataset")
    rows = [row for row in loaded["text"] if isinstance(row, str)]
    documents = tuple(document for document in _join_articles(rows) if document.strip())
    if not documents:
        raise InputError(f"{spec}: holds no text; choose another split")
    return Text(origin=spec, documents=documents)


def _split_spec(spec: str) -> tuple[str, str | None, str]:
    parts = spec.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InputError(
            f"{spec}: not of the form NAME:CONFIG:SPLIT or NAME:SPLIT; for example wikitext:wikitext-2-raw-v1:test"
        )
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1]


def _join_articles(rows: list[str]) -> list[str]:
    """Rows as they are, unless they are the lines of WikiText, whose documents begin at a first-level heading."""
    starts = [index for index, row in enumerate(rows) if _ARTICLE.fullmatch(row)]
    if not starts:
        return rows
    edges = [0, *starts, len(rows)]
    return ["".join(rows[begin:end]).strip() for begin, end in itertools.pairwise(edges)]


def make_windows(
    text: Text, tokenizer: PreTrainedTokenizerBase, *, window: int, limit: int | None, rows: int | None = None
) -> TokenSet:
    """Cut documents into windows that begin with BOS, where the tokenizer has one.

    A window holds tokens of one document only. A long document goes on in further windows, each again with BOS, because a
    window in mid-text without it costs quantized models more than it costs the original.

    Args:
        text: the documents.
        tokenizer: turns text into ids; nothing but BOS is added to them.
        window: most tokens of a window, BOS included.
        limit: most windows; None takes all.
        rows: tokens that the model has a row for; None where that is not known.

    Raises:
        InputError: a window too small to score, less text than one window, no document that is long enough to score, or
            a token that the model has no row for.
    """
    if window < MIN_TOKENS:
        raise InputError(f"a window of {window} tokens scores nothing; use at least {MIN_TOKENS}")
    bos = bos_ids(tokenizer)
    body = window - len(bos)
    sequences: list[NDArray[np.int64]] = []
    total = longest = 0
    for place, document in text.placed():
        ids = encode(tokenizer, document)
        require_rows(tokenizer, bos + ids, rows, place, document)
        total += len(ids)
        longest = max(longest, len(ids))
        pieces = (bos + ids[start : start + body] for start in range(0, len(ids), body))
        sequences += [np.array(piece, np.int64) for piece in pieces if len(piece) >= MIN_TOKENS]
        if limit is not None and len(sequences) >= limit and total >= body:
            break
    if total < body:
        raise InputError(
            f"{text.origin}: {total + len(bos)} tokens are less than one window of {window}; give more text"
        )
    if not sequences:
        raise InputError(
            f"{text.origin}: no document is long enough to score; one must have {MIN_TOKENS - len(bos)} tokens, and the "
            f"longest has {longest}; give longer documents"
        )
    return TokenSet(
        kind="windows",
        origin=text.origin,
        description=f"windows of at most {window} tokens",
        sequences=tuple(sequences[:limit]),
    )


def make_sentences(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    *,
    limit: int | None,
    max_tokens: int | None = None,
    rows: int | None = None,
) -> TokenSet:
    """Cut documents into sentences, each behind BOS where the tokenizer has one.

    A sentence ends at ``.``, ``!`` or ``?`` (with closing quotes) before white space and no small letter, and at the end
    of a line. Those under :data:`MIN_TOKENS` tokens are left out.

    Args:
        text: the documents.
        tokenizer: turns text into ids; nothing but BOS is added to them.
        limit: most sentences, spread evenly over the text; None takes all.
        max_tokens: where longer sentences are cut, BOS included: the model's context.
        rows: tokens that the model has a row for; None where that is not known.

    Raises:
        InputError: no sentence is long enough, or a token that the model has no row for.
    """
    bos = bos_ids(tokenizer)
    sequences = []
    longest = 0
    for place, document in text.placed():
        for sentence in split_sentences(document):
            ids = (bos + encode(tokenizer, sentence))[:max_tokens]
            require_rows(tokenizer, ids, rows, place, document)
            longest = max(longest, len(ids))
            if len(ids) >= MIN_TOKENS:
                sequences.append(np.array(ids, np.int64))
    if not sequences:
        raise InputError(
            f"{text.origin}: no sentence is long enough to score; one must have {MIN_TOKENS - len(bos)} tokens, and the "
            f"longest has {max(0, longest - len(bos))}; give longer sentences"
        )
    if limit is not None and limit < len(sequences):
        sequences = [sequences[index * len(sequences) // limit] for index in range(limit)]
    return TokenSet(kind="sentences", origin=text.origin, description="sentences", sequences=tuple(sequences))


def split_sentences(document: str) -> list[str]:
    """The sentences of a document in order, without the white space between them.

    >>> split_sentences('"Why?" asked Mr. Hill. She knew.')
    ['"Why?" asked Mr. Hill.', 'She knew.']
    """
    sentences, start = [], 0
    for pause in _PAUSE.finditer(document):
        gap = "space" if pause["mark"] is None else "gap"
        if "\n" in pause[gap] or (gap == "gap" and _ends_sentence(pause)):
            sentences.append(document[start : pause.start(gap)].strip())
            start = pause.end()
    sentences.append(document[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(pause: re.Match[str]) -> bool:
    """Say whether marks end a sentence: not those of a title, and none before a single space and a small letter."""
    if not pause["gap"] or (pause["title"] is not None and len(pause["mark"]) == 1):
        return False
    behind = pause.string[pause.end() : pause.end() + 1]
    return len(pause["gap"]) > 1 or not "a" <= behind <= "z"


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What every sequence begins with: BOS, or nothing where the tokenizer has none."""
    bos: int | None = tokenizer.bos_token_id
    return [] if bos is None else [bos]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids of a text, with nothing added to them."""
    # verbose=False: a document longer than the context is cut into windows here, so the warning would be false.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def require_rows(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], rows: int | None, place: Place, text: str
) -> None:
    """Refuse tokens that the model has no row for: ones that were added to the tokenizer, and not to the model.

    Args:
        tokenizer: made the ids.
        ids: of the text, or of a part of it.
        rows: tokens that the model has a row for; None where that is not known.
        place: of the text.
        text: all of it.

    Raises:
        InputError: one is beyond the rows.
    """
    if rows is None or max(ids, default=0) < rows:
        return
    beyond = next(token for token in ids if token >= rows)
    name = str(tokenizer.convert_ids_to_tokens(beyond))
    raise InputError(
        f"{place.of(text, name)}: the token {shown(name)} is number {beyond}, and the model has rows for 0 to {rows - 1} "
        "only; resize the model's embedding to its tokenizer, or take the token out of the text"
    )
