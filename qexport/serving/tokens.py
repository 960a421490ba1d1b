"""Text to token ids and back, like transformers' AutoTokenizer, but with its Rust library alone.

transformers (4.57, ``tokenization_utils_fast.py`` and the ``update_post_processor`` of the classes in
:data:`_REBUILDING`) changes the ids of a plain ``tokenizer.json`` in four ways, which are repeated here: truncation and
padding are off; tokens that only ``tokenizer_config.json`` names are added; its ``add_prefix_space`` is obeyed; some
classes rebuild the part that adds BOS and EOS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qexport.core import ContractError, InputError
from qexport.serving.prompt_bound import most_characters

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class _Rebuilt(NamedTuple):
    adds_bos: bool
    bos: str
    eos: str


_REBUILDING: Mapping[str, _Rebuilt] = {
    "LlamaTokenizer": _Rebuilt(adds_bos=True, bos="<s>", eos="</s>"),
    "CodeLlamaTokenizer": _Rebuilt(adds_bos=True, bos="<s>", eos="</s>"),
    "GemmaTokenizer": _Rebuilt(adds_bos=True, bos="<bos>", eos="<eos>"),
    "CohereTokenizer": _Rebuilt(adds_bos=True, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"),
    "GPTNeoXTokenizer": _Rebuilt(adds_bos=False, bos="<|endoftext|>", eos="<|endoftext|>"),
}
"""Classes that obey ``add_bos_token`` and ``add_eos_token`` instead of the file, with their defaults."""
_CLASSES: Mapping[str, str] = {
    "code_llama": "CodeLlamaTokenizer",
    "cohere": "CohereTokenizer",
    "cohere2": "CohereTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "mixtral": "LlamaTokenizer",
    "olmo": "GPTNeoXTokenizer",
    "olmo2": "GPTNeoXTokenizer",
    "phi3": "LlamaTokenizer",
    "stablelm": "GPTNeoXTokenizer",
}
"""The class of a ``model_type``, for folders that do not name a class."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A token of one byte, in vocabularies with byte fallback."""
_AHEAD = 8
"""The number of prompt tokens that are decoded before an answer."""
_INCOMPLETE = "\ufffd"
"""The decoder's output for bytes that are not a character, or not yet."""


class Tokens:
    """The tokenizer of an artifact."""

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer's files.

        Raises:
            InputError: ``tokenizer.json`` is missing or cannot be read, or the files disagree on a token.
        """
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise InputError(
                f"{folder}: has no tokenizer.json, which the server needs; save the model's tokenizer with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...) and export again"
            )
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the Rust library raises plain Exception
            raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())}); export again") from error
        self._config = _settings(folder)
        kind = _class_name(folder, self._config)
        if rebuilt := _REBUILDING.get(kind):
            self._config = {"bos_token": rebuilt.bos, "eos_token": rebuilt.eos} | self._config
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._add_tokens(file)
        self._heed_prefix_space()
        if rebuilt:
            self._rebuild(file, adds_bos=rebuilt.adds_bos)

    @property
    def special(self) -> dict[str, str]:
        """The special tokens that have a name, such as ``bos_token`` and ``eos_token``."""
        return {name: _text(self._config[name]) for name in _SPECIAL if self._config.get(name)}

    @property
    def end(self) -> int | None:
        """The id of EOS; None without EOS."""
        text = self.special.get("eos_token")
        return None if text is None else self._tokenizer.token_to_id(text)

    @property
    def chat_template(self) -> object:
        """``chat_template`` of the settings: a text, or a list of named texts."""
        return self._config.get("chat_template")

    def encode(self, text: str, *, special: bool = True) -> tuple[int, ...]:
        """The ids of a text, with the special tokens that the tokenizer adds if ``special`` is True."""
        # Only the batch call releases Python's lock for other threads.
        (found,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        return tuple(found.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def is_byte(self, token: int) -> bool:
        """True if a token stands for one byte, which may form a character with its neighbours."""
        return _BYTE.fullmatch(self._tokenizer.id_to_token(token) or "") is not None

    def most_characters(self, context: int) -> int | None:
        """See :func:`qexport.serving.prompt_bound.most_characters`."""
        return most_characters(json.loads(self._tokenizer.to_str()), context)

    def _add_tokens(self, file: Path) -> None:
        """Add tokens that the settings name and the file lacks, or has with other flags."""
        from tokenizers import AddedToken

        there = self._tokenizer.get_added_tokens_decoder()
        named: Mapping[str, dict[str, Any]] = self._config.get("added_tokens_decoder", {})
        for key in sorted(named, key=int):
            token = AddedToken(named[key]["content"], **{flag: bool(named[key][flag]) for flag in _FLAGS})
            if int(key) not in there or repr(there[int(key)]) != repr(token):
                self._tokenizer.add_tokens([token])
            if self._tokenizer.token_to_id(token.content) != int(key):
                raise InputError(
                    f"{file}: {token.content!r} is not token {key} there, as tokenizer_config.json says; save the tokenizer "
                    "again with its save_pretrained"
                )
        known = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        special = [*self.special.values(), *map(_text, self._config.get("additional_special_tokens") or ())]
        for text in dict.fromkeys(special):
            if text not in known:
                self._tokenizer.add_tokens([AddedToken(text, special=True)])

    def _heed_prefix_space(self) -> None:
        from tokenizers import pre_tokenizers

        asked = self._config.get("add_prefix_space", False)
        if self._tokenizer.pre_tokenizer is None or asked is None:
            return
        state = json.loads(self._tokenizer.pre_tokenizer.__getstate__())
        if state.get("add_prefix_space", asked) != asked:
            kind = getattr(pre_tokenizers, state.pop("type"))
            self._tokenizer.pre_tokenizer = kind(**{**state, "add_prefix_space": asked})

    def _rebuild(self, file: Path, *, adds_bos: bool) -> None:
        from tokenizers import processors

        bos, eos = self.special.get("bos_token"), self.special.get("eos_token")
        with_bos = bool(self._config.get("add_bos_token", adds_bos))
        with_eos = bool(self._config.get("add_eos_token", False))
        if (with_bos and bos is None) or (with_eos and eos is None):
            raise InputError(f"{file}: tokenizer_config.json asks for a BOS or EOS token and names none; export again")
        around = [token for token, wanted in ((bos, with_bos), (eos, with_eos)) if wanted and token is not None]
        single = [*([f"{bos}:0"] if with_bos else []), "$A:0", *([f"{eos}:0"] if with_eos else [])]
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=single,
            pair=[*single, *(part.replace("$A", "$B")[:-1] + "1" for part in single)],
            special_tokens=[(token, self._tokenizer.token_to_id(token)) for token in around],
        )


class TextStream:
    """The text of an answer token by token, cut between characters.

    Each time the whole answer is decoded after the end of its prompt, and the new text is returned: a decoder may drop
    a space at the beginning of a text. Text that a later token may change is held back: bytes that are not a character
    yet, and any run of single bytes, which some decoders turn into a character together or not at all.
    """

    def __init__(self, tokens: Tokens, prompt: Sequence[int]) -> None:
        self._tokens = tokens
        ahead = list(prompt[-_AHEAD:])
        while ahead and tokens.is_byte(ahead[-1]):
            ahead.pop()
        self._ids = ahead
        self._sent = tokens.decode(ahead).rstrip(_INCOMPLETE)

    def push(self, ids: Sequence[int], *, last: bool) -> str:
        """The text that ``ids`` add; with ``last`` also all text that was held back.

        Raises:
            ContractError: the decoder changes text that was already returned.
        """
        self._ids.extend(ids)
        if not last and (not ids or self._tokens.is_byte(ids[-1])):
            return ""
        text = self._tokens.decode(self._ids)
        if not last:
            text = text.rstrip(_INCOMPLETE)
        if not text.startswith(self._sent):
            raise ContractError("the tokenizer's decoder changed text that was sent already; ask without stream")
        new, self._sent = text[len(self._sent) :], text
        return new


def _settings(folder: Path) -> dict[str, Any]:
    config = _json(folder / "tokenizer_config.json")
    # Folders from before 2023 keep the special tokens in a separate file.
    return config if "added_tokens_decoder" in config else _json(folder / "special_tokens_map.json") | config


def _class_name(folder: Path, config: Mapping[str, Any]) -> str:
    model = _json(folder / "config.json")
    named = (
        config.get("tokenizer_class") or model.get("tokenizer_class") or _CLASSES.get(model.get("model_type", ""), "")
    )
    return str(named).removesuffix("Fast")


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: cannot be read ({error}); export again") from error
    if not isinstance(read, dict):
        raise InputError(f"{file}: is not a JSON object; export again")
    return read


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])
