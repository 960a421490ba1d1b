"""The tokenizer of a GGUF file, as llama.cpp reads it, for transformers.

transformers' own reader of GGUF is not used: it takes BOS for EOS, adds BOS whether the file asks for it or not, and
knows one way to cut a text into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qexport.core import InputError, near_names, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from qexport.inputs.gguf.file import GgufFile

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
"""Types of tokens."""

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CASELESS_WORDS = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, kw_only=True)
class PreTokenizer:
    """A way to cut a text into words, whose bytes are then merged to tokens."""

    patterns: tuple[str, ...]
    """Each cuts the pieces that the one before it left, at the beginning and at the end of each match."""
    whole_words: bool = False
    """True if a word that is a token is that token, whatever the merges say."""
    adds_bos: bool = False
    """True if BOS stands before a text, if the file does not say otherwise."""


_GPT2 = PreTokenizer(patterns=(_WORDS,))
_SINGLE_DIGITS = PreTokenizer(patterns=(r"\p{N}", _WORDS))
_LLAMA3 = PreTokenizer(patterns=(_CASELESS_WORDS % "{1,3}",), whole_words=True, adds_bos=True)
_QWEN2 = PreTokenizer(patterns=(_CASELESS_WORDS % "",))
_DEFAULT = PreTokenizer(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _WORDS, r"\p{N}+", "[0-9][0-9][0-9]"))

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), _SINGLE_DIGITS),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), _QWEN2),
}
"""By the name in ``tokenizer.ggml.pre``, with the patterns of llama.cpp."""


def make_tokenizer(file: GgufFile) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file, with its special tokens and its chat template.

    BOS is a token of the tokenizer only if the file has it put before a text.

    Raises:
        InputError: the file has no tokenizer, or one that qexport cannot make right.
    """
    from transformers import PreTrainedTokenizerFast

    vocabulary = _Vocabulary(file)
    kind = file.values.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer, adds_bos = _byte_level(vocabulary)
    elif kind == "llama":
        tokenizer, adds_bos = _sentence_piece(vocabulary), True
    else:
        raise InputError(
            f"{file.path}: has a tokenizer of the kind {shown(str(kind))}, and qexport reads gpt2 and llama; give the "
            "model's folder in the Hugging Face layout"
        )
    tokenizer.add_tokens(vocabulary.added())
    bos = vocabulary.special("bos") if file.values.get("tokenizer.ggml.add_bos_token", adds_bos) else None
    eos = vocabulary.special("eos")
    around = (bos, eos if file.values.get("tokenizer.ggml.add_eos_token", False) else None)
    _put_around(tokenizer, *around)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        unk_token=vocabulary.special("unknown"),
        pad_token=vocabulary.special("padding"),
        clean_up_tokenization_spaces=False,
        model_max_length=file.values[f"{file.architecture}.context_length"],
    )
    made.chat_template = file.values.get("tokenizer.chat_template")
    return made


def special_ids(file: GgufFile) -> dict[str, Any]:
    """The ids of BOS and padding, and of all tokens that end an answer, by the keys of transformers; None without."""
    ids = {name: file.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "padding", "eos", "eot", "eom")}
    ends = sorted({number for name in ("eos", "eot", "eom") if (number := ids[name]) is not None})
    return {
        "bos_token_id": ids["bos"],
        "eos_token_id": ends if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": ids["padding"],
    }


class _Vocabulary:
    """The tokens of a file, checked."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.texts: list[str] = self._list("tokens", None)
        self.types: list[int] = self._list("token_type", [_NORMAL] * len(self.texts))
        self.ids = {text: number for number, text in enumerate(self.texts)}
        if len(self.ids) < len(self.texts):
            twice = next(text for number, text in enumerate(self.texts) if self.ids[text] != number)
            raise InputError(
                f"{file.path}: has the token {shown(twice)!r} twice; convert the model again with llama.cpp"
            )
        if len(self.types) != len(self.texts):
            raise self._broken(f"has {len(self.texts)} tokens and types of {len(self.types)}")

    def _broken(self, fault: str) -> InputError:
        return InputError(f"{self.file.path}: {fault}; convert the model again with llama.cpp")

    def _list(self, name: str, default: list[Any] | None) -> list[Any]:
        found = self.file.values.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(found, list) or not found:
            raise InputError(
                f"{self.file.path}: holds no tokenizer (tokenizer.ggml.{name}); give the model's folder in the Hugging Face "
                "layout"
            )
        return found

    def special(self, name: str) -> str | None:
        """The text of a special token; None if the file names none.

        Raises:
            InputError: there is no such token.
        """
        number = self.file.values.get(f"tokenizer.ggml.{name}_token_id")
        if number is None:
            return None
        if not isinstance(number, int) or not 0 <= number < len(self.texts):
            raise self._broken(f"names token {number} as {name}, and has {len(self.texts)} tokens")
        return self.texts[number]

    def added(self) -> list[Any]:
        """The tokens that are found in a text before it is cut into words."""
        from tokenizers import AddedToken

        return [
            AddedToken(text, special=kind != _USER_DEFINED, normalized=False)
            for text, kind in zip(self.texts, self.types, strict=True)
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ]

    def merges(self) -> list[tuple[str, str]]:
        """The pairs of tokens that are merged, in the order of the file.

        Raises:
            InputError: a pair, or the token that it makes, is not in the vocabulary.
        """
        pairs = []
        for text in self._list("merges", None):
            left, _, right = text.partition(" ")
            if not right or not {left, right, left + right} <= self.ids.keys():
                raise self._broken(f"merges {shown(text)!r}, which are no tokens")
            pairs.append((left, right))
        return pairs

    def merges_by_score(self) -> list[tuple[str, str]]:
        """The pairs of tokens that are merged, by the score of the token that they make."""
        scores = self._list("scores", None)
        if len(scores) != len(self.texts):
            raise self._broken(f"has {len(self.texts)} tokens and scores of {len(scores)}")
        found = []
        for number, (text, kind) in enumerate(zip(self.texts, self.types, strict=True)):
            if kind not in (_NORMAL, _USER_DEFINED):
                continue
            for at in range(1, len(text)):
                left, right = self.ids.get(text[:at]), self.ids.get(text[at:])
                if left is not None and right is not None:
                    found.append((-scores[number], number, left, right))
        return [(self.texts[left], self.texts[right]) for _, _, left, right in sorted(found)]


def _byte_level(vocabulary: _Vocabulary) -> tuple[Tokenizer, bool]:
    """A tokenizer of words in bytes, and True if BOS stands before a text by default."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    name = vocabulary.file.values.get("tokenizer.ggml.pre", "default")
    kind = PRE_TOKENIZERS.get(name)
    if kind is None:
        raise InputError(
            f"{vocabulary.file.path}: cuts words by the rules {shown(str(name))}, which qexport does not know "
            f"({near_names(str(name), PRE_TOKENIZERS)}); give the model's folder in the Hugging Face layout"
        )
    tokenizer = Tokenizer(models.BPE(vocabulary.ids, vocabulary.merges(), ignore_merges=kind.whole_words))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in kind.patterns]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, kind.adds_bos


def _sentence_piece(vocabulary: _Vocabulary) -> Tokenizer:
    """A tokenizer that merges characters by the scores of tokens, and has tokens for the bytes of unknown ones."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    prefix = vocabulary.file.values.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer = Tokenizer(
        models.BPE(
            vocabulary.ids,
            vocabulary.merges_by_score(),
            unk_token=vocabulary.special("unknown"),
            fuse_unk=True,
            byte_fallback=_BYTE in vocabulary.types,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if prefix else []), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return tokenizer


def _put_around(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> None:
    from tokenizers import processors

    before, after = [bos] * (bos is not None), [eos] * (eos is not None)
    if not before and not after:
        return
    single = [*(f"{token}:0" for token in before), "$A:0", *(f"{token}:0" for token in after)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=[*single, *(part.replace("$A", "$B")[:-1] + "1" for part in single)],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*before, *after}],
    )
