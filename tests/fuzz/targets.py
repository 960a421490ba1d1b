"""The readers of what somebody else wrote, each with a right input to start from."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import VALUES, spoiled, spoiled_header

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "models" / "reference"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of input."""

    name: str
    spoil: Callable[[Path, random.Random], None]
    """Makes an input in an empty folder."""
    read: Callable[[Path], None]
    """Takes it as the command does."""


def copy_model(folder: Path) -> Path:
    """The bundled model, its weights as a link."""
    place = folder / "model"
    place.mkdir()
    for path in REFERENCE.glob("*.json"):
        shutil.copyfile(path, place / path.name)
    (place / "model.safetensors").symlink_to(REFERENCE / "model.safetensors")
    return place


def _spoil_model_file(name: str) -> Callable[[Path, random.Random], None]:
    def spoil(folder: Path, draw: random.Random) -> None:
        path = copy_model(folder) / name
        path.write_bytes(spoiled(path.read_bytes(), draw))

    return spoil


def _spoil_weights(folder: Path, draw: random.Random) -> None:
    path = copy_model(folder) / "model.safetensors"
    path.unlink()
    path.write_bytes(spoiled_header((REFERENCE / path.name).read_bytes(), draw))


def _read_model(folder: Path) -> None:
    from qexport.inputs.models import load_tokenizer, locate_model

    source = locate_model(folder / "model")
    load_tokenizer(source)
    _ = source.context_length


def spoil_artifact(kept: Path, name: str, *, sealed: bool = False) -> Callable[[Path, random.Random], None]:
    """A copy of an artifact with one file spoiled; ``sealed`` writes its digest into the manifest, as a forger would."""

    def spoil(folder: Path, draw: random.Random) -> None:
        place = shutil.copytree(kept, folder / "artifact")
        path = place / name
        path.write_bytes(spoiled(path.read_bytes(), draw))
        if sealed:
            seal(place)

    return spoil


def seal(place: Path) -> None:
    """Write the digests of what lies there now into the manifest."""
    from qexport.core.artifact import MANIFEST_NAME, file_sha256

    manifest = json.loads((place / MANIFEST_NAME).read_text())
    for info in manifest["files"]:
        path = place / info["path"]
        info["sha256"], info["size_bytes"] = file_sha256(path), path.stat().st_size
    (place / MANIFEST_NAME).write_text(json.dumps(manifest))


def _read_artifact(folder: Path) -> None:
    import onnx_ir as ir

    from qexport import inputs, quantization
    from qexport.core.graph import load_verified_graph
    from qexport.core.selection import parse_selector
    from qexport.inputs.models import load_tokenizer
    from qexport.runtime.opening import open_session

    artifact = load_verified_graph(folder / "artifact")
    quantization.plan(
        str(artifact.path),
        parse_selector("attention"),
        recipe_name="int8-dynamic",
        exporter=None,
        revision=None,
        trust=inputs.Trust(),
    )
    open_session(artifact, observe="kernels")
    ir.load(artifact.onnx_path)
    source = inputs.source_of(artifact)
    _ = source.context_length
    load_tokenizer(source)


def _spoil_copy(content: bytes, name: str) -> Callable[[Path, random.Random], None]:
    def spoil(folder: Path, draw: random.Random) -> None:
        (folder / name).write_bytes(spoiled(content, draw))

    return spoil


def _read_records(folder: Path) -> None:
    from qexport.comparison import pipeline

    pipeline.report([folder / "records.jsonl"], folder / "report")


def _read_journal(folder: Path) -> None:
    from qexport.core.record import read_records

    read_records(folder / "journal.jsonl")


def _read_experiment(folder: Path) -> None:
    from qexport.inputs.experiment import load_experiment

    load_experiment(folder / "experiment.toml")


def _read_budgets(folder: Path) -> None:
    from qexport.gating.budgets import load_gate_plan

    load_gate_plan(folder / "pyproject.toml")


def _read_baseline(folder: Path) -> None:
    from qexport.gating.baseline import read_baseline

    read_baseline(folder / "gate.json")


def _read_text(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from qexport.inputs.models import load_tokenizer
        from qexport.inputs.source import ModelSource
        from qexport.inputs.text import load_text, make_sentences, make_windows

        config = json.loads((REFERENCE / "config.json").read_text())
        source = ModelSource(
            name="reference",
            revision="",
            path=REFERENCE,
            config=config,
            weight_files=(),
            weights_sha256="",
            trust_remote_code=False,
        )
        tokenizer = load_tokenizer(source)
        text = load_text(folder / name)
        make_windows(text, tokenizer, window=64, limit=4)
        make_sentences(text, tokenizer, limit=4, max_tokens=64)

    return read


def _read_nodes(kept: Path) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        import onnx_ir as ir

        from qexport.core.selection import parse_selector, weight_nodes

        nodes = weight_nodes(ir.load(kept / "model.onnx"))
        parse_selector(f"@{folder / 'nodes.txt'}").select(nodes)

    return read


_COMMANDS = ("export", "quantize", "nodes", "compare", "eval", "deploy", "gate", "report", "verify", "serve", "recipes")
_WORDS = (
    "--nodes",
    "--include",
    "--exclude",
    "--recipe",
    "--limit",
    "--block-size",
    "--batch-size",
    "--threads",
    "--revision",
)


def _spoil_options(folder: Path, draw: random.Random) -> None:
    # A model that is not there: `compare` without one would take the bundled model through the whole table.
    words = [draw.choice(_COMMANDS), "nowhere"]
    for _ in range(draw.randint(0, 5)):
        values = [str(value)[:1000].encode("utf-8", "replace").decode().replace("\0", "0") for value in VALUES]
        words.append(draw.choice([*_WORDS, *values, "--overwrite", "nowhere", "-o", str(folder / "out"), "["]))
    (folder / "words.json").write_text(json.dumps(words))


def _read_options(folder: Path) -> None:
    """Options alone: no model is there, so each command stops before it works."""
    from qexport.cli.app import app

    app(json.loads((folder / "words.json").read_text()), standalone_mode=True)


def targets(right: Path) -> list[Target]:
    """All kinds of inputs.

    Args:
        right: a folder with ``fp32``, an artifact of the bundled model, and ``run``, the report of a comparison.
    """
    kept, records, baseline = right / "fp32", right / "run" / "records.jsonl", ROOT / ".ci" / "gate.json"
    model = [
        Target(name=name, spoil=_spoil_model_file(name), read=_read_model)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
    ]
    text = b"\n".join((REFERENCE / "held_out_evaluation.jsonl").read_bytes().split(b"\n")[:20])
    plain = b"\n\n".join(json.loads(line)["text"].encode() for line in text.split(b"\n")[:8])
    return [
        *model,
        Target(name="safetensors header", spoil=_spoil_weights, read=_read_model),
        Target(name="ONNX file", spoil=spoil_artifact(kept, "model.onnx", sealed=True), read=_read_artifact),
        Target(name="manifest", spoil=spoil_artifact(kept, "qexport.json"), read=_read_artifact),
        Target(
            name="config of an artifact", spoil=spoil_artifact(kept, "config.json", sealed=True), read=_read_artifact
        ),
        Target(name="records", spoil=_spoil_copy(records.read_bytes(), "records.jsonl"), read=_read_records),
        Target(name="journal", spoil=_spoil_copy(records.read_bytes(), "journal.jsonl"), read=_read_journal),
        Target(
            name="experiment",
            spoil=_spoil_copy((ROOT / "models/reference.toml").read_bytes(), "experiment.toml"),
            read=_read_experiment,
        ),
        Target(
            name="budgets",
            spoil=_spoil_copy((ROOT / "pyproject.toml").read_bytes(), "pyproject.toml"),
            read=_read_budgets,
        ),
        Target(name="baseline", spoil=_spoil_copy(baseline.read_bytes(), "gate.json"), read=_read_baseline),
        Target(name="text, JSON lines", spoil=_spoil_copy(text, "text.jsonl"), read=_read_text("text.jsonl")),
        Target(name="text, plain", spoil=_spoil_copy(plain, "text.txt"), read=_read_text("text.txt")),
        Target(
            name="node list",
            spoil=_spoil_copy(b"transformer.h.0.attn.c_attn/MatMul\ntransformer.h.1.mlp.c_fc/MatMul\n", "nodes.txt"),
            read=_read_nodes(kept),
        ),
        Target(name="options", spoil=_spoil_options, read=_read_options),
    ]
