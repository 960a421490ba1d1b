from __future__ import annotations

import json
import re

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper, parser

from qexport.core.errors import ContractError, InputError, SelectionError
from qexport.core.selection import PARAMETERS_KEY, Role, Selector, WeightNode, parse_selector, weight_nodes

DIM, VOCAB = 4, 6

# Attention as plain ONNX: scores are a MatMul of two activations. The rotary angles are a MatMul with a constant.
LAYER = """
  "{i}.n" = Mul (r{i}, norm)
  "body.{i}.x/MatMul" = MatMul ("{i}.n", "body.{i}.x.weight")
  "body.{i}.y/MatMul" = MatMul ("{i}.n", "body.{i}.y.weight")
  "body.{i}.z/MatMul" = MatMul ("{i}.n", "body.{i}.z.weight")
  "body.{i}.rotary/MatMul" = MatMul (positions, "inv_freq")
  "{i}.cos" = Cos ("body.{i}.rotary/MatMul")
  "{i}.q" = Mul ("body.{i}.x/MatMul", "{i}.cos")
  "{i}.kt" = Transpose <perm = [0, 2, 1]> ("body.{i}.y/MatMul")
  "{i}.scores" = MatMul ("{i}.q", "{i}.kt")
  "{i}.p" = Softmax ("{i}.scores")
  "{i}.mixed" = MatMul ("{i}.p", "body.{i}.z/MatMul")
  "body.{i}.attention/MatMul" = MatMul ("{i}.mixed", "body.{i}.attention.weight")
  "{i}.mid" = Add (r{i}, "body.{i}.attention/MatMul")
  "{i}.m" = Mul ("{i}.mid", norm)
  "body.{i}.attn.c_attn/MatMul" = MatMul ("{i}.m", "body.{i}.attn.c_attn.weight")
  "{i}.act" = Relu ("body.{i}.attn.c_attn/MatMul")
  "body.{i}.q_proj/MatMul" = MatMul ("{i}.act", "body.{i}.q_proj.weight")
  r{next} = Add ("{i}.mid", "body.{i}.q_proj/MatMul")
"""
FUSED = """
  "{i}.n" = Mul (r{i}, norm)
  "body.{i}.x/MatMul" = MatMul ("{i}.n", "body.{i}.x.weight")
  "{i}.mixed", k{i}, v{i} = com.microsoft.GroupQueryAttention ("body.{i}.x/MatMul")
  "body.{i}.attention/MatMul" = MatMul ("{i}.mixed", "body.{i}.attention.weight")
  r{next} = Add (r{i}, "body.{i}.attention/MatMul")
"""
HEAD = """
  h = Mul (r{layers}, norm)
  "head/MatMul" = MatMul (h, "head.weight")
  capped = Tanh ("head/MatMul")
  logits = Mul (capped, norm1)
"""
# The names lie on purpose: "q_proj" and "attn.c_attn" are the MLP, "x", "y" and "z" are q, k and v.
ATTENTION = {"x", "y", "z", "attention"}
MLP = {"attn.c_attn", "q_proj"}


def decoder(*layers: str, head: str = HEAD, **more: tuple[int, ...]) -> ir.Model:
    """A decoder of these layers; every name that ends in ``.weight`` is a parameter."""
    body = "".join(layer.format(i=i, next=i + 1) for i, layer in enumerate(layers))
    text = f"""
<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
decoder (int64[b, s] ids, float[b, s, 1] positions) => (float[b, s, {VOCAB}] logits) {{
  r0 = Gather ("embed.weight", ids)
  {body} {head.format(layers=len(layers))}
}}"""
    model = parser.parse_model(text)
    shapes = {"embed.weight": (VOCAB, DIM), "norm": (DIM,), "norm1": (1,), "inv_freq": (1, DIM)} | more
    for node in model.graph.node:
        node.name = node.output[0] if "/" in node.output[0] else f"{node.op_type}_{node.output[0]}"
        for name in node.input:
            if name.endswith(".weight"):
                shapes.setdefault(name, (DIM, VOCAB if name == "head.weight" else DIM))
    model.graph.node[0].name = "embed/Gather"
    initializers = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    model.graph.initializer.extend(initializers)
    prepared = ir.from_proto(model)
    prepared.metadata_props[PARAMETERS_KEY] = json.dumps([name for name in shapes if name.endswith(".weight")])
    return prepared


def roles(model: ir.Model) -> dict[str, str]:
    return {node.module: node.role.value for node in weight_nodes(model)}


def body_of(layer: int, kinds: set[str], role: str) -> dict[str, str]:
    return {f"body.{layer}.{kind}": role for kind in kinds}


def test_roles_come_from_the_topology_and_not_from_names():
    assert roles(decoder(LAYER, LAYER, LAYER)) == {
        "embed": "embedding",
        "head": "lm-head",
        **{name: role for i in range(3) for name, role in body_of(i, ATTENTION, "attention").items()},
        **{name: role for i in range(3) for name, role in body_of(i, MLP, "mlp").items()},
    }


def test_fused_attention_gives_the_same_roles():
    found = roles(decoder(FUSED, FUSED))
    assert found == {
        "embed": "embedding",
        "head": "lm-head",
        **body_of(0, {"x", "attention"}, "attention"),
        **body_of(1, {"x", "attention"}, "attention"),
    }


def test_a_rotary_matmul_is_no_weight_node():
    assert not any("rotary" in name for name in roles(decoder(LAYER)))
    with pytest.raises(SelectionError, match="matches no node"):
        Selector(nodes=(), include=(".*rotary.*",)).select(weight_nodes(decoder(LAYER)))


def test_a_rotary_matmul_behind_a_reshape_makes_nothing_attention():
    hidden = LAYER.replace('MatMul (positions, "inv_freq")', 'MatMul (positions, "{i}.inv")').replace(
        '  "body.{i}.rotary/MatMul"', '  "{i}.inv" = Identity ("inv_freq")\n  "body.{i}.rotary/MatMul"', 1
    )
    assert roles(decoder(hidden, hidden)) == roles(decoder(LAYER, LAYER))


def test_shapes_taken_off_the_residual_stream_make_nothing_attention():
    # As Optimum writes it: what attention reshapes to is computed from the sum that the MLP of the layer before is in.
    shaped = LAYER.replace(
        '  "{i}.q" = Mul ("body.{i}.x/MatMul", "{i}.cos")',
        '  "{i}.shape" = Shape (r{i})\n  "{i}.same" = Reshape ("body.{i}.x/MatMul", "{i}.shape")\n'
        '  "{i}.q" = Mul ("{i}.same", "{i}.cos")',
    )
    assert shaped != LAYER
    assert roles(decoder(shaped, shaped, shaped)) == roles(decoder(LAYER, LAYER, LAYER))


def test_a_head_tied_to_the_embedding_is_read_through_its_transpose():
    head = HEAD.replace('"head/MatMul" = MatMul (h, "head.weight")', '"head/MatMul" = MatMul (h, table)').replace(
        "h = Mul", 'table = Transpose <perm = [1, 0]> ("embed.weight")\n  h = Mul'
    )
    embedding, *_, tied = weight_nodes(decoder(FUSED, head=head))
    assert (tied.role, tied.weight, tied.shape, tied.tied) == (Role.LM_HEAD, "embed.weight", (VOCAB, DIM), True)
    assert (embedding.role, embedding.tied) == (Role.EMBEDDING, False)
    assert tied.channels == embedding.channels == VOCAB


def test_a_projection_outside_the_layers_is_of_no_role():
    outside = '  r0b = MatMul (r0, "project_in.weight")\n  r0c = Identity (r0b)\n' + FUSED.replace("r{i}", "r0c")
    nodes = weight_nodes(decoder(outside))
    assert [node.role for node in nodes if node.weight == "project_in.weight"] == [Role.OTHER]
    chosen = Selector(nodes=("attention", "mlp")) if any(node.role is Role.MLP for node in nodes) else None
    assert chosen is None
    assert len(parse_selector("all").select(nodes).nodes) == len(nodes)


def test_a_weight_node_knows_its_sizes():
    (head,) = (node for node in weight_nodes(decoder(LAYER)) if node.role is Role.LM_HEAD)
    assert (head.name, head.module, head.shape) == ("head/MatMul", "head", (DIM, VOCAB))
    assert (head.parameters, head.channels) == (DIM * VOCAB, VOCAB)
    assert head.info().model_dump() == {
        "name": "head/MatMul",
        "role": "lm-head",
        "weight": "head.weight",
        "shape": (DIM, VOCAB),
    }


def test_a_graph_of_another_tool_is_refused():
    model = decoder(LAYER)
    del model.metadata_props[PARAMETERS_KEY]
    with pytest.raises(ContractError, match="export the model with qexport"):
        weight_nodes(model)
    model.metadata_props[PARAMETERS_KEY] = "[]"
    with pytest.raises(ContractError, match="no node that multiplies by a parameter"):
        weight_nodes(model)


SELF_ATTENTION = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"}


@pytest.mark.parametrize(
    ("name", "exporter", "stem", "a_layer"),
    [
        ("gpt2", "fused", "transformer.h", {"attn.c_attn", "attn.c_proj"}),
        ("gpt2", "optimum", "transformer.h", {"attn.c_attn", "attn.c_proj"}),
        ("llama", "fused", "model.layers", SELF_ATTENTION),
        ("llama", "optimum", "model.layers", SELF_ATTENTION),
        ("phi3", "fused", "model.layers", {"self_attn.qkv_proj", "self_attn.o_proj"}),
    ],
)
def test_attention_weights_of_exported_models(exported, name, exporter, stem, a_layer):
    nodes = weight_nodes(ir.load(exported(name, exporter).onnx_path))
    attention = [node.module for node in parse_selector("attention").select(nodes).nodes]
    assert sorted(attention) == sorted(f"{stem}.{layer}.{module}" for layer in range(2) for module in a_layer)
    assert [node.module for node in nodes if node.role is Role.LM_HEAD] == ["lm_head"]
    assert not [node.module for node in nodes if node.role is Role.OTHER]


def test_gpt2_small_has_24_attention_weights():
    from transformers import GPT2Config

    twelve = [FUSED] * GPT2Config().n_layer  # two projections a layer, as in GPT-2
    assert len(parse_selector("attention").select(weight_nodes(decoder(*twelve))).nodes) == 24


NODES = weight_nodes(decoder(LAYER, LAYER))


def chosen(selector: Selector) -> set[str]:
    return {node.module for node in selector.select(NODES).nodes}


def test_roles_joined_by_commas_are_united():
    assert chosen(parse_selector("attention, lm-head")) == {
        "head",
        *body_of(0, ATTENTION, ""),
        *body_of(1, ATTENTION, ""),
    }
    assert chosen(parse_selector(None)) == chosen(parse_selector("all")) == {node.module for node in NODES}


def test_a_selection_keeps_the_order_of_the_graph():
    names = [node.name for node in parse_selector("lm-head,embedding,mlp").select(NODES).nodes]
    assert names == [node.name for node in NODES if node.name in names]


def test_patterns_match_whole_names_only():
    assert chosen(parse_selector(None, [r"body\.0\.x"])) == {"body.0.x"}  # the module
    assert chosen(parse_selector(None, [r"body\.0\.x/MatMul"])) == {"body.0.x"}  # the node
    with pytest.raises(SelectionError, match=r"--include body\\.0: matches no node"):
        chosen(parse_selector(None, [r"body\.0"]))


def test_include_adds_and_exclude_takes_away():
    both = parse_selector("attention", ["head"], [r"body\.1\..*"])
    assert chosen(both) == {"head", *body_of(0, ATTENTION, "")}
    assert chosen(parse_selector(None, [], ["embed"])) == {node.module for node in NODES} - {"embed"}


def test_the_rules_read_as_they_were_typed():
    selector = parse_selector("attention,mlp", ["a.*"], ["b c"])
    assert selector.rules == "--nodes attention,mlp --include 'a.*' --exclude 'b c'"
    assert selector.label == "attention,mlp,a.*,-b c"


def test_names_from_a_file(tmp_path):
    listed = tmp_path / "nodes.txt"
    listed.write_text("# the two\nbody.0.x\n\n  body.1.z/MatMul\n")
    selector = parse_selector(f"@{listed},lm-head")
    assert chosen(selector) == {"body.0.x", "body.1.z", "head"}
    assert selector.rules == "--nodes lm-head --nodes @file of 2 names"
    listed.write_bytes(b"\xef\xbb\xbfbody.0.x\r\nbody.1.z/MatMul\r\n")  # as Windows' editors save it
    assert chosen(parse_selector(f"@{listed}")) == {"body.0.x", "body.1.z"}
    listed.write_text("body.0.x\nbody.0.xx\n")
    with pytest.raises(SelectionError, match=r"body\.0\.xx: matches no node; did you mean body\.0\.x"):
        chosen(parse_selector(f"@{listed}"))


@pytest.mark.parametrize("content", [b"", b"# nothing\n\n", b"\xff\xfe"])
def test_a_file_without_names_is_refused(tmp_path, content):
    listed = tmp_path / "nodes.txt"
    listed.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(listed))):
        parse_selector(f"@{listed}")
    with pytest.raises(InputError, match="cannot be read"):
        parse_selector(f"@{tmp_path / 'absent'}")


def test_a_rule_that_matches_nothing_names_what_is_near():
    with pytest.raises(SelectionError, match=r"did you mean body\.0\.attention"):
        chosen(parse_selector("all", ["body.0.atention"]))
    with pytest.raises(SelectionError, match=r"--exclude body\.7\.q_proj: matches no node; did you mean"):
        chosen(parse_selector("all", [], ["body.7.q_proj"]))
    without_mlp = weight_nodes(decoder(FUSED))
    with pytest.raises(
        SelectionError, match="--nodes mlp: matches no node; the model has attention, embedding, lm-head"
    ):
        parse_selector("mlp").select(without_mlp)


def test_an_empty_selection_is_an_error():
    with pytest.raises(SelectionError, match="nothing is left to quantize"):
        chosen(parse_selector("attention", [], [".*"]))


@pytest.mark.parametrize("typed", ["atention", "attention,", "", "ATTENTION", "other", "attention;mlp"])
def test_an_unknown_role_is_refused(typed):
    with pytest.raises(SelectionError, match="unknown role"):
        parse_selector(typed)


def test_an_unknown_role_names_the_near_one():
    with pytest.raises(SelectionError, match=r"did you mean attention\?"):
        parse_selector("atention")


@pytest.mark.parametrize("where", ["include", "exclude"])
def test_what_is_no_regular_expression_is_refused(where):
    with pytest.raises(SelectionError, match=r"\[a: not a regular expression"):
        parse_selector("all", **{where: ["[a"]})


def test_an_embedding_is_told_from_a_product():
    selection = parse_selector("all").select(NODES)
    assert {node.module for node in selection.embeddings} == {"embed"}
    assert {node.module for node in selection.matmuls} == {node.module for node in NODES} - {"embed"}
    assert isinstance(selection.nodes[0], WeightNode)
    assert [node.name for node in selection.info().nodes] == [node.name for node in NODES]
