"""Text, and the token sequences made from it: windows for perplexity and calibration, sentences for latency.

``qexport.inputs.prompts`` reads prompts, which also become token sequences. Every recipe of a table gets the same
:class:`TokenSet`; its digest is part of a measurement's conditions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qexport.core import InputError, read_text, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

DOCUMENT_END = "<|endoftext|>"
"""A line with only this text ends a document of a ``.txt`` file."""

MIN_TOKENS = 3
"""Shorter sequences are dropped: they have at most one scored token after BOS and a first word."""

_PAUSE = re.compile(
    r"(?P<title>(?<=\bMr)|(?<=\bMrs)|(?<=\bMs)|(?<=\bDr)|(?<=\bSt))?(?P<mark>[.!?]++)[\"'”’)\]]*+(?P<gap>\s*+)"
    r"|(?P<space>\s++)"
)
"""Marks with the text after them, and white space. Whole runs are matched once, so that a long run stays fast."""
_DOCUMENT_END = re.compile(rf"^[ \t]*{re.escape(DOCUMENT_END)}[ \t]*$", re.MULTILINE)
_HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair: JSON can hold one, but it is not a character."""
_ARTICLE = re.compile(r"\s*= [^=].*[^=] =\s*")
"""The heading of a WikiText article; deeper headings have more than one ``=``."""


@dataclass(frozen=True)
class Place:
    """The place of a text."""

    words: str
    """The file, with the line or item if each line or item is a text: ``/data/chat.jsonl:3``."""
    line: int | None = None
    """The first line of a text that spans several lines of the file."""

    def of(self, text: str, part: str) -> str:
        """The place of a part of the text."""
        if self.line is None:
            return self.words
        return f"{self.words}:{self.line + text.count(chr(10), 0, max(0, text.find(part)))}"


@dataclass(frozen=True)
class Text:
    """Documents in order, and their source."""

    origin: str
    """The source, in words that hold on every machine: a file's name, ``wikitext:wikitext-2-raw-v1:test``."""
    documents: tuple[str, ...]
    places: tuple[Place, ...] = field(default=(), compare=False, repr=False)
    """The place of each document; empty if documents are only counted."""

    def placed(self) -> Iterator[tuple[Place, str]]:
        """The documents, each with its place."""
        for number, document in enumerate(self.documents):
            yield self.places[number] if self.places else Place(f"{self.origin}: document {number + 1}"), document


@dataclass(frozen=True, eq=False)
class TokenSet:
    """The token sequences for every variant of a model, one by one and in order."""

    kind: Literal["windows", "sentences", "prompts"]
    origin: str
    description: str
    """The form of the sequences: ``windows of at most 256 tokens``, ``sentences``."""
    sequences: tuple[NDArray[np.int64], ...]
    """``[tokens]`` each, at least :data:`MIN_TOKENS` long; a prompt is not scored and may be shorter."""

    @cached_property
    def sha256(self) -> str:
        """Digest of the token ids and of the sequences' ends."""
        digest = hashlib.sha256()
        for sequence in self.sequences:
            digest.update(len(sequence).to_bytes(8, "little"))
            digest.update(sequence.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def tokens(self) -> int:
        """The number of tokens; the first of each sequence is not scored."""
        return sum(len(sequence) for sequence in self.sequences)


def load_text(path: Path) -> Text:
    """Read documents from a ``.txt``, ``.jsonl`` or ``.json`` file.

    * ``.txt``: documents end at lines with only ``<|endoftext|>``; without such a line the file is one document.
    * ``.jsonl``: a line is a string, or an object with a string under ``text``.
    * ``.json``: a list of such values.

    Raises:
        InputError: the file is missing, is not UTF-8, has another form, half a character, or only white space.
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
    """The values of a ``.jsonl`` file, one on each line, or of a list in a ``.json`` file, with their places in words.

    Raises:
        InputError: the file is missing, is not UTF-8, JSON or a list, or holds half a character.
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
    """All strings of a JSON value, with its keys."""
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
            except (ValueError, RecursionError) as error:  # RecursionError if it is nested too deep
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


def text_of(file: str | Path | None, dataset: str | None, file_option: str, dataset_option: str) -> Text | None:
    """The text that one of two options names; None if the user gave neither.

    Raises:
        InputError: both options were given, or the text cannot be read.
    """
    if file is not None and dataset is not None:
        raise InputError(f"{file_option} and {dataset_option}: both name a text; give one of the two")
    if file is not None:
        return load_text(Path(file))
    return load_dataset_text(dataset) if dataset is not None else None


def load_dataset_text(spec: str) -> Text:
    """Read documents with ``datasets``: ``NAME:CONFIG:SPLIT`` or ``NAME:SPLIT``, the column ``text``.

    ``NAME`` is a hub id or a local folder that ``datasets`` can read. The lines of WikiText are joined to articles.

    Raises:
        InputError: the spec has another form, or the dataset cannot be loaded or has no text column.
    """
    name, config, split = _split_spec(spec)
    import datasets

    try:
        loaded: Any = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # errors of names, builders and the network have no common base
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
    """The rows unchanged; but lines of WikiText are joined to documents that begin at a first-level heading."""
    starts = [index for index, row in enumerate(rows) if _ARTICLE.fullmatch(row)]
    if not starts:
        return rows
    edges = [0, *starts, len(rows)]
    return ["".join(rows[begin:end]).strip() for begin, end in itertools.pairwise(edges)]


def make_windows(
    text: Text, tokenizer: PreTrainedTokenizerBase, *, window: int, limit: int | None, rows: int | None = None
) -> TokenSet:
    """Cut documents into windows that begin with BOS, if the tokenizer has one.

    A window holds tokens of one document only. A long document continues in further windows, each again with BOS: a
    window in mid-text without BOS costs quantized models more than the original.

    Args:
        text: the documents.
        tokenizer: turns text into ids; only BOS is added to them.
        window: the most tokens of a window, with BOS.
        limit: the most windows; None takes all.
        rows: the number of tokens that the model has a row for; None if it is unknown.

    Raises:
        InputError: a window is too small to score, the text is shorter than one window, no document is long enough to
            score, or the model has no row for a token.
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
    """Cut documents into sentences, each with BOS in front if the tokenizer has one.

    A sentence ends at ``.``, ``!`` or ``?`` (with closing quotes) before white space and no small letter, and at the
    end of a line. Sentences under :data:`MIN_TOKENS` tokens are left out.

    Args:
        text: the documents.
        tokenizer: turns text into ids; only BOS is added to them.
        limit: the most sentences, spread evenly over the text; None takes all.
        max_tokens: the length at which longer sentences are cut, with BOS: the model's context.
        rows: the number of tokens that the model has a row for; None if it is unknown.

    Raises:
        InputError: no sentence is long enough, or the model has no row for a token.
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
    """True if marks end a sentence: not those of a title, and none before a single space and a small letter."""
    if not pause["gap"] or (pause["title"] is not None and len(pause["mark"]) == 1):
        return False
    behind = pause.string[pause.end() : pause.end() + 1]
    return len(pause["gap"]) > 1 or not "a" <= behind <= "z"


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The start of every sequence: BOS, or nothing if the tokenizer has none."""
    bos: int | None = tokenizer.bos_token_id
    return [] if bos is None else [bos]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids of a text, without additions."""
    # verbose=False: a document longer than the context is cut into windows, so a warning would be wrong.
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def require_rows(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], rows: int | None, place: Place, text: str
) -> None:
    """Refuse tokens that the model has no row for: they were added to the tokenizer but not to the model.

    Args:
        tokenizer: the tokenizer that made the ids.
        ids: the ids of the text, or of a part.
        rows: the number of tokens that the model has a row for; None if it is unknown.
        place: the place of the text.
        text: the whole text.

    Raises:
        InputError: an id is beyond the rows.
    """
    if rows is None or max(ids, default=0) < rows:
        return
    beyond = next(token for token in ids if token >= rows)
    name = str(tokenizer.convert_ids_to_tokens(beyond))
    raise InputError(
        f"{place.of(text, name)}: the token {shown(name)} is number {beyond}, and the model has rows for 0 to {rows - 1} "
        "only; resize the model's embedding to its tokenizer, or take the token out of the text"
    )
