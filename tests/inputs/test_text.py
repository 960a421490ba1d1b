from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from qexport.core.errors import InputError
from qexport.inputs.text import (
    MIN_TOKENS,
    Text,
    load_dataset_text,
    load_text,
    make_sentences,
    make_windows,
    split_sentences,
)
from tests.inputs.conftest import refused, tiny_tokenizer

STORY = 'The fox saw a red stone. "Why?" asked the owl. Mr. Fox kept it in his pocket!\nShe laughed.'


# Files


def test_txt_is_one_document(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("One.\n\nTwo.\n")
    assert load_text(path) == Text("story.txt", ("One.\n\nTwo.",))


def test_txt_documents_end_at_marked_lines(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text(
        "One.\nStill one.\n<|endoftext|>\n\nTwo, with <|endoftext|> inside.\n <|endoftext|> \n<|endoftext|>\n"
    )
    assert load_text(path).documents == ("One.\nStill one.", "Two, with <|endoftext|> inside.")


def test_windows_line_ends_and_a_byte_order_mark_are_no_text(tmp_path):
    path = tmp_path / "story.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\r\n<|endoftext|>\r\nTwo.\r\n")
    assert load_text(path).documents == ("One.", "Two.")


def test_jsonl_holds_objects_or_strings(tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text('{"id": 1, "text": "One\u2028line."}\n\n"Two."\n', encoding="utf-8")
    assert load_text(path).documents == ("One\u2028line.", "Two.")


def test_json_holds_a_list(tmp_path):
    path = tmp_path / "stories.json"
    path.write_text('["One.", {"text": "Two."}, "  "]')
    assert load_text(path).documents == ("One.", "Two.")


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"", ["holds no text"]),
        ("a.txt", b" \n\t\n", ["holds no text"]),
        ("a.txt", b"<|endoftext|>\n", ["holds no text"]),
        ("a.txt", b"caf\xe9", ["not UTF-8", "byte 3"]),
        ("a.jsonl", b"", ["holds no text"]),
        ("a.jsonl", b'"One."\n{"text": "Two.}\n', ["a.jsonl:2", "not a line of JSON"]),
        ("a.jsonl", b'{"story": "One."}\n', ["a.jsonl:1", '"text"']),
        ("a.jsonl", b'{"text": 3}\n', ["a.jsonl:1", '"text"']),
        ("a.jsonl", b'["One."]\n', ["a.jsonl:1", "neither a string"]),
        ("a.json", b"", ["holds no text"]),
        ("a.json", b"[]", ["holds no text"]),
        ("a.json", b'{"text": "One."}', ["no list"]),
        ("a.json", b'["One."', ["not JSON", ".jsonl"]),
        ("a.json", b'["One.", 2]', ["item 1"]),
        ("a.jsonl", b'"One."\n{"text": "Bad \\ud83d end."}\n', ["a.jsonl:2: half a surrogate pair", "\\ud83d"]),
        ("a.jsonl", b'{"text": "One.", "by": ["\\udca9"]}\n', ["a.jsonl:1: half a surrogate pair"]),
        ("a.jsonl", b'{"text": "One.", "\\udca9": 1}\n', ["a.jsonl:1: half a surrogate pair"]),
        ("a.json", b'["One.", "\\udca9\\ud83d"]', ["item 1: half a surrogate pair"]),
        ("a.jsonl", b'"One."\n' + b"[" * 100_000, ["a.jsonl:2", "not a line of JSON"]),
        ("a.json", b"[" * 100_000, ["a.json", "not JSON"]),
        ("a.csv", b"One.", [".txt, .jsonl, .json"]),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, parts):
    path = tmp_path / name
    path.write_bytes(content)
    refused(lambda: load_text(path), str(path), *parts)


def test_both_halves_of_a_pair_are_one_character(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('"A \\ud83e\\udd8a runs."\n')
    assert load_text(path).documents == ("A \N{FOX FACE} runs.",)


def test_a_name_that_cannot_be_written_is_shown(tmp_path):
    path = tmp_path / "caf\udce9\x1b.txt"
    try:
        path.write_text("One.")
    except OSError:
        pytest.skip("file names are UTF-8 here")
    assert load_text(path).origin == r"caf\xe9\x1b.txt"


def test_a_file_that_is_not_there(tmp_path):
    refused(lambda: load_text(tmp_path / "none.txt"), "none.txt", "No such file")
    refused(lambda: load_text(tmp_path / "x.txt" / ".txt"), "unknown kind")
    (tmp_path / "folder.txt").mkdir()
    refused(lambda: load_text(tmp_path / "folder.txt"), "folder.txt", "cannot be read")


# Datasets


@pytest.mark.parametrize("spec", ["wikitext", "a:b:c:d", "wikitext::test", ":x:test", "", "wikitext:"])
def test_a_dataset_spec_of_another_form(spec):
    refused(lambda: load_dataset_text(spec), "NAME:CONFIG:SPLIT", "wikitext:wikitext-2-raw-v1:test")


def test_a_dataset_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    refused(lambda: load_dataset_text("wikitext:wikitext-2-raw-v1:test"), "cannot load", "--text")


def dataset(folder, rows, column="text") -> str:
    folder.mkdir()
    (folder / "test.jsonl").write_text("".join(json.dumps({column: row}) + "\n" for row in rows))
    return f"{folder}:test"


def test_rows_of_a_local_dataset_are_documents(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    spec = dataset(tmp_path / "stories", ["One.", "", "Two."])
    assert load_dataset_text(spec) == Text(spec, ("One.", "Two."))


def test_lines_of_wikitext_are_joined_to_articles(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = ["", " = First = \n", "", " A line .\n", " = = Deeper = = \n", " More .\n", " = Second = \n", " End .\n"]
    documents = load_dataset_text(dataset(tmp_path / "wiki", rows)).documents
    assert [document.split("\n")[0].strip() for document in documents] == ["= First =", "= Second ="]
    assert "Deeper" in documents[0]


def test_a_dataset_without_text(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    refused(lambda: load_dataset_text(dataset(tmp_path / "other", ["One."], "story")), "no column text, only story")
    refused(lambda: load_dataset_text(f"{tmp_path / 'other'}:train"), "cannot load")


@pytest.mark.network
def test_wikitext_from_the_hub():
    documents = load_dataset_text("wikitext:wikitext-2-raw-v1:test").documents
    assert documents[0].startswith("= Robert Boulter =")


# Windows


def test_windows_cover_every_token_once_and_begin_with_bos(tokenizer):
    text = Text("x", (STORY, STORY * 3))
    windows = make_windows(text, tokenizer, window=10, limit=None)
    bos = tokenizer.bos_token_id
    assert all(sequence[0] == bos and len(sequence) <= 10 for sequence in windows.sequences)
    assert all(sequence.dtype == np.int64 and len(sequence) >= MIN_TOKENS for sequence in windows.sequences)
    fed = sum(len(sequence) - 1 for sequence in windows.sequences)
    tokens = [len(tokenizer(document)["input_ids"]) for document in text.documents]
    dropped = sum(1 for count in tokens if count % 9 == 1)  # tails of one token
    assert fed == sum(tokens) - dropped
    assert windows.tokens == fed + len(windows.sequences)


def test_a_window_holds_one_document_only(tokenizer):
    windows = make_windows(Text("x", ("The fox saw.", STORY)), tokenizer, window=32, limit=None)
    assert tokenizer.decode(windows.sequences[0][1:]) == "The fox saw."


def test_without_bos_nothing_is_put_before():
    tokenizer = tiny_tokenizer(bos=False)
    windows = make_windows(Text("x", (STORY,)), tokenizer, window=8, limit=None)
    assert tokenizer.decode(np.concatenate(windows.sequences)) in STORY
    assert len(windows.sequences[0]) == 8


def test_a_limit_takes_the_first_windows(tokenizer):
    text = Text("x", (STORY, STORY))
    every, some = (make_windows(text, tokenizer, window=10, limit=limit) for limit in (None, 3))
    assert len(some.sequences) == 3
    assert all(np.array_equal(a, b) for a, b in zip(every.sequences[:3], some.sequences, strict=True))


def test_many_short_documents_make_up_a_window(tokenizer):
    windows = make_windows(Text("x", ("The fox saw a stone.",) * 20), tokenizer, window=40, limit=None)
    assert len(windows.sequences) == 20


def test_text_shorter_than_a_window(tokenizer):
    refused(lambda: make_windows(Text("a.txt", (STORY,)), tokenizer, window=500, limit=None), "a.txt", "window of 500")
    refused(lambda: make_windows(Text("a.txt", (STORY,)), tokenizer, window=500, limit=1), "a.txt", "window of 500")


def test_a_window_too_small_to_score(tokenizer):
    refused(lambda: make_windows(Text("a.txt", (STORY,)), tokenizer, window=2, limit=None), "at least 3")


@pytest.mark.parametrize("bos", [True, False])
def test_no_document_is_long_enough_to_score(bos):
    text, needed = Text("words.jsonl", ("a",) * 600), 2 if bos else 3
    message = f"words.jsonl: no document is long enough to score; one must have {needed} tokens, and the longest has 1;"
    refused(lambda: make_windows(text, tiny_tokenizer(bos=bos), window=24, limit=None), message)
    refused(lambda: make_windows(text, tiny_tokenizer(bos=bos), window=24, limit=5), message)


def test_one_document_that_is_long_enough_will_do(tokenizer):
    assert len(make_windows(Text("x", ("a",) * 600 + ("aa",)), tokenizer, window=24, limit=None).sequences) == 1


# Tokens that the model has no row for


def with_chat_tokens():
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == 300
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    return tokenizer


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("chat.jsonl", json.dumps(STORY) + "\n\n" + json.dumps(f"{STORY} Then <|end|>"), "chat.jsonl:3"),
        ("chat.json", json.dumps([STORY, f"One.\n{STORY}<|end|>"]), "chat.json: item 1"),
        ("chat.txt", f"\n{STORY}\nOne <|end|> two.", "chat.txt:4"),
        ("chat.txt", f"{STORY}\n<|endoftext|>\n\n\n{STORY}\n{STORY}\n\n<|end|>", "chat.txt:11"),
        ("chat.txt", f"<|end|>{STORY}\n<|endoftext|>\n{STORY}", "chat.txt:1"),
    ],
)
def test_a_token_without_a_row_is_named_with_its_file_and_line(tmp_path, name, content, place):
    path, tokenizer = tmp_path / name, with_chat_tokens()
    path.write_text(content)
    message = f"{tmp_path}/{place}: the token <|end|> is number 301, and the model has rows for 0 to 299 only"
    refused(lambda: make_windows(load_text(path), tokenizer, window=16, limit=None, rows=300), message)
    refused(lambda: make_sentences(load_text(path), tokenizer, limit=None, rows=300), message)
    assert make_windows(load_text(path), tokenizer, window=16, limit=None, rows=302).sequences


def test_a_text_without_such_tokens_is_taken(tokenizer):
    text = Text("plain.jsonl", (STORY, "A user said <|user."))
    windows, own = (make_windows(text, one, window=16, limit=None, rows=300) for one in (with_chat_tokens(), tokenizer))
    assert windows.sha256 == own.sha256


def test_documents_of_no_file_are_counted():
    text = Text("wiki:test", (STORY, f"{STORY} <|user|>"))
    refused(
        lambda: make_windows(text, with_chat_tokens(), window=16, limit=None, rows=300),
        "wiki:test: document 2: the token <|user|> is number 300",
    )


def test_a_token_that_begins_every_text_may_have_no_row_either():
    tokenizer = with_chat_tokens()
    tokenizer.bos_token = "<|user|>"
    refused(lambda: make_windows(Text("x", (STORY,)), tokenizer, window=16, limit=None, rows=300), "<|user|>")


# Digests


def test_the_digest_tells_ids_and_cuts_apart(tokenizer):
    text = Text("x", (STORY,))
    one, two, three = (make_windows(text, tokenizer, window=window, limit=None) for window in (10, 11, 10))
    assert one.sha256 == three.sha256 != two.sha256


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.integers(3, 20))
def test_windows_of_any_text_are_within_bounds(documents, window):
    tokenizer = _any_tokenizer()
    try:
        windows = make_windows(Text("x", tuple(documents)), tokenizer, window=window, limit=None)
    except InputError:
        return
    assert all(MIN_TOKENS <= len(sequence) <= window for sequence in windows.sequences)


_CACHED = []


def _any_tokenizer():
    if not _CACHED:
        _CACHED.append(tiny_tokenizer())
    return _CACHED[0]


# Sentences


@pytest.mark.parametrize(
    ("document", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('"Why?" asked Mr. Hill. She knew.', ['"Why?" asked Mr. Hill.', "She knew."]),
        ("A line\n\nAnother line.\n", ["A line", "Another line."]),
        ("“Stop!” He ran.", ["“Stop!”", "He ran."]),
        ("It cost 3.50 today. 4 came.", ["It cost 3.50 today.", "4 came."]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("  \n ", []),
    ],
)
def test_sentences(document, sentences):
    assert split_sentences(document) == sentences


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='aB.!?" \n’Mr', max_size=60))
def test_sentences_lose_nothing_but_white_space(document):
    assert "".join("".join(split_sentences(document)).split()) == "".join(document.split())


_AS_IT_WAS = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?]+[\"'”’)\]]*(?P<gap>\s+)(?![a-z])|(?P<line>\s*\n\s*)"
)
"""The expression that sentences were split by at first. It takes a time that grows with the square of a run of spaces."""


def split_as_it_was(document):
    sentences, start = [], 0
    for end in _AS_IT_WAS.finditer(document):
        stop = end.start("gap") if end["gap"] else end.start()
        sentences.append(document[start:stop].strip())
        start = end.end()
    sentences.append(document[start:].strip())
    return [sentence for sentence in sentences if sentence]


_PIECES = (*"aBz.!?\"'”’)] \t\n\r\u2028\xa0", "Mr", "Mrs", "Ms", "Dr", "St", "xMr", "Mr.", ".\n", ". ", "?! ", "é", "_")


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=24).map("".join))
def test_sentences_are_what_they_always_were(document):
    assert split_sentences(document) == split_as_it_was(document)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_so_are_those_of_any_text(document):
    assert split_sentences(document) == split_as_it_was(document)


def test_sentences_begin_with_bos_and_are_cut_to_the_context(tokenizer):
    sentences = make_sentences(Text("x", (STORY,)), tokenizer, limit=None, max_tokens=6)
    assert all(sequence[0] == tokenizer.bos_token_id and 3 <= len(sequence) <= 6 for sequence in sentences.sequences)
    whole = make_sentences(Text("x", (STORY,)), tokenizer, limit=None)
    decoded = [tokenizer.decode(sequence[1:]) for sequence in whole.sequences]
    assert decoded == split_sentences(STORY)


def test_a_limit_spreads_over_the_text(tokenizer):
    text = Text("x", tuple(f"Story {number} ends here." for number in range(100)))
    sentences = make_sentences(text, tokenizer, limit=4)
    decoded = [tokenizer.decode(sequence[1:]) for sequence in sentences.sequences]
    assert decoded == [f"Story {number} ends here." for number in (0, 25, 50, 75)]


def test_no_sentence_is_long_enough(tokenizer):
    refused(
        lambda: make_sentences(Text("a.txt", ("A\nB",)), tokenizer, limit=None),
        "a.txt: no sentence is long enough to score; one must have 2 tokens, and the longest has 1;",
    )


# Real text


@pytest.mark.parametrize(
    ("name", "documents"),
    [("wikitext-2-valid.txt", 1), ("tinystories_500.json", 500), ("wikitext_1000.json", 1000)],
)
def test_real_files(data_dir, name, documents):
    text = load_text(data_dir / "text" / name)
    assert len(text.documents) == documents
    for document in text.documents:
        assert split_sentences(document) == split_as_it_was(document)
