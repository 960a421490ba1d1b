"""Tokenizers of artifacts, of kinds that runtimes without transformers would read otherwise."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from qexport.core.artifact import load_artifact
from qexport.core.errors import InputError, QExportError, UnsupportedHere
from qexport.deployment.layouts.files import copy_side_files
from qexport.deployment.layouts.tokenizer import adds_bos, require_chat_template, settle
from tests.plants import planted

TOKENIZER, CONFIG, SPECIAL = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
END = "<|endoftext|>"
USER = "<|user|>"
TEXTS = (
    "the quick brown fox",
    "  over  the\n\nlazy\tdog ",
    "Käse, 茶 and 🦊",
    f"{END}the{END}",
    f"{USER}the dog {USER} other",
    "the fox and the dog " * 40,
    "",
)
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


def as_it_is(_folder):
    pass


@pytest.fixture
def settled(fp32, tmp_path):
    """``settled(change)`` is the artifact with changed tokenizer files, the folder of its layout and what was told."""

    def make(change=as_it_is):
        art = planted(fp32("llama"), tmp_path / "art", files=change)
        (tmp_path / "out").mkdir()
        copy_side_files(art, tmp_path / "out")
        return art, tmp_path / "out", settle(art, tmp_path / "out")

    return make


def edit(path, **changes):
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def config_of(folder):
    return json.loads((folder / CONFIG).read_text())


def check_alike(art, folder):
    """What other runtimes read, and what transformers reads in the layout, encodes as transformers does in the artifact."""
    from transformers import AutoTokenizer

    wanted = AutoTokenizer.from_pretrained(art.path, local_files_only=True)
    again = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    alone = Tokenizer.from_file(str(folder / TOKENIZER))
    alone.no_truncation()
    alone.no_padding()
    for text in TEXTS:
        ids = wanted(text).input_ids
        assert again(text).input_ids == ids
        assert alone.encode(text).ids == ids, text
    assert config_of(folder)["add_bos_token"] == (wanted("a").input_ids[0] == wanted.bos_token_id)


def adding_bos(folder):
    single = [{"SpecialToken": {"id": END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    processor = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
    }
    edit(folder / TOKENIZER, post_processor=processor)


def test_a_tokenizer_that_adds_nothing(settled):
    art, out, told = settled()
    assert told == {CONFIG: "add_bos_token set to false"}
    assert (out / TOKENIZER).read_bytes() == (art.path / TOKENIZER).read_bytes()
    assert config_of(out) == config_of(art.path) | {"add_bos_token": False}
    check_alike(art, out)


def test_a_tokenizer_that_adds_bos(settled):
    art, out, told = settled(adding_bos)
    assert told == {CONFIG: "add_bos_token set to true"}
    assert (out / TOKENIZER).read_bytes() == (art.path / TOKENIZER).read_bytes()
    check_alike(art, out)


@pytest.mark.parametrize("adds", [False, True])
def test_a_configuration_that_says_the_opposite(settled, adds):
    """transformers goes by tokenizer.json here, other runtimes by the configuration."""

    def change(folder):
        if adds:
            adding_bos(folder)
        edit(folder / CONFIG, add_bos_token=not adds)

    art, out, told = settled(change)
    assert told == {CONFIG: f"add_bos_token set to {str(adds).lower()}"}
    check_alike(art, out)


@pytest.mark.parametrize("adds", [False, True])
def test_a_configuration_that_is_right_stays_byte_for_byte(settled, adds):
    def change(folder):
        if adds:
            adding_bos(folder)
        edit(folder / CONFIG, add_bos_token=adds, note="Käse")

    art, out, told = settled(change)
    assert told == {}
    for name in (TOKENIZER, CONFIG):
        assert (out / name).read_bytes() == (art.path / name).read_bytes()


def test_a_class_of_transformers_that_adds_bos_in_code(settled):
    """tokenizer.json says nothing of it: LlamaTokenizerFast makes its post-processor when it is loaded."""
    art, out, told = settled(
        lambda folder: edit(folder / CONFIG, tokenizer_class="LlamaTokenizerFast", add_bos_token=True, legacy=False)
    )
    assert told == {TOKENIZER: "written by transformers, to encode as it does"}
    assert Tokenizer.from_file(str(out / TOKENIZER)).encode("the").ids[0] == 0
    assert config_of(out)["add_bos_token"] is True
    check_alike(art, out)


def test_a_setting_that_transformers_applies_in_code(settled):
    art, out, told = settled(
        lambda folder: edit(folder / CONFIG, tokenizer_class="GPT2TokenizerFast", add_prefix_space=True)
    )
    assert set(told) == {TOKENIZER, CONFIG}
    check_alike(art, out)


def in_two_files(folder):
    model = json.loads((folder / TOKENIZER).read_text())["model"]
    (folder / TOKENIZER).unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    edit(folder / CONFIG, tokenizer_class="GPT2Tokenizer", unk_token=END)


def test_a_vocabulary_and_merges_become_one_file(settled):
    art, out, told = settled(in_two_files)
    assert told == {
        TOKENIZER: "written by transformers, to encode as it does",
        CONFIG: "add_bos_token set to false",
    }
    check_alike(art, out)


@pytest.mark.parametrize(
    "left_on",
    [
        {"truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}},
        {
            "padding": {
                "strategy": {"Fixed": 16},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": END,
            }
        },
    ],
    ids=lambda left_on: next(iter(left_on)),
)
def test_truncation_or_padding_left_on_is_no_difference(settled, left_on):
    """transformers, onnxruntime-genai 0.18 and Transformers.js 4.3 all pass over it."""
    art, out, told = settled(lambda folder: edit(folder / TOKENIZER, **left_on))
    assert told == {CONFIG: "add_bos_token set to false"}
    check_alike(art, out)


def only_in_the_configuration(folder):
    edit(folder / CONFIG, additional_special_tokens=[USER])


def only_among_its_added_tokens(folder):
    known = config_of(folder)["added_tokens_decoder"]
    size = len(json.loads((folder / TOKENIZER).read_text())["model"]["vocab"])
    edit(folder / CONFIG, added_tokens_decoder={**known, str(size): known["0"] | {"content": USER}})


@pytest.mark.parametrize("change", [only_in_the_configuration, only_among_its_added_tokens])
def test_tokens_that_only_transformers_adds(settled, change):
    """Of chats they are the ones that matter; onnxruntime-genai and Transformers.js read them from tokenizer.json only."""
    from transformers import AutoTokenizer

    art, out, _ = settled(change)
    wanted = AutoTokenizer.from_pretrained(art.path, local_files_only=True)
    assert len(wanted(USER).input_ids) == 1, "or the test is none"
    check_alike(art, out)


def test_special_tokens_that_are_taken_for_text(settled):
    """What a user types must not become a control token in one runtime and none in the other."""
    try:
        art, out, _ = settled(lambda folder: edit(folder / CONFIG, split_special_tokens=True))
    except QExportError as error:
        assert "tokenizer" in str(error)  # noqa: PT017 (either is right, so long as it is not silent)
        return
    check_alike(art, out)


def test_a_tokenizer_in_python_only(settled):
    def change(folder):
        in_two_files(folder)
        edit(folder / CONFIG, tokenizer_class="CTRLTokenizer")
        edit(folder / "config.json", model_type="ctrl")

    with pytest.raises(UnsupportedHere, match=r"exists in Python only, and other runtimes read tokenizer\.json"):
        settled(change)


@pytest.mark.parametrize("name", [TOKENIZER, CONFIG])
def test_a_tokenizer_that_cannot_be_read(settled, name):
    with pytest.raises(InputError, match="the tokenizer cannot be read"):
        settled(lambda folder: (folder / name).write_text("{"))


@pytest.mark.parametrize("change", [adding_bos, in_two_files, as_it_is])
def test_what_was_settled_is_settled(settled, fp32, tmp_path, change):
    _, out, _ = settled(change)

    def take(folder):
        for name in (TOKENIZER, CONFIG):
            (folder / name).write_bytes((out / name).read_bytes())

    again = planted(fp32("llama"), tmp_path / "again", files=take)
    assert settle(again, again.path) == {}
    load_artifact(again.path, verify=True)


def test_no_bos_where_there_is_none(settled):
    from transformers import AutoTokenizer

    def change(folder):
        edit(folder / CONFIG, bos_token=...)
        edit(folder / SPECIAL, bos_token=...)

    art, out, _ = settled(change)
    tokenizer = AutoTokenizer.from_pretrained(art.path, local_files_only=True)
    assert tokenizer.bos_token_id is None
    assert not adds_bos(tokenizer)
    assert config_of(out)["add_bos_token"] is False


# Chat templates


def in_the_configuration(folder):
    edit(folder / CONFIG, chat_template=TEMPLATE)


def in_a_file_of_its_own(folder):
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def among_named_ones(folder):
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "tools"}]
    edit(folder / CONFIG, chat_template=named)


def test_a_template_in_a_file_of_its_own_goes_into_the_configuration(settled):
    art, out, told = settled(in_a_file_of_its_own)
    assert told == {CONFIG: "add_bos_token set to false and the chat template put in"}
    assert config_of(out)["chat_template"] == TEMPLATE
    require_chat_template(art)


def test_a_template_in_the_configuration_stays(settled):
    art, out, told = settled(in_the_configuration)
    assert told == {CONFIG: "add_bos_token set to false"}
    assert config_of(out) == config_of(art.path) | {"add_bos_token": False}
    require_chat_template(art)


def test_of_named_templates_the_usual_one_is_put_in(settled):
    """onnxruntime-genai 0.18 does not load a folder whose chat_template is no text: `type must be string, but is array`."""
    from transformers import AutoTokenizer

    art, out, told = settled(among_named_ones)
    assert config_of(out)["chat_template"] == TEMPLATE
    assert "chat template" in told[CONFIG]
    require_chat_template(art)
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False) == "<user>Hi"


def test_without_a_template_none_is_put_in(settled):
    art, out, _ = settled()
    assert "chat_template" not in config_of(out)
    with pytest.raises(UnsupportedHere, match=r"leave --chat out, or put a chat_template into tokenizer_config\.json"):
        require_chat_template(art)
