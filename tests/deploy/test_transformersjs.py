"""Transformers.js, in Node and on a web page in headless Chromium."""

from __future__ import annotations

import json

import pytest

from qexport.core.selection import parse_selector
from qexport.deployment.pipeline import deploy
from qexport.quantization.pipeline import quantize
from tests.deploy.cdn import opened
from tests.deploy.proof import MODELS, NEW_TOKENS, PROGRAMS, TEXTS, ask, case_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
NAMES = ("fp32", "fp16", "int8", "w4-web")
CDN = "https://cdn.jsdelivr.net/npm/@huggingface/transformers@4.3.1/dist/transformers.min.js"
IN_THE_PAGE = """async ([cdn, request]) => {
  const { AutoModelForCausalLM, Tensor } = await import(cdn);
  const model = await AutoModelForCausalLM.from_pretrained(".", { device: "wasm" });
  const generate = async (rows, mask) => {
    const tensor = (values) =>
      new Tensor("int64", BigInt64Array.from(values.flat().map(BigInt)), [rows.length, rows[0].length]);
    const inputs = { input_ids: tensor(rows), attention_mask: tensor(mask) };
    const output = await model.generate({ ...inputs, max_new_tokens: request.new_tokens, do_sample: false });
    return output.tolist().map((row) => row.slice(rows[0].length).map(Number));
  };
  const alone = [];
  for (const prompt of request.prompts) alone.push((await generate([prompt], [prompt.map(() => 1)]))[0]);
  return { alone, batch: await generate(request.batch, request.mask) };
}"""


def request_of(one, folder, dtype=""):
    batch, mask = one.batch("left")
    return {
        "folder": str(folder),
        "dtype": dtype,
        "prompts": one.prompts,
        "batch": batch,
        "mask": mask,
        "new_tokens": NEW_TOKENS,
        "text": TEXTS[0],
    }


def in_node(node, request):
    return ask(["node", PROGRAMS / "generate.mjs"], request, cwd=node)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", MODELS)
def test_generates_the_same_tokens_in_node(client, case, tmp_path, model, name):
    from transformers import AutoTokenizer

    node, one = client("node"), case(model, name)
    deploy([one.artifact], "transformersjs", tmp_path / "out")
    found = in_node(node, request_of(one, tmp_path / "out"))
    assert found["alone"] == one.wanted
    assert found["batch"] == one.wanted
    tokenizer = AutoTokenizer.from_pretrained(one.artifact)
    assert found["encoded"] == tokenizer(TEXTS[0]).input_ids
    assert found["decoded"] == tokenizer.decode(one.wanted[0], skip_special_tokens=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", MODELS)
def test_generates_the_same_tokens_in_a_browser(client, case, tmp_path, model, name):
    node, one = client("node"), case(model, name)
    deploy([one.artifact], "transformersjs", tmp_path / "out", demo=True)
    with opened(tmp_path / "out", node) as page:
        found = page.evaluate(IN_THE_PAGE, [CDN, request_of(one, tmp_path / "out")])
    assert found == {"alone": one.wanted, "batch": one.wanted}


def test_one_folder_holds_every_dtype(client, case, tmp_path):
    node = client("node")
    cases = {name: case("stories260K", name) for name in NAMES}
    deploy([one.artifact for one in cases.values()], "transformersjs", tmp_path / "out")
    for dtype, one in zip(("fp32", "fp16", "q8", "q4"), cases.values(), strict=True):
        assert in_node(node, request_of(one, tmp_path / "out", dtype))["alone"] == one.wanted


def test_four_bits_in_a_float16_graph_are_q4f16(client, data_dir, tmp_path):
    node, source = client("node"), str(data_dir / "models" / "stories260K")
    quantize(
        source,
        tmp_path / "w4",
        recipe_name="w4a16-rtn",
        selector=parse_selector("body,lm-head"),
        options={"target": "cuda"},
        exporter="optimum",
    )
    deploy([tmp_path / "w4"], "transformersjs", tmp_path / "out")
    assert (tmp_path / "out" / "onnx" / "model_q4f16.onnx").is_file()
    one = case_of(source, tmp_path / "w4")
    assert in_node(node, request_of(one, tmp_path / "out", "q4f16"))["alone"] == one.wanted


def test_demo_page_streams_what_the_model_writes(client, case, tmp_path):
    node, one = client("node"), case("stories260K", "int8")
    made = deploy([one.artifact], "transformersjs", tmp_path / "out", demo=True)
    with opened(tmp_path / "out", node) as page:
        page.wait_for_selector("#run:not([disabled])")
        page.fill("#prompt", TEXTS[0])
        page.fill("#length", str(NEW_TOKENS))
        page.click("#run")
        page.wait_for_function("document.getElementById('status').textContent.startsWith('done')")
        text = {
            name: page.text_content(f"#{name}") for name in ("answer", "ids-in", "ids-out", "size", "ratio", "speed")
        }
    assert [int(token) for token in text["ids-in"].split()] == one.prompts[0]
    assert [int(token) for token in text["ids-out"].split()] == one.wanted[0]
    assert text["answer"].startswith(TEXTS[0])
    assert len(text["answer"]) > len(TEXTS[0])
    weights = sum(info.size_bytes for info in made.files if "onnx" in info.path)
    assert text["size"] == f"{weights / 1e6:.3g} MB"
    assert text["ratio"] == "not measured"
    assert float(text["speed"]) > 0


def test_demo_page_says_why_it_cannot_go_on(client, case, tmp_path):
    node, one = client("node"), case("stories260K", "int8")
    deploy([one.artifact], "transformersjs", tmp_path / "out", demo=True)
    (tmp_path / "out" / "onnx" / "model_quantized.onnx").unlink()
    with opened(tmp_path / "out", node) as page:
        page.wait_for_selector("#status.error")
        assert "model_quantized.onnx" in page.text_content("#status")


def test_demo_page_shows_the_measured_ratio(client, artifact, tmp_path):
    node = client("node")
    path = artifact("stories260K", "int8")
    deploy([path], "transformersjs", tmp_path / "out", demo=True)
    manifest = json.loads((tmp_path / "out" / "qexport.json").read_text())
    figure = {"value": 1.01234, "low": 1.0, "high": 1.02}
    told = {"runtime": "onnxruntime 1.31.1", "text": "stories.txt", "tokens": 9}
    manifest["artifacts"][0]["evidence"] = {"perplexity": figure, "ratio": figure, **told}
    (tmp_path / "out" / "qexport.json").write_text(json.dumps(manifest))
    with opened(tmp_path / "out", node) as page:
        page.wait_for_selector("#run:not([disabled])")
        assert page.text_content("#ratio") == "1.0123 1.0000 to 1.0200"
