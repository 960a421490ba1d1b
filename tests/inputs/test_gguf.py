from __future__ import annotations

import json
import os
import shutil
import struct

import numpy as np
import pytest

from qexport.core.errors import InputError
from qexport.inputs.models import load_tokenizer, load_torch_model, locate_model, stop_ids
from tests.architectures import tiny_model, tiny_tokenizer
from tests.gguf_files import byte_level_keys, keys_of, save_gguf, sentence_piece_keys, tensors_of
from tests.inputs.conftest import refused


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("QEXPORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def model_for(architecture):
    """A tiny model with nothing that a GGUF file cannot say."""
    from transformers import AutoModelForCausalLM

    model = tiny_model(architecture)
    if architecture == "phi3":
        model.config.rope_scaling = None
        again = AutoModelForCausalLM.from_config(model.config).eval()
        again.load_state_dict(model.state_dict())
        return again
    if architecture == "gemma2":
        model.config.query_pre_attn_scalar = model.config.head_dim
        model.set_attn_implementation("eager")  # the other kinds leave the soft cap out
        for layer in model.model.layers:
            layer.self_attn.scaling = model.config.head_dim**-0.5
    return model


def save(path, architecture="llama", *, keys=(), tokenizer=None, tensors=None, **more):
    """A tiny model as a GGUF file, with other metadata or tensors."""
    model = model_for(architecture)
    own = byte_level_keys(tiny_tokenizer()) if tokenizer is None else tokenizer
    return save_gguf(
        path,
        architecture,
        keys_of(model.config) | dict(keys),
        own,
        tensors_of(model) if tensors is None else tensors,
        **more,
    )


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen2", "qwen3", "phi3", "gemma2"])
def test_the_logits_of_each_architecture(architecture, tmp_path):
    import torch

    model, path = model_for(architecture), save(tmp_path / "m.gguf", architecture)
    source = locate_model(path)
    assert source.name == "m.gguf"
    assert source.revision == ""
    assert source.context_length == 64
    loaded = load_torch_model(source)
    for name, weight in model.state_dict().items():
        rounded = 2e-7 if architecture == "gemma2" else 0  # one was added to its norms
        assert torch.allclose(loaded.state_dict()[name], weight, rtol=0, atol=rounded), name
    ids = torch.arange(1, 33)[None]
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)


def test_what_a_file_says_of_a_tokenizer_reaches_transformers(tmp_path):
    own = byte_level_keys(tiny_tokenizer(), bos_token_id=3, eos_token_id=4, eot_token_id=5, padding_token_id=6)
    path = save(tmp_path / "m.gguf", tokenizer=own, general={"tokenizer.chat_template": "{{ messages }}"})
    source = locate_model(path)
    tokenizer = load_tokenizer(source)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (None, 4, 6)
    assert tokenizer.chat_template == "{{ messages }}"
    assert stop_ids(source.path, tokenizer) == (4, 5)
    text = "The 1234 dogs can't\n\n jump,\tcan they? <|endoftext|> ü"
    assert tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(
    ("pre", "asked", "bos"),
    [("gpt-2", None, None), ("gpt-2", True, 3), ("llama-bpe", None, 3), ("llama-bpe", False, None)],
)
def test_bos_stands_before_a_text_where_the_file_wants_it(pre, asked, bos, tmp_path):
    more = {} if asked is None else {"add_bos_token": asked}
    own = byte_level_keys(tiny_tokenizer(), pre=pre, bos_token_id=3, **more)
    tokenizer = load_tokenizer(locate_model(save(tmp_path / "m.gguf", tokenizer=own)))
    assert tokenizer.bos_token_id == bos
    ids = tokenizer("the dog")["input_ids"]
    assert (ids[0] == 3) == (bos == 3)
    assert tokenizer.decode(ids, skip_special_tokens=True).endswith("the dog")


def test_a_tokenizer_with_scores_gives_the_ids_of_its_original(data_dir, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = data_dir / "models" / "stories260K"
    original, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    path = tmp_path / "stories.gguf"
    save_gguf(path, "llama", keys_of(model.config), sentence_piece_keys(original), tensors_of(model))
    source = locate_model(path)
    tokenizer = load_tokenizer(source)
    text = "Once upon a time, there was a little girl named Lily.\n  She saw 12 naïve 狐!"
    assert tokenizer(text)["input_ids"] == original(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    loaded = load_torch_model(source).state_dict()
    assert all((loaded[name] == weight).all() for name, weight in model.state_dict().items())


SAMPLES = [
    "It's 12345 o'clock, ISN'T it? We'll see; I'd say 3.14 or ½.",
    "  two   spaces\n\n\n\tand tabs \r\n  ",
    "for (int i=0; i<10; i++) { x += y**2; } // naïve café 狐狸 ١٢٣",
    "don't can't\u00a0nbsp 🦊🦊 $5.00!!! ...",
]


def published(pre):
    """The rules that the tokenizers on the hub have for a kind of words, or have by default."""
    from tokenizers import Regex, pre_tokenizers

    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    levels = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return {
        "gpt-2": gpt2,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
        "llama-bpe": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words % "{1,3}"), "isolated"), levels]),
        "qwen2": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words % ""), "isolated"), levels]),
    }[pre]


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_words_are_cut_as_the_tokenizer_on_the_hub_cuts_them(pre, tmp_path):
    own = byte_level_keys(tiny_tokenizer(), pre=pre)
    tokenizer = load_tokenizer(locate_model(save(tmp_path / "m.gguf", tokenizer=own)))
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    for text in SAMPLES:
        assert cut(text) == published(pre).pre_tokenize_str(text), text
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


WIDE = 256
"""A row of this length has whole blocks of every type."""


def wide_llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=384,
                hidden_size=WIDE,
                intermediate_size=WIDE,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                tie_word_embeddings=True,
            )
        )


def stored(values, name):
    """A matrix in a type of GGUF. The gguf package writes no K types: their bytes are random, with small scales."""
    import gguf

    kind = gguf.GGMLQuantizationType[name]
    try:
        return gguf.quantize(values, kind)
    except NotImplementedError:
        of_block, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = np.random.default_rng(3).integers(0, 256, (values.size // of_block, size), dtype=np.uint8)
        scales = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (size - 2,), "IQ4_NL": (0,)}[name]
        for at in scales:
            blocks[:, at : at + 2] = np.float16(0.001).reshape(1).view(np.uint8)
        return blocks.reshape(values.shape[0], -1)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("F32", "F32"),
        ("F16", "F16"),
        ("BF16", "BF16"),
        ("Q8_0", "F32"),
        ("Q4_0", "F32"),
        ("Q4_1", "F32"),
        ("Q5_0", "F32"),
        ("Q4_K", "F32"),
        ("Q5_K", "F32"),
        ("Q6_K", "F32"),
        ("IQ4_NL", "F32"),
    ],
)
def test_the_weights_of_each_type_are_those_of_the_gguf_package(name, dtype, tmp_path):
    import gguf
    import torch
    from safetensors import safe_open

    model = wide_llama()
    kind = gguf.GGMLQuantizationType[name]
    tensors = tensors_of(model)
    matrices = {place: stored(values, name) for place, values in tensors.items() if values.ndim == 2}
    path = save_gguf(
        tmp_path / "m.gguf",
        "llama",
        keys_of(model.config),
        byte_level_keys(tiny_tokenizer()),
        tensors | matrices,
        kinds=dict.fromkeys(matrices, kind),
    )
    source = locate_model(path)
    loaded = load_torch_model(source)
    plain = {place: gguf.dequantize(raw, kind) for place, raw in matrices.items()}
    assert tensors_of(loaded).keys() == tensors.keys()
    for place, values in tensors_of(loaded).items():
        assert np.array_equal(values, plain.get(place, tensors[place])), place
    with safe_open(source.path / "model.safetensors", "pt") as opened:
        assert opened.get_slice("model.layers.0.mlp.up_proj.weight").get_dtype() == dtype
        assert opened.get_slice("model.norm.weight").get_dtype() == "F32"
    assert torch.isfinite(loaded(torch.arange(8)[None]).logits).all()


def test_the_head_is_the_files_own_where_it_has_one(tmp_path):
    head = np.random.default_rng(0).normal(size=(384, 32)).astype(np.float32)
    path = save(tmp_path / "m.gguf", tensors=tensors_of(model_for("llama")) | {"output.weight": head})
    loaded = load_torch_model(locate_model(path))
    assert np.array_equal(loaded.lm_head.weight.detach().numpy(), head)


def test_the_angles_of_llama_3_are_those_of_transformers(tmp_path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    tensors = tensors_of(model_for("llama"))
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_theta=500000.0, rope_scaling=scaling)
    plain = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_theta=500000.0)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    straight, _ = ROPE_INIT_FUNCTIONS["default"](plain, "cpu")
    factors = {"rope_freqs.weight": (straight / scaled).numpy()}
    path = save(tmp_path / "m.gguf", keys={"rope.freq_base": 500000.0}, tensors=tensors | factors)
    assert locate_model(path).config["rope_scaling"] == scaling
    factors["rope_freqs.weight"] = factors["rope_freqs.weight"] * [1, 1, 2, 1]
    path = save(tmp_path / "other.gguf", keys={"rope.freq_base": 500000.0}, tensors=tensors | factors)
    refused(lambda: locate_model(path), "other.gguf", "rope_freqs.weight")


def test_a_file_is_converted_once_whatever_its_name_and_place(llama, tmp_path, cache):
    first = locate_model(llama)
    copy = tmp_path / "blob"
    shutil.copyfile(llama, copy)
    link = tmp_path / "link.gguf"
    link.symlink_to(copy)
    again, third = locate_model(copy), locate_model(link)
    assert first.path == again.path == third.path
    assert (first.name, again.name, third.name) == ("tiny.gguf", "blob", "link.gguf")
    assert first.weights_sha256 == again.weights_sha256
    assert os.listdir(cache) == ["gguf"]
    assert os.listdir(cache / "gguf") == [first.path.name]


def left_alone(cache):
    return not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _raw: b"", "0 bytes"),
        (lambda _raw: bytes(4096), "not a GGUF file"),
        (lambda raw: b"GGUF" + struct.pack("<I", 1) + raw[8:], "version 1"),
        (lambda raw: b"GGUF" + struct.pack(">I", 3) + raw[8:], "big-endian"),
        (lambda raw: raw[:500], "truncated"),
        (lambda raw: raw[:-1], "truncated"),
        (lambda raw: raw[:8] + struct.pack("<QQ", 1 << 62, 1 << 62) + raw[24:], "download"),
        (lambda raw: raw.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.gone!!"), "no tokenizer"),
        (lambda raw: raw.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.\xff\xffkens"), "UTF-8"),
        (lambda raw: raw.replace(b"token_embd.weight", b"token_embx.weight"), "token_embd.weight"),
        (lambda raw: raw.replace(b"blk.1.ffn_up", b"blk.9.ffn_up"), "no tensor"),
    ],
)
def test_a_spoiled_file_is_refused_in_one_line(spoil, words, llama, tmp_path, cache):
    path = tmp_path / "spoiled.gguf"
    path.write_bytes(spoil(llama.read_bytes()))
    refused(lambda: locate_model(path), str(path), words)
    assert left_alone(cache)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"keys": {"expert_count": 4}}, ("llama.expert_count = 4", "Hugging Face layout")),
        ({"keys": {"rope.scaling.type": "yarn"}}, ("yarn",)),
        ({"keys": {"rope.dimension_count": 4}}, ("rope.dimension_count", "heads of 8")),
        ({"keys": {"attention.head_count": 0}}, ("head_count",)),
        ({"keys": {"block_count": 1 << 30}}, ("layers",)),
        ({"keys": {"embedding_length": 48}}, ("token_embd.weight", "metadata")),
        ({"general": {"split.count": 3, "split.no": 1}}, ("part 2 of 3", "llama-gguf-split --merge")),
        ({"general": {"general.type": "mmproj"}}, ("projects images",)),
        ({"general": {"general.type": "adapter"}}, ("adapter",)),
        ({"tensors": {}}, ("no tensors",)),
        ({"tokenizer": {}}, ("no tokenizer",)),
    ],
)
def test_a_file_that_is_no_whole_model_is_refused(more, words, tmp_path, cache):
    path = save(tmp_path / "m.gguf", **more)
    refused(lambda: locate_model(path), str(path), *words)
    assert left_alone(cache)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "t5"}, "of the kind t5"),
        ({"pre": "poro-chat"}, "poro-chat"),
        ({"eos_token_id": 9999}, "9999"),
        ({"merges": ["a zzz"]}, "a zzz"),
        ({"token_type": [1, 1]}, "types of 2"),
        ({"tokens": ["a", "a"]}, "twice"),
    ],
)
def test_a_tokenizer_that_cannot_be_made_right_is_refused(changed, words, tmp_path, cache):
    path = save(tmp_path / "m.gguf", tokenizer=byte_level_keys(tiny_tokenizer()) | changed)
    refused(lambda: locate_model(path), str(path), words)
    assert left_alone(cache)


def test_an_architecture_and_a_type_that_nobody_reads(tmp_path, cache):
    model, own = model_for("llama"), byte_level_keys(tiny_tokenizer())
    strange = save_gguf(tmp_path / "m.gguf", "lama", keys_of(model.config), own, tensors_of(model))
    refused(lambda: locate_model(strange), "lama", "did you mean llama?")
    integers = tensors_of(model) | {"output_norm.weight": np.ones(32, np.int32)}
    refused(lambda: locate_model(save(tmp_path / "i.gguf", tensors=integers)), "output_norm.weight", "I32")
    numbers = tensors_of(model) | {"output_norm.weight": np.full(32, np.nan, np.float32)}
    refused(lambda: locate_model(save(tmp_path / "n.gguf", tensors=numbers)), "n.gguf", "output_norm.weight", "NaN")
    raw = save(tmp_path / "u.gguf").read_bytes()
    name = b"output_norm.weight"
    at = raw.index(name) + len(name) + 4 + 8
    (tmp_path / "u.gguf").write_bytes(raw[:at] + struct.pack("<I", 99) + raw[at + 4 :])
    refused(lambda: locate_model(tmp_path / "u.gguf"), "output_norm.weight", "unknown tensor type 99")
    assert left_alone(cache)


def test_a_revision_a_folder_and_another_file(llama, tmp_path):
    refused(lambda: locate_model(llama, revision="main"), "no revision main")
    (tmp_path / "folder.gguf").mkdir()
    refused(lambda: locate_model(tmp_path / "folder.gguf"), "no config.json")
    shutil.copyfile(llama, tmp_path / "folder.gguf" / "a.gguf")
    refused(lambda: locate_model(tmp_path / "folder.gguf"), "no config.json, but GGUF", "a.gguf")
    (tmp_path / "notes.txt").write_text("hello")
    refused(lambda: locate_model(tmp_path / "notes.txt"), "a file; give the folder", "GGUF")
    with pytest.raises(InputError):
        locate_model(tmp_path / "missing.gguf")


def test_the_folder_has_the_layout_of_the_hub(llama):
    source = locate_model(llama)
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names <= set(os.listdir(source.path))
    assert json.loads((source.path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
