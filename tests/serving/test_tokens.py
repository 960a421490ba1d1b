"""Ids and texts are those of transformers' AutoTokenizer, whatever the files of a tokenizer say."""

from __future__ import annotations

import json
import shutil

import pytest

from qexport.core.errors import ContractError, InputError
from qexport.serving.tokens import _CLASSES, _REBUILDING, TextStream, Tokens
from tests.conftest import ROOT

TEXTS = (
    "Once upon a time",
    " a space ahead,  two inside and one behind ",
    "",
    "na\u00efve caf\u00e9 \u2014 \u65e5\u672c\u8a9e \U0001f600!\n\ttabs",
    "a <s> b</s><unk> c<|endoftext|> d",
    "<bos>x<eos>",
)
REFERENCE = ROOT / "models" / "reference"


def auto(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def assert_same(folder):
    ours, theirs = Tokens(folder), auto(folder)
    for text in TEXTS:
        assert list(ours.encode(text)) == theirs(text)["input_ids"], text
        assert list(ours.encode(text, special=False)) == theirs(text, add_special_tokens=False)["input_ids"], text
        ids = theirs(text)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert ours.end == theirs.eos_token_id


@pytest.fixture
def stories(data_dir, tmp_path):
    """A copy of the tokenizer of stories260K, which adds BOS, and a hand that changes its settings."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        shutil.copy(data_dir / "models" / "stories260K" / name, tmp_path)
        (tmp_path / name).chmod(0o644)
    return tmp_path


def change(folder, name="tokenizer_config.json", *, drop=(), **values):
    file = folder / name
    settings = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in settings.items() if key not in drop}))


def test_ids_of_stories260k_which_adds_bos(data_dir):
    assert_same(data_dir / "models" / "stories260K")
    assert Tokens(data_dir / "models" / "stories260K").encode("Once")[0] == 1


def test_ids_of_the_reference_model_which_adds_none():
    assert_same(REFERENCE)
    assert Tokens(REFERENCE).encode("") == ()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_ids_of_tiny_models(tiny, name):
    assert_same(tiny(name))


@pytest.mark.parametrize("said", [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_eos_token": True}])
@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", *_REBUILDING])
def test_ids_where_the_class_and_the_settings_decide_on_bos_and_eos(stories, name, said):
    change(stories, tokenizer_class=name, **said)
    assert_same(stories)


@pytest.mark.parametrize("name", _REBUILDING)
def test_ids_where_the_settings_name_no_special_tokens(stories, name):
    change(stories, drop=("bos_token", "eos_token", "unk_token"), tokenizer_class=name)
    assert_same(stories)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gemma2", "mistral", "phi3"])
def test_ids_where_only_the_kind_of_model_tells_the_class(stories, kind):
    change(stories, drop=("tokenizer_class",))
    (stories / "config.json").write_text(json.dumps({"model_type": kind}))
    assert_same(stories)


def test_the_class_of_each_kind_of_model_is_that_of_transformers():
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    assert {kind: TOKENIZER_MAPPING_NAMES[kind][1] for kind in _CLASSES} == {
        kind: f"{name}Fast" for kind, name in _CLASSES.items()
    }


def test_ids_where_the_file_cuts_and_pads(stories):
    change(
        stories,
        "tokenizer.json",
        truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<unk>",
        },
    )
    assert_same(stories)
    assert len(Tokens(stories).encode("Once upon a time")) == 5


def test_ids_with_a_space_put_ahead(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(REFERENCE / name, tmp_path)
    change(tmp_path, add_prefix_space=True)
    assert_same(tmp_path)
    assert Tokens(tmp_path).encode("the") == Tokens(REFERENCE).encode(" the")


def test_a_token_that_only_the_settings_have_is_added(stories):
    change(stories, additional_special_tokens=["<|end|>"], pad_token="<pad>")
    theirs = auto(stories)
    assert Tokens(stories).encode("a<|end|>b<pad>") == tuple(theirs("a<|end|>b<pad>")["input_ids"])


def test_special_tokens_from_their_own_file_in_older_folders(stories):
    change(stories, drop=("bos_token", "eos_token", "unk_token", "added_tokens_decoder"))
    assert_same(stories)


def test_files_that_disagree_on_a_token_are_an_error(stories):
    added = json.loads((stories / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    change(stories, added_tokens_decoder=added | {"2": added["2"] | {"content": "<other>"}})
    with pytest.raises(InputError, match="'<other>' is not token 2"):
        Tokens(stories)


def test_without_tokenizer_json_the_error_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json.*save_pretrained"):
        Tokens(tmp_path)


def test_a_file_that_is_no_tokenizer_is_an_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        Tokens(tmp_path)


def streamed(tokens, prompt, ids):
    stream = TextStream(tokens, prompt)
    return [stream.push([token], last=index == len(ids) - 1) for index, token in enumerate(ids)]


LONG = "caf\u00e9 \u65e5\u672c\u8a9e \U0001f468\u200d\U0001f469\u200d\U0001f467 end\n\n and \u00fc"


@pytest.mark.parametrize("where", ["stories260K", "reference"])
def test_streamed_text_is_cut_between_characters_and_is_the_whole(data_dir, where):
    tokens = Tokens(REFERENCE if where == "reference" else data_dir / "models" / "stories260K")
    prompt, ids = tokens.encode("Lily said"), tokens.encode(LONG, special=False)
    parts = streamed(tokens, prompt, ids)
    whole = tokens.decode([*prompt, *ids])
    assert "Lily said" + "".join(parts) == whole
    assert all("\ufffd" not in part for part in parts)
    assert sum(map(bool, parts)) > 8  # it came in parts


def test_the_space_behind_a_prompt_belongs_to_the_answer(data_dir):
    tokens = Tokens(data_dir / "models" / "stories260K")
    answer = tokens.encode("and Tom", special=False)
    assert "".join(streamed(tokens, tokens.encode("Lily"), answer)) == " and Tom"
    assert "".join(streamed(tokens, tokens.encode("")[:1], answer)) == "and Tom"


@pytest.mark.parametrize("where", ["stories260K", "reference"])
@pytest.mark.parametrize("seed", range(20))
def test_streamed_text_of_any_tokens_is_the_whole(data_dir, where, seed):
    import random

    tokens = Tokens(REFERENCE if where == "reference" else data_dir / "models" / "stories260K")
    # Single bytes are among the first tokens of both, and most rows of them are no characters.
    pick = random.Random(seed)
    ids = [pick.randrange(3, 259) if pick.random() < 0.7 else pick.randrange(260, 512) for _ in range(40)]
    parts = streamed(tokens, (), ids)
    assert "".join(parts) == tokens.decode(ids)


def test_a_prompt_that_ends_within_a_character(data_dir):
    for tokens in (Tokens(REFERENCE), Tokens(data_dir / "models" / "stories260K")):
        ids = tokens.encode("a \U0001f600", special=False)
        parts = streamed(tokens, ids[:-1], ids[-1:])
        assert all(isinstance(part, str) for part in parts)  # told, and no error


def test_a_decoder_that_takes_text_back_is_an_error():
    class Fickle:
        def is_byte(self, token):
            return token < 0

        def decode(self, ids):
            return "".join(f"{token + len(ids)}" for token in ids)

    stream = TextStream(Fickle(), ())
    stream.push([1], last=False)
    with pytest.raises(ContractError, match="changed text that was sent"):
        stream.push([1], last=False)
