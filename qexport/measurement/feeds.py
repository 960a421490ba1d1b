"""Token sets made once, from the user's text, and fed to every artifact: windows, sentences and prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from qexport.inputs import encode_prompts, load_tokenizer, make_sentences, make_windows, table_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qexport.inputs import ModelSource, Prompts, Text, TokenSet
    from qexport.measurement.job import AnswerKey
    from qexport.measurement.probes import Kind


class Reader(NamedTuple):
    """The tokenizer of one model, with the model's limits."""

    tokenizer: PreTrainedTokenizerBase
    context_length: int
    rows: int | None
    """Tokens that the model has a row for."""

    @classmethod
    def of(cls, source: ModelSource) -> Reader:
        """The reader of a model.

        Raises:
            InputError: the tokenizer or the configuration cannot be read.
        """
        return cls(load_tokenizer(source), source.context_length, table_rows(source))


@dataclass(frozen=True, kw_only=True)
class Feed:
    """All that one probe is fed."""

    tokens: TokenSet
    new_tokens: int = 0
    """Tokens to generate after each prompt."""
    stop: tuple[int, ...] = ()
    """Tokens that end the answer of a session."""
    key: AnswerKey | None = None


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The texts of one run, and how much of each is taken."""

    text: Text | None
    """None where no probe is fed windows or sentences."""
    prompts: Prompts | None
    """None where no probe is fed prompts."""
    window: int
    """Most tokens of a window, BOS included; cut to the model's context."""
    windows: int | None
    """Most windows; None takes all of the text."""
    sentences: int | None
    """Most sentences; None takes all of the text."""
    new_tokens: int
    """Tokens to generate after each prompt."""

    def feed(self, kind: Kind, reader: Reader) -> Feed:
        """The feed of the probes that are fed tokens of a kind.

        Raises:
            InputError: the text is too short, or the model has no row for a token.
        """
        if kind == "prompts":
            assert self.prompts is not None, "the prompts were not loaded"
            return Feed(tokens=self.encoded(self.prompts, reader, self.new_tokens), new_tokens=self.new_tokens)
        assert self.text is not None, "the text was not loaded"
        tokenizer, context, rows = reader
        if kind == "windows":
            window = min(self.window, context)
            return Feed(tokens=make_windows(self.text, tokenizer, window=window, limit=self.windows, rows=rows))
        return Feed(tokens=make_sentences(self.text, tokenizer, limit=self.sentences, max_tokens=context, rows=rows))

    @staticmethod
    def encoded(prompts: Prompts, reader: Reader, new_tokens: int) -> TokenSet:
        """Prompts as tokens, each short enough for ``new_tokens`` more in the model's context."""
        tokenizer, context, rows = reader
        return encode_prompts(prompts, tokenizer, new_tokens=new_tokens, context=context, rows=rows)
