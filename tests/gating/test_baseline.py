from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from qexport.core.artifact import (
    CalibrationInfo,
    Manifest,
    ModelInfo,
    QuantizedNode,
    SelectionInfo,
    load_artifact,
    new_artifact,
)
from qexport.core.errors import InputError
from qexport.core.record import Measurement
from qexport.gating.baseline import (
    Baseline,
    Cpu,
    FloatChannels,
    Ran,
    StoredFeed,
    StoredRow,
    Structure,
    read_baseline,
    stored_samples,
    structure_of,
    write_baseline,
)

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROW = StoredRow(
    structure=Structure(
        recipe="int8-static",
        selection="--nodes attention",
        engine="ort",
        calibration="c" * 64,
        quantized={
            "int8 per channel, static activations": tuple(
                f"transformer.h.{layer}.attn.{part}/MatMul" for layer in range(12) for part in ("c_attn", "c_proj")
            ),
            "int8 per channel": ("lm_head/MatMul",),
        },
    ),
    ran=Ran(runtime="onnxruntime 1.31.0", providers=("cpu",), kernels={"integer_matmuls": 24}),
    samples={
        "perplexity": (10.25, 3.0, 7.125),
        "sentence_perplexity": (1.5, 2.5),
        "disk_bytes": (123456.0,),
        "piqa_acc": (1.0, 0.0, 1.0, 1.0),
    },
)
FP32 = StoredRow(structure=Structure(recipe="fp32"), samples=dict(ROW.samples))
FEEDS = {
    "perplexity": StoredFeed(text="my.txt", sequence="windows of at most 8 tokens", sha256="a" * 64, tokens=(7, 2, 5)),
    "sentence_perplexity": StoredFeed(text="my.txt", sequence="sentences", sha256="b" * 64, tokens=(3, 4)),
    "piqa_acc": StoredFeed(text="piqa.jsonl", sha256="d" * 64, plan_sha256="e" * 64),
}
WHOLE = Baseline(
    schema=2,
    model="gpt2",
    cpus={"0123456789ab": Cpu(machine="Some CPU", isa=("avx2", "avx512f"))},
    feeds=FEEDS,
    rows={"int8": ROW, "fp32": FP32},
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "baseline.json"


def row_of(names, **changed):
    structure = Structure(recipe="int8-static", quantized={"int8 per channel": tuple(names)})
    return StoredRow(structure=structure, samples={"disk_bytes": (1.0,)}, **changed)


def with_rows(rows):
    return Baseline(schema=2, model="m", rows=rows)


def again(path, baseline):
    write_baseline(path, baseline)
    return read_baseline(path)


# Written, and read again


def test_what_is_written_is_read_again(path):
    found = again(path, WHOLE)
    assert found.model_copy(update={"lines": {}}) == WHOLE
    assert os.listdir(path.parent) == ["baseline.json"]


LETTERS = st.characters(codec="utf-8")
WORDS = st.text(LETTERS, max_size=6)
LAYERS = st.builds(
    lambda before, number, after: f"{before}.{number}.{after}", WORDS, st.integers(0, 10**6).map(str), WORDS
)
NAMES = st.lists(
    st.one_of(
        WORDS,
        LAYERS,
        st.sampled_from(["h.0.a", "h.1.a", "h.2.a", "h.4.a", "h.10.a", "h.00.a", "h.1.2.a", "h.1.3.a", "1", ".1."]),
    ),
    unique=True,
    max_size=12,
)


@QUICK
@given(NAMES)
@example(["h.{0..3}.a"])
@example(["h.{0..3}.a", "h.5.a"])
@example(["h.{0..3}.5.a"])
@example(["h.{3..0}.a"])
@example(["h.01.a"])
@example(["h.01.a", "h.2.a"])
@example(["h.٣.a"])  # a digit to Unicode, and no layer of ours
@example(['say "h".1.a', "line\nbreak.2.a", "\\.3.\\", "\u2028.4.\x00"])
def test_names_of_nodes_come_back_as_they_were(path, names):
    baseline = with_rows({"a": row_of(names)})
    before = baseline.rows["a"].structure.quantized["int8 per channel"]
    assert before == tuple(sorted(names))
    assert again(path, baseline).rows["a"].structure.quantized["int8 per channel"] == before


def test_names_that_end_with_a_layer_or_hold_several(path):
    names = ["h.1", "h.2", "1.h", "h.1.2.3.a", "h.1.2.4.a", "h.2.2.3.a", "-1.a", "h.-1.a", "h..a", "h.1..2.a"]
    assert again(path, with_rows({"a": row_of(names)})).rows["a"].structure.quantized["int8 per channel"] == tuple(
        sorted(names)
    )


@QUICK
@given(
    st.dictionaries(st.text(LETTERS, min_size=1, max_size=8), st.lists(st.floats(0, 1e6), min_size=2, max_size=2)),
    st.text(LETTERS, max_size=8),
)
@example({"schema": [1.0, 1.0], "feeds": [1.0, 1.0], "rows": [1.0, 1.0], "perplexity": [0.1, 1e-9]}, '"\n\u2028')
def test_rows_of_any_name_and_samples_come_back(path, rows, model):
    if not rows:
        return
    feed = StoredFeed(text=model, tokens=(1, 2))
    made = Baseline(
        schema=2,
        model=model,
        feeds={"perplexity": feed},
        rows={
            name: StoredRow(structure=Structure(recipe=name), samples={"perplexity": tuple(samples)})
            for name, samples in rows.items()
        },
    )
    found = again(path, made)
    assert found.model_copy(update={"lines": {}}) == made
    lines = path.read_text(encoding="utf-8").split("\n")
    for name in rows:
        assert lines[found.lines[name] - 1].strip().startswith(json.dumps(name, ensure_ascii=False) + ": {")
        assert json.loads("{" + lines[found.lines[name] - 1].strip().rstrip(",") + "}")[name]["structure"]


# As people review it


def test_a_line_for_each_row_and_for_each_feed_sorted(path):
    found = again(path, WHOLE)
    lines = path.read_text().split("\n")
    assert [line.split(":")[0].strip() for line in lines] == [
        *("{", '"cpus"', '"model"', '"schema"'),
        *('"feeds"', '"perplexity"', '"piqa_acc"', '"sentence_perplexity"', "},"),
        *('"rows"', '"fp32"', '"int8"', "}", "}", ""),
    ]
    assert found.lines == {"fp32": 11, "int8": 12}
    assert json.loads("\n".join(lines))["schema"] == 2
    row = json.loads("{" + lines[11].strip() + "}")["int8"]
    assert list(row) == sorted(row)
    assert list(row["samples"]) == sorted(row["samples"])
    assert row["samples"]["piqa_acc"] == "1011"
    assert row["samples"]["disk_bytes"] == [123456]
    assert isinstance(row["samples"]["disk_bytes"][0], int)


def test_the_same_baseline_is_the_same_bytes(path):
    write_baseline(path, WHOLE)
    first = path.read_bytes()
    assert again(path, read_baseline(path)).lines  # what was read says where, and that is not written
    assert path.read_bytes() == first
    turned = WHOLE.model_copy(
        update={
            "rows": dict(reversed(WHOLE.rows.items())),
            "feeds": dict(reversed(WHOLE.feeds.items())),
        }
    )
    write_baseline(path, turned)
    assert path.read_bytes() == first


def test_layers_are_written_as_one_range(path):
    found = again(path, WHOLE)
    text = path.read_text()
    kinds = json.loads(text)["rows"]["int8"]["structure"]["quantized"]
    assert kinds == {
        "int8 per channel": ["lm_head/MatMul"],
        "int8 per channel, static activations": [
            ["transformer.h.", 0, 11, ".attn.c_attn/MatMul"],
            ["transformer.h.", 0, 11, ".attn.c_proj/MatMul"],
        ],
    }
    assert len(found.rows["int8"].structure.quantized["int8 per channel, static activations"]) == 24


def test_ranges_have_no_layer_that_was_not_there(path):
    names = [f"h.{layer}.a" for layer in (0, 1, 2, 4, 9, 10, 11)]
    found = again(path, with_rows({"a": row_of(names)}))
    assert json.loads(path.read_text())["rows"]["a"]["structure"]["quantized"]["int8 per channel"] == [
        ["h.", 0, 2, ".a"],
        ["h.", 9, 11, ".a"],
        "h.4.a",
    ]
    assert set(found.rows["a"].structure.quantized["int8 per channel"]) == set(names)


def test_one_row_more_is_one_line_more(path):
    write_baseline(path, WHOLE)
    before = path.read_text().split("\n")
    write_baseline(path, WHOLE.model_copy(update={"rows": WHOLE.rows | {"gptq": FP32}}))
    after = path.read_text().split("\n")
    assert len(after) == len(before) + 1
    assert len(set(after) - set(before)) == 1


# What of an artifact is kept


def test_what_a_manifest_says_is_kept_without_its_place(tmp_path, path):
    def node(name, **changed):
        plain = {"weight": name, "weight_dtype": "int8", "per_channel": True, "activation": "static"}
        return QuantizedNode(name=name, **plain | changed)

    made = Manifest(
        kind="onnx",
        model=ModelInfo(name="tiny", weights_sha256="0" * 64, architecture="gpt2", parameters=4),
        recipe="int8-static",
        engine="ort",
        selection=SelectionInfo(rules="--nodes attention", nodes=()),
        quantized=(
            node("h.1.b", float_channels=(2, 5, 7)),
            node("h.0.b"),
            node("lm_head", activation="none", per_channel=False),
            node("wte", weight_dtype="int4", activation="none", per_channel=False, block_size=32),
        ),
        calibration=CalibrationInfo(method="minmax", text="my.txt", tokens_sha256="c" * 64, windows=2, tokens=9),
        weight_bytes=16,
    )
    with new_artifact(tmp_path / "mine") as draft:
        (draft.path / "model.onnx").write_bytes(b"x")
        draft.finish(made)
    structure = structure_of(load_artifact(tmp_path / "mine"))
    assert structure == Structure(
        recipe="int8-static",
        selection="--nodes attention",
        engine="ort",
        calibration="c" * 64,
        quantized={
            "int8 per channel, static activations": ("h.0.b", "h.1.b"),
            "int8 per tensor": ("lm_head",),
            "int4 blocks of 32": ("wte",),
        },
        float_channels=FloatChannels(nodes=1, channels=3),
    )
    found = again(path, with_rows({"mine": StoredRow(structure=structure, samples={"disk_bytes": (1.0,)})}))
    assert found.rows["mine"].structure == structure
    assert str(tmp_path) not in path.read_text()
    assert tmp_path.name not in path.read_text()


def test_an_artifact_with_nothing_quantized(tmp_path):
    info = ModelInfo(name="tiny", weights_sha256="0" * 64, architecture="gpt2", parameters=4)
    with new_artifact(tmp_path / "mine") as draft:
        (draft.path / "model.onnx").write_bytes(b"x")
        draft.finish(Manifest(kind="onnx", model=info, recipe="fp32", weight_bytes=16))
    assert structure_of(load_artifact(tmp_path / "mine")) == Structure(recipe="fp32")


# Measurements out of it


def test_a_row_is_a_measurement_again():
    record = WHOLE.record("int8", "perplexity")
    assert record.columns == ("nll_nats", "tokens")
    assert record.samples == ((10.25, 7.0), (3.0, 2.0), (7.125, 5.0))
    assert (record.row, record.model, record.recipe, record.metric) == ("int8", "gpt2", "int8-static", "perplexity")
    assert WHOLE.record("int8", "perplexity", 2).samples == record.samples[:2]
    assert WHOLE.record("int8", "sentence_perplexity", 1).samples == ((1.5, 3.0),)
    assert WHOLE.record("int8", "disk_bytes").samples == ((123456.0,),)
    accuracy = WHOLE.record("int8", "piqa_acc")
    assert (accuracy.columns, accuracy.samples) == (("correct",), ((1.0,), (0.0,), (1.0,), (1.0,)))
    assert WHOLE.record("gone", "perplexity") is None
    assert WHOLE.record("int8", "piqa_acc_norm") is None


@pytest.mark.parametrize("metric", list(ROW.samples))
def test_what_is_kept_of_a_measurement_makes_it_again(metric):
    record = WHOLE.record("fp32", metric)
    assert stored_samples(record) == FP32.samples[metric]
    assert Measurement.model_validate_json(record.model_dump_json(by_alias=True)) == record


# What cannot be read


def refused(path, *parts):
    with pytest.raises(InputError) as caught:
        read_baseline(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    for part in parts:
        assert part in message, message


AGAIN = "write it anew with `qexport gate --update`"


def test_a_file_that_is_not_there(path, tmp_path):
    refused(path, "no baseline there", "write one with `qexport gate --update`")
    refused(tmp_path, "cannot be read (Is a directory)")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["not a baseline", AGAIN]),
        (b"\xff{}", ["not a baseline", "byte 0 is not UTF-8", AGAIN]),
        (b"{", ["not a baseline", AGAIN]),
        (b'{"schema": 1}}', ["not a baseline", AGAIN]),
        (b"[" * 100_000, ["not a baseline", AGAIN]),
        (b'<<<<<<< HEAD\n{"schema": 1}', ["not a baseline", AGAIN]),
        (b"[]", ["not a baseline of format 2", AGAIN]),
        (b"3", ["not a baseline of format 2", AGAIN]),
        (b"null", ["not a baseline of format 2", AGAIN]),
        (b"{}", ["not a baseline of format 2", AGAIN]),
        (b'{"schema": 1}', ["not a baseline of format 2", AGAIN]),
        (b'{"schema": 0}', ["not a baseline of format 2", AGAIN]),
        (b'{"schema": -1}', ["not a baseline of format 2", AGAIN]),
        (b'{"schema": null}', ["not a baseline of format 2", AGAIN]),
        (b'{"schema": "1"}', ["not a baseline of format 2", AGAIN]),
        (b'{"schema": [1]}', ["not a baseline of format 2", AGAIN]),
        (b'{"schema": 3}', ["not a baseline of format 2", "install a newer qexport"]),
        (b'{"schema": 99}', ["not a baseline of format 2", "install a newer qexport"]),
        (b'{"schema": 2}', ["damaged baseline", "model", AGAIN]),
        (b'{"schema": 2, "model": "m"}', ["damaged baseline", "rows", AGAIN]),
    ],
)
def test_a_file_that_is_no_baseline(path, content, parts):
    path.write_bytes(content)
    refused(path, *parts)


def spoiled(change):
    values = {
        "schema": 2,
        "model": "m",
        "feeds": {"perplexity": {"tokens": [7, 2]}, "piqa_acc": {"sha256": "d"}},
        "rows": {
            "int8": {
                "structure": {"recipe": "int8-static", "quantized": {"int8": [["h.", 0, 2, ".a"]]}},
                "samples": {"perplexity": [1.5, 2.5], "piqa_acc": "10", "disk_bytes": [7]},
            }
        },
    }
    change(values, values["rows"]["int8"])
    return json.dumps(values)


def put(*places, value):
    """A change of the row that puts a value at a place."""

    def change(_whole, row):
        for place in places[:-1]:
            row = row[place]
        row[places[-1]] = value

    return change


def test_the_baseline_that_is_to_be_damaged_is_whole(path):
    path.write_text(spoiled(lambda _whole, _row: None))
    assert len(read_baseline(path).rows["int8"].structure.quantized["int8"]) == 3


DAMAGES = {
    "no rows": (lambda whole, _: whole.update(rows={}), "rows"),
    "rows as a list": (lambda whole, _: whole.update(rows=[]), "rows"),
    "a key too many": (lambda whole, _: whole.update(row={}), "row"),
    "lines that are no lines": (lambda whole, _: whole.update(lines="all"), "lines"),
    "no model": (lambda whole, _: whole.pop("model"), "model"),
    "a row without a structure": (lambda _, row: row.pop("structure"), "int8.structure"),
    "a row without samples": (lambda _, row: row.pop("samples"), "int8.samples"),
    "a sample more": (put("samples", "perplexity", value=[1.0] * 3), "perplexity: 3 samples, and 2 sequences"),
    "a sample less": (put("samples", "perplexity", value=[1.0]), "perplexity: 1 samples, and 2 sequences"),
    "no feed": (
        lambda whole, _: whole["feeds"].pop("perplexity"),
        "perplexity: the input that it was measured on is missing",
    ),
    "no feed of a task": (lambda whole, _: whole["feeds"].pop("piqa_acc"), "piqa_acc"),
    "no samples at all": (put("samples", "perplexity", value=[]), "perplexity"),
    "an unknown metric": (put("samples", "perplexitie", value=[1.0]), "perplexitie: is not a metric of a baseline"),
    "NaN": (put("samples", "perplexity", value=[1.0, float("nan")]), "perplexity"),
    "infinity": (put("samples", "perplexity", value=[1.0, float("inf")]), "perplexity"),
    "a word for a sample": (put("samples", "perplexity", value=[1.0, "x"]), "perplexity"),
    "no bits": (put("samples", "piqa_acc", value="1021"), "piqa_acc"),
    "not even one bit": (put("samples", "piqa_acc", value=""), "piqa_acc"),
    "no bytes": (put("samples", "disk_bytes", value=[0]), "disk_bytes"),
    "less than no bytes": (put("samples", "disk_bytes", value=[-7]), "disk_bytes"),
    "tokens that are none": (lambda whole, _: whole["feeds"]["perplexity"].update(tokens=[7, 0]), "perplexity"),
    "names that are no list": (put("structure", "quantized", value={"int8": "h.0.a"}), "quantized"),
    "names that are no words": (put("structure", "quantized", value={"int8": [3]}), "quantized"),
    "a range that goes down": (put("structure", "quantized", value={"int8": [["h.", 5, 2, ".a"]]}), "quantized"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_baseline(path, damage):
    change, part = DAMAGES[damage]
    path.write_text(spoiled(change))
    refused(path, "damaged baseline", part, AGAIN)


def test_a_row_that_a_merge_left_twice_is_not_silently_the_last(path):
    text = spoiled(lambda _whole, _row: None)
    row = text[text.index('"int8": {"structure"') : -2]
    path.write_text(text[:-2] + ", " + row + "}}")
    assert json.loads(path.read_text()) == json.loads(text)
    refused(path, "int8")


# What cannot be written


def test_the_old_file_is_kept_when_a_write_fails(path, tmp_path, monkeypatch):
    write_baseline(path, WHOLE)
    before = path.read_bytes()

    def full(self, *_given, **_named):
        with self.open("w") as handle:
            handle.write("{")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_text", full)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\); choose another place"):
            write_baseline(path, with_rows({"a": FP32.model_copy(update={"samples": {}})}))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["baseline.json"]


def test_places_where_nothing_can_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "folder", tmp_path / "none" / "b.json"):
        with pytest.raises(InputError, match="cannot be written") as caught:
            write_baseline(place, WHOLE)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{place}: ")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == []
