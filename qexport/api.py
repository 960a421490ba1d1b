"""The Python face: the verbs of the command line as functions of ``qexport``, with the same names and the same errors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from qexport.core import Exporter, InputError, Provider, RuntimeName, TargetName, checked, names_in, selector_of
from qexport.inputs import Size, Trust, load_prompts, load_text, text_of

if TYPE_CHECKING:
    from qexport.core import Artifact
    from qexport.deployment import Deployment
    from qexport.gating import GateReport
    from qexport.quantization import Plan
    from qexport.report import NotebookTable

PathLike = str | Path
Count = Annotated[int, Field(ge=1)]
Threads = Annotated[int, Field(ge=1, le=1024)]
NewTokens = Annotated[int, Field(ge=2)]


@checked
def export(
    model: PathLike,
    output: PathLike,
    *,
    exporter: Exporter = "fused",
    revision: str | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Artifact:
    """Export a model to ONNX, once its logits have been compared with PyTorch's.

    Args:
        model: hub id, local folder, GGUF file, or ``reference`` for the bundled model.
        output: the folder to make.
        exporter: ``fused`` (GroupQueryAttention), ``fused-cuda`` (as its CUDA kernel takes it) or ``optimum`` (plain ONNX).
        revision: commit, tag or branch of a hub id.
        overwrite: replace the folder if it is there.
        allow_pickle: accept pickled weights, which can run code.
        trust_remote_code: run the code that comes with the model.

    Returns:
        The fp32 artifact: ``.path``, ``.manifest``, ``.disk_bytes``.

    Raises:
        InputError: the model cannot be used, or ``output`` must not be replaced.
        ParityError: the graph does not compute what PyTorch computes.
        UnsupportedHere: the exporter cannot export this architecture.

    Example:
        >>> artifact = qexport.export("reference", "exported")
        >>> artifact.manifest.recipe, artifact.manifest.model.architecture
        ('fp32', 'gpt2')
    """
    from qexport import exporting

    return exporting.export(
        str(model),
        Path(output),
        exporter=exporter,
        revision=revision,
        trust=Trust(allow_pickle=allow_pickle, remote_code=trust_remote_code),
        overwrite=overwrite,
    )


@checked
def quantize(
    model: PathLike,
    output: PathLike,
    *,
    recipe: str = "int8-static",
    nodes: str | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    target: TargetName | None = None,
    engine: Literal["inc", "ort"] | None = None,
    method: Literal["minmax", "percentile", "entropy", "mse"] | None = None,
    symmetric: bool | None = None,
    weights: Literal["int8-paired", "int8", "int8-reduced", "uint8", "native"] | None = None,
    smooth: bool | None = None,
    outlier_channels: bool | None = None,
    per_token: bool | None = None,
    block_size: int | None = None,
    compute: Literal["float", "int8"] | None = None,
    head_bits: int | None = None,
    activations: Literal["static", "none"] | None = None,
    double_quant: bool | None = None,
    text: PathLike | None = None,
    dataset: str | None = None,
    exporter: Exporter | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Artifact:
    """Quantize a model, and check that the file holds what was asked for.

    Args:
        model: as for :func:`export`, or the folder of an fp32 artifact.
        output: the folder to make.
        recipe: a name that ``qexport recipes`` lists.
        nodes: ``all``, ``body``, ``attention``, ``mlp``, ``lm-head`` or ``embedding``, joined by commas; or ``@FILE``.
        include: a regular expression, or several; nodes whose whole name or module matches are added.
        exclude: a regular expression, or several; nodes whose name or module matches are left out.
        target: the place where the artifact is to run; what would fall back there is refused.
        engine: INT8: ``inc`` (neural-compressor) or ``ort`` (onnxruntime.quantization).
        method: INT8: the way from calibration text to static ranges.
        symmetric: INT8: static activation ranges; 4 and 8 bit: the blocks of the weights.
        weights: INT8: the grid of the weights.
        smooth: INT8: SmoothQuant (https://arxiv.org/abs/2211.10438).
        outlier_channels: INT8: channels in float and ranges per token, where calibration text shows the need.
        per_token: INT8, dynamic: a range for each token.
        block_size: 4 and 8 bit: weights that share a scale.
        compute: 4 and 8 bit: ``int8`` lets the CPU kernel round activations; None takes it for 8-bit weights.
        head_bits: 4 bit: bits of the output head and of a table tied to it.
        activations: fp8: ``none`` rounds weights only.
        double_quant: bnb-nf4 and bnb-fp4: quantize the scales too.
        text: calibration text: txt, jsonl or a JSON list. None takes the bundled text.
        dataset: calibration text from ``datasets``, as ``NAME:CONFIG:SPLIT``.
        exporter: see :func:`export`; None takes the exporter whose graphs the target runs.
        revision, overwrite, allow_pickle, trust_remote_code: see :func:`export`.

    Returns:
        The quantized artifact; ``.manifest.quantized`` names each node that was found quantized in the file.

    Raises:
        InputError: a choice that the recipe does not take, or a model or text that cannot be used.
        SelectionError: a rule matches no node, or a node that the recipe has no form for.
        ContractError: a library did something else than it was asked for.
        UnsupportedHere: the target or this machine cannot run the recipe.

    Example:
        >>> artifact = qexport.quantize("fp32", "int8-attention", recipe="w8a16-rtn", nodes="attention")
        >>> {node.role for node in artifact.manifest.selection.nodes}
        {'attention'}
    """
    from qexport import quantization

    choices = {
        "target": target,
        "engine": engine,
        "method": method,
        "symmetric": symmetric,
        "grid": weights,
        "smooth": smooth,
        "outlier_channels": outlier_channels,
        "per_token": per_token,
        "block_size": block_size,
        "compute": compute,
        "head_bits": head_bits,
        "activations": activations,
        "double_quant": double_quant,
    }
    return quantization.quantize(
        str(model),
        Path(output),
        recipe_name=recipe,
        selector=selector_of(nodes, include, exclude),
        options={name: value for name, value in choices.items() if value is not None},
        text=text_of(text, dataset, "--text", "--dataset"),
        exporter=exporter,
        revision=revision,
        trust=Trust(allow_pickle=allow_pickle, remote_code=trust_remote_code),
        overwrite=overwrite,
    )


@checked
def nodes(
    model: PathLike,
    *,
    nodes: str | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    recipe: str = "int8-static",
    exporter: Exporter | None = None,
    revision: str | None = None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> Plan:
    """List the nodes that a selection names, with their bytes before and after a recipe; nothing is written.

    Args:
        model: as for :func:`export`, or the folder of an fp32 artifact.
        nodes, include, exclude, recipe: see :func:`quantize`; without any, the recipe's own nodes are listed.
        exporter, revision, allow_pickle, trust_remote_code: see :func:`export`.

    Returns:
        The plan: ``.selection.nodes`` are the selected nodes, ``.nodes`` are all that have weights.

    Raises:
        InputError: the model cannot be used, or the recipe takes no selection.
        SelectionError: a rule matches no node, or a node that the recipe has no form for.

    Example:
        >>> plan = qexport.nodes("fp32", nodes="attention", recipe="w8a16-rtn")
        >>> before, after = plan.total_bytes
        >>> after < before / 3
        True
    """
    from qexport import quantization

    return quantization.plan(
        str(model),
        selector_of(nodes, include, exclude),
        recipe_name=recipe,
        exporter=exporter,
        revision=revision,
        trust=Trust(allow_pickle=allow_pickle, remote_code=trust_remote_code),
    )


@checked
def measure(
    *artifacts: PathLike,
    metrics: str | Iterable[str] = ("disk_bytes", "weight_bytes", "perplexity"),
    text: PathLike | None = None,
    dataset: str | None = None,
    prompts: PathLike | None = None,
    new_tokens: NewTokens = 32,
    window: Annotated[int, Field(ge=3)] = 512,
    windows: Count | None = 64,
    sentences: Count | None = 64,
    rounds: Count = 3,
    provider: Provider = "cpu",
    threads: Threads | None = None,
) -> NotebookTable:
    """Measure artifacts of one model side by side, each in fresh processes, on the same tokens.

    Args:
        artifacts: folders; the first that quantizes nothing is what ratios refer to.
        metrics: names of metrics, without those of tasks and sessions; a list, or one string joined by commas.
        text: text to measure on: txt, jsonl or a JSON list. None takes the bundled evaluation text.
        dataset: text from ``datasets``, as ``NAME:CONFIG:SPLIT``.
        prompts: prompts to generate after. None takes the bundled ones.
        new_tokens: tokens to generate after each prompt.
        window: most tokens of a window, BOS included.
        windows, sentences: most windows and sentences of the text; None takes all.
        rounds: fresh processes per artifact for what is timed.
        provider: execution provider; a missing one is an error, never a fallback.
        threads: threads of the runtime; None takes every processor this process may use.

    Returns:
        The table: one row for each artifact, one column for each metric; times in s, sizes in bytes.

    Raises:
        InputError: an unknown metric, artifacts of several models, or a text that cannot be used.
        ProviderUnavailable: the provider is not there.

    Example:
        >>> table = qexport.measure("fp32", "int8", metrics=["weight_bytes", "perplexity"], windows=2)
        >>> list(table.to_pandas().columns)[:2]
        ['weight_bytes', 'perplexity']
    """
    from qexport import measurement
    from qexport.inputs import EVALUATION_TEXT, PROMPTS, bundled
    from qexport.report import NotebookTable

    texts = measurement.Texts(
        text=text_of(text, dataset, "text", "dataset") or load_text(bundled(EVALUATION_TEXT)),
        prompts=load_prompts(Path(prompts) if prompts is not None else bundled(PROMPTS)),
        window=window,
        windows=windows,
        sentences=sentences,
        new_tokens=new_tokens,
    )
    records = measurement.measure_artifacts(
        [Path(each) for each in artifacts],
        names_in(metrics),
        texts,
        rounds=rounds,
        provider=provider,
        threads=threads,
    )
    return NotebookTable(records)


@checked
def compare(
    model: PathLike | None = None,
    output: PathLike | None = None,
    *,
    text: PathLike | None = None,
    dataset: str | None = None,
    calibration_text: PathLike | None = None,
    calibration_dataset: str | None = None,
    prompts: PathLike | None = None,
    new_tokens: NewTokens | None = None,
    recipes: str | Iterable[str] | None = None,
    metrics: str | Iterable[str] | None = None,
    tasks: str | Iterable[str] = (),
    data: PathLike | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
    provider: Provider = "cpu",
    threads: Threads | None = None,
    engine: Literal["inc", "ort"] | None = None,
    exporter: Exporter | None = None,
    full: bool = False,
    rounds: Count | None = None,
    stand_in: bool = False,
    stand_in_size: Size | None = None,
    keep_artifacts: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
) -> NotebookTable:
    """Take a model through all rows of the table, measure each row, and write a report.

    Args:
        model: a model as for :func:`export`, an experiment's TOML file, or None for the bundled model.
        output: folder of the report; None takes ``runs/NAME``.
        text, dataset: text to measure on, a file or ``NAME:CONFIG:SPLIT`` of ``datasets``. None takes the experiment's.
        calibration_text, calibration_dataset: the same for the text of activation ranges.
        prompts, new_tokens: prompts to generate after, and the tokens to generate after each.
        recipes: only the rows of these recipes; a list, or one string joined by commas.
        metrics: only these figures.
        tasks: tasks of lm-eval to ask too.
        data: folder with the questions of tasks; None takes the hub.
        num_fewshot: examples ahead of each question.
        limit: questions of each task; below one, their share.
        provider, threads: see :func:`measure`.
        engine: INT8: ``inc`` or ``ort``.
        full: a fresh process for every figure.
        rounds: as ``full``, with this many fresh processes for what is timed.
        stand_in: random weights of the experiment's architecture instead of the model.
        stand_in_size: size of the stand-in: ``tiny``, ``medium`` or ``full``.
        keep_artifacts: keep the artifacts in the report's folder.
        resume: go on from the records of a comparison that was cut short.
        overwrite: replace a report that is there.
        exporter, allow_pickle, trust_remote_code: see :func:`export`.

    Returns:
        The table of the report; ``.folder`` has ``report.html``, ``report.md`` and ``records.jsonl``.

    Raises:
        InputError: an experiment, text or choice that cannot be used, or a choice without effect.
        QExportError: see the errors of the parts; a row that this machine cannot run is skipped with its reason.

    Example:
        >>> table = qexport.compare("reference", "report", recipes=["fp32", "nf4"], metrics=["weight_bytes"])
        >>> table.to_pandas().index.tolist()
        ['fp32', 'nf4 (body)']
    """
    from qexport import comparison
    from qexport.report import NotebookTable

    if stand_in_size and not stand_in:
        raise InputError("--stand-in-size: is of a stand-in; add --stand-in, or leave it out")
    if full and rounds:
        raise InputError(f"--full and --rounds: --full is --rounds {comparison.LATENCY_ROUNDS}; give one of the two")
    choices = {
        "text": text,
        "dataset": dataset,
        "calibration_text": calibration_text,
        "calibration_dataset": calibration_dataset,
        "prompts": prompts,
        "new_tokens": new_tokens,
        "data": data,
        "num_fewshot": num_fewshot,
        "limit": limit,
        "engine": engine,
        "exporter": exporter,
        "rounds": rounds,
    }
    given = {name: value for name, value in choices.items() if value is not None}
    asked = names_in(tasks)
    experiment = comparison.experiment_for(None if model is None else str(model), asked)
    if recipes is not None:
        experiment = comparison.only(experiment, names_in(recipes))
    if metrics is not None:
        experiment = comparison.measuring(experiment, names_in(metrics))
    experiment = comparison.changed(experiment, given)
    folder = Path(output or Path("runs") / (experiment.name + ("-stand-in" if stand_in else "")))
    records = comparison.compare(
        experiment,
        folder,
        evaluation=text_of(text, dataset, "--text", "--dataset"),
        calibration=text_of(calibration_text, calibration_dataset, "--calibration-text", "--calibration-dataset"),
        tasks=asked,
        options=comparison.CompareOptions(
            provider=provider,
            threads=threads,
            engine=engine or "inc",
            exporter=exporter,
            rounds=rounds or (comparison.LATENCY_ROUNDS if full else None),
            keep_artifacts=keep_artifacts,
            trust=Trust(allow_pickle=allow_pickle, remote_code=trust_remote_code),
            stand_in=(stand_in_size or "tiny") if stand_in else None,
            resume=resume,
            choices=tuple(f"--{name.replace('_', '-')}" for name in given),
        ),
        overwrite=overwrite,
    )
    return NotebookTable(records, folder)


@checked
def gate(
    *artifacts: PathLike,
    baseline: PathLike | None = None,
    against: PathLike | Iterable[PathLike] = (),
    config: PathLike = "pyproject.toml",
    add_windows: bool = False,
    provider: Provider = "cpu",
    threads: Threads | None = None,
) -> GateReport:
    """Hold artifacts to their budgets.

    Args:
        artifacts: folders; their names are the baseline's rows.
        baseline: the file of the rows as they were.
        against: instead of ``baseline``: artifacts of the base commit, or folders of them. Both sides run here.
        config: file of the budgets: ``[tool.qexport.gate]`` of a pyproject.toml, or a TOML file with the same keys.
        add_windows: go on with more of the text while a verdict is inconclusive.
        provider, threads: see :func:`measure`.

    Returns:
        A verdict for each artifact; ``.outcome`` is ``pass``, ``fail`` or ``inconclusive``.

    Raises:
        InputError: neither or both of ``baseline`` and ``against``, or artifacts that cannot stand side by side.
        UnsupportedHere: the provider is not there.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("gate.toml").write_text('budgets.weight_bytes = { at_most = 1.0, of = "fp32" }')
        >>> qexport.gate("fp32", "int8", against=["fp32", "int8"], config="gate.toml").outcome
        'pass'
    """
    from qexport import gating

    given = [against] if isinstance(against, str | Path) else against
    paths, bases = [Path(each) for each in artifacts], [Path(each) for each in given]
    if (baseline is None) == (not bases):
        raise InputError("neither or both of baseline and against; give one of the two")
    file, options = Path(config), gating.GateOptions(provider=provider, threads=threads, add_windows=add_windows)
    if baseline is None:
        return gating.gate_against(paths, bases, file, gating.load_gate_plan(file), options)
    return gating.gate(paths, Path(baseline), gating.load_gate_plan(file), options)


@checked
def deploy(
    *artifacts: PathLike,
    to: RuntimeName,
    output: PathLike,
    records: PathLike | None = None,
    chat: bool = False,
    demo: bool = False,
    storage_uri: str = "",
    overwrite: bool = False,
) -> Deployment:
    """Lay artifacts out for the runtime that is to load them.

    Args:
        artifacts: folders; ``transformersjs`` takes several of one model.
        to: the runtime.
        output: the folder to make.
        records: report folder; its figures of the artifacts go into the manifest.
        chat: prompts are chats: the tokenizer must have a template.
        demo: transformersjs: write a web page beside the model.
        storage_uri: kserve: the place where the cluster finds the folder.
        overwrite: replace a deployment that is there.

    Returns:
        The deployment's manifest: ``.files`` names each file, its digest, and the artifact's file that it was copied from.

    Raises:
        InputError: an artifact or the records cannot be used, or ``output`` must not be replaced.
        ContractError: an artifact was altered since its manifest was written.
        UnsupportedHere: the runtime cannot run an artifact.

    Example:
        >>> made = qexport.deploy("int8", to="optimum", output="deployed")
        >>> any(file.path == "model.onnx" for file in made.files)
        True
    """
    from qexport import deployment

    return deployment.deploy(
        [Path(each) for each in artifacts],
        to,
        Path(output),
        records=None if records is None else Path(records),
        chat=chat,
        demo=demo,
        storage_uri=storage_uri,
        overwrite=overwrite,
    )
