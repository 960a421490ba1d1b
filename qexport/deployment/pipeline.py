"""The verb ``deploy``: makes a folder that another runtime loads from artifacts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qexport.core import (
    DEPLOYMENT,
    VERSION,
    Artifact,
    InputError,
    RuntimeName,
    check_replaceable,
    load_verified_graph,
    manifest_kind,
    require_named,
    whole_folder,
)
from qexport.deployment.layouts import genai, kserve, optimum, transformersjs
from qexport.deployment.layouts.files import side_files
from qexport.deployment.layouts.layout import Layout, Request
from qexport.deployment.layouts.tokenizer import require_chat_template
from qexport.deployment.layouts.triton import repository
from qexport.deployment.manifest import Deployment, read_deployment, write_deployment
from qexport.deployment.onnx_twins import require_onnx
from qexport.inputs import SIDE_FILES
from qexport.report import find_evidence

LAYOUTS: Mapping[RuntimeName, Layout] = {
    "optimum": optimum.LAYOUT,
    "genai": genai.LAYOUT,
    "transformersjs": transformersjs.LAYOUT,
    "triton": repository.LAYOUT,
    "kserve": kserve.LAYOUT,
}


def deploy(
    paths: Sequence[Path],
    target: RuntimeName,
    folder: Path,
    *,
    records: Path | None = None,
    chat: bool = False,
    demo: bool = False,
    storage_uri: str = "",
    overwrite: bool = False,
) -> Deployment:
    """Lay artifacts out for a runtime. Their graphs are copied unchanged if possible, and every change is reported.

    Args:
        paths: folders of artifacts; several only if the layout can hold several artifacts of one model.
        target: the runtime.
        folder: the folder to make.
        records: a report folder; its figures of the artifacts go into the manifest.
        chat: if True, prompts are chats, and the tokenizer must have a template.
        demo: for transformersjs: if True, add a web page.
        storage_uri: for kserve: the address where the cluster finds the folder.
        overwrite: if True, replace an existing deployment.

    Raises:
        InputError: an artifact or the records cannot be used, or ``folder`` must not be replaced.
        ContractError: an artifact was altered since its manifest was written.
        UnsupportedHere: the runtime cannot run an artifact.
    """
    layout = LAYOUTS[target]
    if not paths:
        raise InputError("no artifact was given; name the folder of one")
    _check_folder(folder, overwrite=overwrite)
    _check_options(target, layout, {"demo": demo, "storage_uri": bool(storage_uri)})
    artifacts = [load_verified_graph(Path(path).resolve()) for path in paths]
    _check_together(target, layout, artifacts)
    for artifact in artifacts:
        require_onnx(artifact, "to deploy")
        require_named(artifact, SIDE_FILES)
        if artifact.path in Path(folder).resolve().parents:
            raise InputError(f"{folder}: lies in the artifact's own folder; choose another output")
        if Path(folder).resolve() in (artifact.path, *artifact.path.parents):
            raise InputError(f"{folder}: the artifact {artifact.path} lies there; choose another output")
        layout.check(artifact)
        if chat:
            require_chat_template(artifact)
    seen = [None if records is None else find_evidence(records, artifact.sha256) for artifact in artifacts]
    request = Request(artifacts=artifacts, name=artifacts[0].path.name, chat=chat, demo=demo, storage_uri=storage_uri)
    with whole_folder(folder, lambda place: _check_folder(place, overwrite=overwrite)) as beside:
        laid = layout.write(request, beside)
        versions = {"qexport": VERSION} | dict(layout.proved)
        write_deployment(beside, target, artifacts, laid.models, laid.changes, evidence=seen, versions=versions)
    return read_deployment(folder)


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    ours = manifest_kind(folder) == DEPLOYMENT
    check_replaceable(folder, "what `qexport deploy` made", is_ours=ours, overwrite=overwrite)


def _check_options(target: RuntimeName, layout: Layout, given: Mapping[str, bool]) -> None:
    for option in (name for name, used in given.items() if used and name not in layout.options):
        able = next(name for name, each in LAYOUTS.items() if option in each.options)
        raise InputError(f"--{option.replace('_', '-')}: is for --to {able}, not for {target}; leave it out")


def _check_together(target: RuntimeName, layout: Layout, artifacts: Sequence[Artifact]) -> None:
    """Check that several artifacts are one model in distinctly named recipes, and that the layout can hold them."""
    first = artifacts[0]
    if len(artifacts) > 1 and not layout.several:
        raise InputError(f"--to {target}: takes one artifact, and {len(artifacts)} were given; deploy them one by one")
    for artifact in artifacts[1:]:
        if artifact.manifest.model.weights_sha256 != first.manifest.model.weights_sha256:
            raise InputError(
                f"{artifact.path}: is of another model than {first.path}; deploy it into a folder of its own"
            )
        if unlike := sorted(path for path, _ in side_files(artifact) ^ side_files(first)):
            raise InputError(
                f"{artifact.path}: has another {unlike[0]} than {first.path}, and they would share one; deploy it into a "
                "folder of its own"
            )
    names = [artifact.path.name for artifact in artifacts]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise InputError(f"{twice}: two of the artifacts have this name; rename one of the folders")
