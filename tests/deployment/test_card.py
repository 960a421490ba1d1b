from __future__ import annotations

import math
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, metadata_load

from qexport.core.artifact import CalibrationInfo, FileInfo, Manifest, ModelInfo, NodeInfo, QuantizedNode, SelectionInfo
from qexport.core.errors import ContractError
from qexport.core.record import read_records
from qexport.deployment.card import Licence, card
from qexport.report.evidence import EvidenceFigure, find_evidence

REPORT = Path(__file__).parent.parent.parent / "docs" / "results" / "reference"
LICENCE = Licence(name="apache-2.0", source="as whoever published this says")
NODES = ("wte/Gather", "embedding"), ("h.0.attn/MatMul", "attention"), ("h.1.attn/MatMul", "attention")


def node(name, **changes):
    fields = {"weight_dtype": "int8", "per_channel": True, "activation": "static"} | changes
    return QuantizedNode(name=name, weight=f"{name}.weight", **fields)


MANIFEST = Manifest(
    kind="onnx",
    model=ModelInfo(
        name="openai-community/gpt2",
        revision="607a30d783dfa663caf39e06633721c8d4cfcd7e",
        weights_sha256="a" * 64,
        architecture="gpt2",
        parameters=1_000_000,
    ),
    exporter="fused",
    recipe="int8-static",
    engine="inc",
    parent_sha256="b" * 64,
    selection=SelectionInfo(
        rules="--nodes attention,embedding",
        nodes=tuple(NodeInfo(name=name, role=role, weight=f"{name}.weight", shape=(2, 2)) for name, role in NODES),
    ),
    quantized=(node(NODES[0][0], activation="none"), *(node(name) for name, _ in NODES[1:])),
    settings={"symmetric": False, "method": "percentile(percent=99.99)"},
    calibration=CalibrationInfo(
        method="minmax", text="calib_ration.txt", tokens_sha256="c" * 64, windows=40, tokens=11_158
    ),
    weight_bytes=1_050_000,
    files=(
        FileInfo(path="model.onnx", size_bytes=62_632, sha256="d" * 64),
        FileInfo(path="model.onnx.data", size_bytes=1_040_000, sha256="e" * 64),
    ),
    versions={"qexport": "0.1.0", "neural-compressor": "3.7.1"},
)
RUNTIMES = {"genai": "onnxruntime-genai", "transformersjs": "Transformers.js"}


def local(**changes):
    model = MANIFEST.model.model_copy(update={"name": "reference", "revision": ""})
    return MANIFEST.model_copy(update={"model": model, **changes})


@pytest.fixture(scope="module")
def measured():
    of = next(record for record in read_records(REPORT / "records.jsonl") if record.row == "int8-static (all)")
    return find_evidence(REPORT, of.artifact_sha256)


def written(manifest=MANIFEST, *, licence=LICENCE, evidence=None, runtimes=RUNTIMES):
    return card(
        manifest,
        artifact_sha256="f" * 64,
        files=manifest.files,
        repo_id="user/gpt2-int8",
        licence=licence,
        evidence=evidence,
        runtimes=runtimes,
    )


def test_only_runtimes_that_can_run_it_are_named():
    text = written(runtimes={"genai": "onnxruntime-genai"})
    assert "--to genai" in text
    assert "--to transformersjs" not in text


def test_the_front_matter_is_what_the_hub_reads(tmp_path, measured):
    path = tmp_path / "README.md"
    path.write_text(written(evidence=measured), encoding="utf-8")
    data = metadata_load(path)
    result = data.pop("model-index")[0]
    assert data == {
        "license": "apache-2.0",
        "base_model": "openai-community/gpt2",
        "base_model_relation": "quantized",
        "library_name": "onnx",
        "pipeline_tag": "text-generation",
        "tags": ["onnx", "qexport", "int8-static", "int8"],
    }
    assert result["name"] == "gpt2-int8"
    assert result["results"][0]["dataset"]["name"] == "held_out_evaluation.jsonl"
    metric = result["results"][0]["metrics"][0]
    assert metric["type"] == "perplexity"
    assert math.isclose(metric["value"], measured.perplexity.value, rel_tol=1e-5)
    assert ModelCard.load(path).data.eval_results[0].metric_value == metric["value"]


def test_a_text_of_the_hub_is_named_by_its_id(measured):
    text = measured.model_copy(update={"text": "Salesforce/wikitext:wikitext-2-raw-v1:test"})
    found = ModelCard(written(evidence=text)).data.eval_results[0]
    assert (found.dataset_type, found.dataset_config, found.dataset_split) == (
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
        "test",
    )


def test_a_local_model_is_told_in_words_and_not_linked():
    text = written(local())
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert "**reference** (a local folder, not a model of the hub)" in text
    assert "huggingface.co" not in text


def test_the_figures_read_as_in_the_report(measured):
    text = written(evidence=measured)
    report = (REPORT / "report.md").read_text()
    figures = next(line for line in text.splitlines() if line.startswith("| 1.435")).strip("| ").split(" | ")
    assert len(figures) == 2
    for figure in figures:
        assert figure in report
    assert "over 81 windows, 23,727 scored tokens" in text
    assert "interval contains 1" not in text


def test_a_difference_that_was_not_measurable_is_said_to_be_none(measured):
    level = measured.model_copy(update={"ratio": EvidenceFigure(value=1.001, low=0.999, high=1.003)})
    assert "The ratio's interval contains 1: no measurable difference." in written(evidence=level)


def test_a_perplexity_that_nobody_measured_is_said_to_be_missing():
    text = written()
    assert "## Perplexity\n\nNot measured. `qexport compare openai-community/gpt2 --recipes fp32,int8-static" in text
    assert "model-index" not in text


def test_a_broken_models_figure_is_shown_and_stays_out_of_the_front_matter(measured):
    broken = measured.model_copy(update={"perplexity": EvidenceFigure(value=math.nan, low=math.nan, high=math.nan)})
    text = written(evidence=broken)
    assert "| not finite (not finite to not finite)" in text
    assert "model-index" not in text


def test_what_was_found_quantized_is_counted_by_role():
    text = written()
    assert "`--nodes attention,embedding` asked for 3 nodes: 1 embedding and 2 attention." in text
    assert "| embedding | 1 | int8 | one a channel | as they are |" in text
    assert "| attention | 2 | int8 | one a channel | ranges from calibration |" in text


def test_other_nodes_than_were_asked_for_are_not_published():
    with pytest.raises(ContractError, match="3 nodes were selected, but other nodes are quantized"):
        written(MANIFEST.model_copy(update={"quantized": MANIFEST.quantized[:2]}))


def test_sizes_digests_calibration_and_versions_are_the_manifests():
    text = written()
    assert "**1.050 MB**, 26.2 % of what they take in fp32; all files, 1.103 MB" in text
    assert f"| `model.onnx.data` | 1,040,000 | `{'e' * 64}` |" in text
    for digest in "abcdf":
        assert f"`{digest * 64}`" in text
    assert "40 windows, 11,158 tokens" in text
    assert "Made with qexport 0.1.0, neural-compressor 3.7.1." in text
    assert "| Engine | neural-compressor 3.7.1 |" in text


def test_blocks_of_bitsandbytes_are_in_its_settings():
    found = (node("h.0.c_attn", weight_dtype="nf4", per_channel=False, activation="none"),)
    changes = {"kind": "torch", "selection": None, "quantized": found, "calibration": None, "recipe": "bnb-nf4"}
    text = written(local(**changes, settings={"block_size": 64}))
    assert "| linear layer | 1 | nf4 | one for 64 weights | as they are |" in text
    assert "AutoModelForCausalLM.from_pretrained" in text
    assert "qexport deploy" not in text
    assert ModelCard(text).data.library_name == "transformers"


def test_an_unquantized_model_has_no_section_of_quantized_weights():
    text = written(local(selection=None, quantized=(), calibration=None, recipe="fp32", engine=""))
    for absent in ("## Quantized weights", "## Calibration", "| Engine |"):
        assert absent not in text


def test_names_are_no_markup():
    calibration = MANIFEST.calibration.model_copy(update={"text": "a|b_<i>.txt"})
    assert r"a\|b\_\<i\>.txt" in written(MANIFEST.model_copy(update={"calibration": calibration}))


def test_a_licence_of_its_own_is_named_and_linked():
    own = Licence(name="other", title="qwen-research", link="https://example.org/LICENSE", source="as its card has it")
    text = written(licence=own)
    assert "| Licence | [qwen-research](https://example.org/LICENSE), the base model's, as its card has it |" in text
    data = ModelCard(text).data
    assert (data.license, data.license_name, data.license_link) == ("other", own.title, own.link)
