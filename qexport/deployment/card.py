"""The model card of an artifact on the Hugging Face hub, written from its manifest and the records of its measurement.

The card describes the weights that were found in the file, and says so if a figure was not measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qexport.core import ContractError, FileInfo, Interval, Manifest, QuantizedNode
from qexport.quantization import RECIPES
from qexport.report import (
    COLUMN,
    Evidence,
    EvidenceFigure,
    escaped,
    listed,
    no_difference,
    ratio_with_interval,
    significant,
)

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD_NAME = "README.md"

_ENGINES = {"inc": "neural-compressor", "ort": "onnxruntime.quantization"}
_FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Licence:
    """The base model's licence, which also holds for the quantized model."""

    name: str
    """The hub's name for the licence: ``apache-2.0``; ``other`` needs a title and a link."""
    title: str = ""
    link: str = ""
    source: str
    """The source of this information, in words."""


def card(
    manifest: Manifest,
    *,
    artifact_sha256: str,
    files: Sequence[FileInfo],
    repo_id: str,
    licence: Licence,
    evidence: Evidence | None,
    runtimes: Mapping[str, str],
) -> str:
    """The text of ``README.md``.

    Args:
        manifest: the manifest of the published artifact.
        artifact_sha256: :attr:`qexport.core.artifact.Artifact.sha256`.
        files: the published files other than the manifest and the card.
        repo_id: the repository, ``user/name``.
        licence: the licence of the base model.
        evidence: the measured figures of the artifact; None if it was not measured.
        runtimes: the runtimes that can run the artifact: ``qexport deploy --to`` values and their names.

    Raises:
        ContractError: the nodes that the manifest selects differ from the nodes found quantized.
    """
    from huggingface_hub import ModelCard

    sections = (
        _introduction(manifest, files, repo_id),
        _about(manifest, licence),
        _quality(manifest, evidence),
        _use(manifest, repo_id, runtimes),
        _weights(manifest),
        _calibration(manifest),
        _provenance(manifest, artifact_sha256, files, repo_id),
    )
    body = "\n\n".join(section for section in sections if section)
    front = _front_matter(manifest, repo_id, licence, evidence)
    return str(ModelCard(f"---\n{front}\n---\n\n{body}\n"))


def _front_matter(manifest: Manifest, repo_id: str, licence: Licence, evidence: Evidence | None) -> str:
    from huggingface_hub import ModelCardData

    onnx = manifest.kind == "onnx"
    dtypes = dict.fromkeys(node.weight_dtype for node in manifest.quantized)
    on_hub = manifest.model.name if _on_hub(manifest) else None
    data = ModelCardData(
        license=licence.name,
        license_name=licence.title or None,
        license_link=licence.link or None,
        base_model=on_hub,
        # Also for a change of format alone: without it the hub would show a fine-tuned model.
        base_model_relation="quantized" if on_hub else None,
        # Without it the hub would take config.json for a model that transformers loads.
        library_name="onnx" if onnx else "transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(["onnx" if onnx else "pytorch", "qexport", manifest.recipe, *dtypes])),
        model_name=repo_id.rpartition("/")[2],
        eval_results=_eval_results(evidence),
    )
    if data.eval_results is None:
        data.model_name = None  # it belongs to the results
    text: str = data.to_yaml()
    return text


def _eval_results(evidence: Evidence | None) -> list[EvalResult] | None:
    from huggingface_hub import EvalResult

    if evidence is None or not math.isfinite(evidence.perplexity.value):
        return None
    dataset, config, split = _dataset(evidence.text)
    figure = evidence.perplexity
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=dataset,
            dataset_name=evidence.text,
            dataset_config=config,
            dataset_split=split,
            dataset_args={"cut": evidence.sequence, "token_ids_sha256": evidence.text_sha256},
            metric_type="perplexity",
            metric_name="Perplexity",
            metric_value=_digits(figure.value),
            metric_args={"interval_95": [_digits(figure.low), _digits(figure.high)]},
        )
    ]


def _dataset(text: str) -> tuple[str, str | None, str | None]:
    """Id, configuration and split of a hub dataset, ``wikitext:wikitext-2-raw-v1:test``; otherwise the text's name."""
    parts = text.split(":")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (text, None, None)


def _digits(value: float) -> float:
    return float(f"{value:.6g}")


def _introduction(manifest: Manifest, files: Sequence[FileInfo], repo_id: str) -> str:
    form = " in ONNX" if manifest.kind == "onnx" else ""
    part = manifest.weight_bytes / (_FLOAT_BYTES * manifest.model.parameters)
    share = f"{part:.1%}".replace("%", " %")
    return (
        f"# {escaped(repo_id.rpartition('/')[2])}\n\n{_base_model(manifest)}{form} as {_recipe(manifest)}. Its weights take "
        f"**{_megabytes(manifest.weight_bytes)} MB**, {share} of what they take in fp32; all files, "
        f"{_megabytes(sum(info.size_bytes for info in files))} MB."
    )


def _recipe(manifest: Manifest) -> str:
    known = RECIPES.get(manifest.recipe)
    return f"`{manifest.recipe}`" + (f" ({known.summary})" if known else "")


def _on_hub(manifest: Manifest) -> bool:
    """Local folders have no revision."""
    return bool(manifest.model.revision)


def _base_model(manifest: Manifest) -> str:
    model = manifest.model
    if _on_hub(manifest):
        return f"[{escaped(model.name)}](https://huggingface.co/{model.name}/tree/{model.revision})"
    return f"**{escaped(model.name)}**"


def _about(manifest: Manifest, licence: Licence) -> str:
    model = manifest.model
    origin = f"at revision `{model.revision[:12]}`" if _on_hub(manifest) else "(a local folder, not a model of the hub)"
    named = licence.title or licence.name
    shown = f"[{escaped(named)}]({licence.link})" if licence.link.startswith("https://") else escaped(named)
    engine = _ENGINES.get(manifest.engine, manifest.engine)
    settings = ", ".join(
        f"{escaped(name.replace('_', ' '))} {_setting(value)}" for name, value in manifest.settings.items()
    )
    pairs = (
        (
            "Base model",
            f"{_base_model(manifest)} {origin}: {escaped(model.architecture)}, {model.parameters:,} parameters",
        ),
        ("Licence", f"{shown}, the base model's, {escaped(licence.source)}"),
        ("Recipe", _recipe(manifest)),
        ("Engine", f"{escaped(engine)} {manifest.versions.get(engine, '')}".strip()),
        ("Exporter", escaped(manifest.exporter)),
        ("Settings", settings),
    )
    return _table(("", ""), [(name, value) for name, value in pairs if value])


def _setting(value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else escaped(str(value))


def _quality(manifest: Manifest, evidence: Evidence | None) -> str:
    if evidence is None:
        return (
            f"## Perplexity\n\nNot measured. `qexport compare {manifest.model.name if _on_hub(manifest) else 'MODEL'} --recipes "
            f"{','.join(dict.fromkeys(('fp32', manifest.recipe)))} --keep-artifacts -o REPORT` measures it against fp32, and "
            "`qexport push REPORT/artifacts/NAME USER/NAME --records REPORT` publishes the artifact with its figures."
        )
    against = f"ratio to {escaped(evidence.baseline)}, paired"
    line = [_with_interval(evidence.perplexity)]
    sentence = ""
    if evidence.ratio is not None:
        ratio = _interval(evidence.ratio)
        line.append(ratio_with_interval(ratio, COLUMN["perplexity"]))
        sentence = " The ratio's interval contains 1: no measurable difference." if no_difference(ratio) else ""
    place = f"{evidence.runtime}, {evidence.provider} {evidence.device}".strip()
    machine = ", ".join(
        part for part in (evidence.machine, f"{evidence.threads} threads" if evidence.threads else "") if part
    )
    return (
        "## Perplexity\n\n"
        + _table(("perplexity", against)[: len(line)], [line])
        + f"\n\n95 % bootstrap intervals over {evidence.windows:,} windows, {evidence.tokens:,} scored tokens.{sentence}\n\n"
        + _list(
            f"Text: {escaped(evidence.text)}, {escaped(evidence.sequence)}, token ids sha256 `{evidence.text_sha256}`",
            f"Measured in {escaped(place)}" + (f", on {escaped(machine)}" if machine else ""),
        )
    )


def _interval(figure: EvidenceFigure) -> Interval:
    return Interval(value=figure.value, low=figure.low, high=figure.high)


def _with_interval(figure: EvidenceFigure) -> str:
    value, low, high = map(significant, (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def _megabytes(count: int) -> str:
    return significant(count / 1e6)


def _weights(manifest: Manifest) -> str:
    if not manifest.quantized:
        return ""
    found = [node.name for node in manifest.quantized]
    if manifest.selection is None:
        roles = dict.fromkeys(found, "linear layer")
        told = f"{len(found)} modules were found quantized in the model that was written."
    else:
        roles = {node.name: node.role for node in manifest.selection.nodes}
        if set(roles) != set(found):
            raise ContractError(
                f"{manifest.model.name} as {manifest.recipe}: {len(roles)} nodes were selected, but other nodes are quantized ({len(found)}); "
                "make the artifact again"
            )
        told = (
            f"`{manifest.selection.rules}` asked for {len(roles)} nodes: {_counted(roles.values())}. When the written file was "
            "opened again, these and no others were found quantized."
        )
    kinds = Counter(
        (roles[node.name], node.weight_dtype, _scales(node, manifest), _ACTIVATIONS[node.activation])
        for node in manifest.quantized
    )
    lines = [(role, str(count), *rest) for (role, *rest), count in kinds.items()]
    return (
        f"## Quantized weights\n\n{told}\n\n"
        + _table(("role", "nodes", "weights", "scales", "activations"), lines, right=(1,))
        + "\n\nEvery node by name, weight and shape is in `qexport.json`."
    )


_ACTIVATIONS = {
    "none": "as they are",
    "static": "ranges from calibration",
    "dynamic": "ranges from each input",
    "per-token": "ranges from each token",
}


def _counted(roles: Iterable[str]) -> str:
    every = list(roles)
    return listed(f"{every.count(role)} {role}" for role in dict.fromkeys(every))


def _scales(node: QuantizedNode, manifest: Manifest) -> str:
    if node.per_channel:
        return "one a channel"
    block = node.block_size or manifest.settings.get("block_size")  # bitsandbytes has it only in the settings
    return f"one for {block} weights" if block else "one a weight matrix"


def _calibration(manifest: Manifest) -> str:
    text = manifest.calibration
    if text is None:
        return "## Calibration\n\nNone: no text was needed." if manifest.quantized else ""
    return (
        f"## Calibration\n\n{escaped(text.text)}: {text.windows:,} windows, {text.tokens:,} tokens, token ids sha256 "
        f"`{text.tokens_sha256}`, for {escaped(text.method)}."
    )


_OPTIONS = {"kserve": " --storage-uri URI"}
"""Further options that ``qexport deploy`` needs for a runtime."""


def _use(manifest: Manifest, repo_id: str, runtimes: Mapping[str, str]) -> str:
    name = repo_id.rpartition("/")[2]
    first = f"## Use\n\n{_python(manifest, repo_id)}"
    fetched = f"`hf download {repo_id} --local-dir {name}` fetches the files"
    if manifest.kind == "torch":
        return f"{first}\n\n{fetched} for `qexport eval {name} --tasks arc_easy`."
    lines = [
        (runtime, f"`qexport deploy {name} --to {to}{_OPTIONS.get(to, '')} -o {to}`")
        for to, runtime in runtimes.items()
    ]
    lines.append(("lm-eval's benchmarks", f"`qexport eval {name} --tasks arc_easy`"))
    return f"{first}\n\nFor other runtimes, {fetched}, and one command makes the folder that each takes:\n\n" + _table(
        ("runtime", "command"), lines
    )


def _python(manifest: Manifest, repo_id: str) -> str:
    """The code that loads the repository unchanged, with Optimum or transformers."""
    kind, options = "ORTModelForCausalLM", ""
    packages = '"optimum-onnx[onnxruntime]"'
    if manifest.exporter == "fused-cuda":
        packages, options = '"optimum-onnx[onnxruntime-gpu]"', ', provider="CUDAExecutionProvider"'
    imports = (
        "from huggingface_hub import snapshot_download\n"
        f"from optimum.onnxruntime import {kind}\nfrom transformers import AutoTokenizer\n\n"
        # onnxruntime reads weights next to the graph, but not through the symbolic links of the hub's cache.
        f'path = snapshot_download("{repo_id}", local_dir="{repo_id.rpartition("/")[2]}")  # not links, as the cache has'
    )
    if manifest.kind == "torch":
        kind = "AutoModelForCausalLM"
        packages = "transformers accelerate bitsandbytes" if manifest.quantized else "transformers torch"
        imports = f'from transformers import {kind}, AutoTokenizer\n\npath = "{repo_id}"'
    return (
        f"`pip install {packages}`, then:\n\n```python\n{imports}\n"
        f"model = {kind}.from_pretrained(path{options})\n"
        "tokenizer = AutoTokenizer.from_pretrained(path)\n"
        'inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)\n'
        "tokens = model.generate(**inputs, max_new_tokens=32, do_sample=False)\n"
        "print(tokenizer.decode(tokens[0], skip_special_tokens=True))\n```"
    )


def _provenance(manifest: Manifest, artifact_sha256: str, files: Sequence[FileInfo], repo_id: str) -> str:
    folder = repo_id.rpartition("/")[2]
    digests = (
        ("the base model's weight files", manifest.model.weights_sha256),
        ("the fp32 artifact that this was made from", manifest.parent_sha256),
        ("this artifact: names and digests of its files", artifact_sha256),
    )
    lines = [(f"`{info.path}`", f"{info.size_bytes:,}", f"`{info.sha256}`") for info in files]
    versions = ", ".join(f"{escaped(name)} {escaped(version)}" for name, version in manifest.versions.items())
    return (
        "## Provenance\n\n"
        + (f"Made with {versions}.\n\n" if versions else "")
        + _table(("file", "bytes", "SHA-256"), lines, right=(1,))
        + "\n\n"
        + _table(("what", "SHA-256"), [(what, f"`{digest}`") for what, digest in digests if digest])
        + "\n\nThe manifest `qexport.json` names every file with its digest. To check a download, with and without qexport:\n\n"
        f"```console\nhf download {repo_id} --local-dir {folder}\nqexport verify {folder}\n"
        f"cd {folder} && jq -r '.files[] | .sha256 + \"  \" + .path' qexport.json | sha256sum --check\n```"
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    ruled = [head, ["---:" if index in right else "---" for index in range(len(head))], *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled)


def _list(*items: str) -> str:
    return "\n".join(f"- {item}" for item in items)
