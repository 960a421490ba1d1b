"""The verb ``deploy``: artifacts become a folder that another runtime loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qexport import __version__
from qexport.artifact import (
    DEPLOYMENT,
    Artifact,
    check_replaceable,
    manifest_kind,
    require_named,
    whole_folder,
)
from qexport.deployment import Deployment, Target, read_deployment, write_deployment
from qexport.errors import InputError
from qexport.evidence import evidence
from qexport.graph import load_verified
from qexport.inputs.pretrained import SIDE_FILES
from qexport.layouts import Layout, Request, genai, kserve, optimum, transformersjs, triton
from qexport.layouts.files import side_files
from qexport.layouts.tokenizer import require_chat_template
from qexport.twins import require_onnx

LAYOUTS: Mapping[Target, Layout] = {
    "optimum": optimum.LAYOUT,
    "genai": genai.LAYOUT,
    "transformersjs": transformersjs.LAYOUT,
    "triton": triton.LAYOUT,
    "kserve": kserve.LAYOUT,
}


def deploy(
    paths: Sequence[Path],
    target: Target,
    folder: Path,
    *,
    records: Path | None = None,
    chat: bool = False,
    demo: bool = False,
    storage_uri: str = "",
    overwrite: bool = False,
) -> Deployment:
    """Lay artifacts out for a runtime. Their graphs are copied as they are, and what had to be changed is told.

    Args:
        paths: folders of artifacts; more than one where the layout has room for several of one model.
        target: the runtime.
        folder: the folder to make.
        records: a report folder; what it says of the artifacts goes into the manifest.
        chat: prompts are to be chats: the tokenizer must have a template.
        demo: transformersjs: a web page beside the model.
        storage_uri: kserve: where the cluster finds the folder.
        overwrite: replace a deployment that is there.

    Raises:
        InputError: an artifact or the records cannot be used, or ``folder`` must not be replaced.
        ContractError: an artifact was altered since its manifest was written.
        UnsupportedHere: the runtime cannot run an artifact.
    """
    layout = LAYOUTS[target]
    _check_folder(folder, overwrite=overwrite)
    _check_options(target, layout, {"demo": demo, "storage_uri": bool(storage_uri)})
    artifacts = [load_verified(Path(path).resolve()) for path in paths]
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
    seen = [None if records is None else evidence(records, artifact.sha256) for artifact in artifacts]
    request = Request(artifacts=artifacts, name=artifacts[0].path.name, chat=chat, demo=demo, storage_uri=storage_uri)
    with whole_folder(folder, lambda place: _check_folder(place, overwrite=overwrite)) as beside:
        laid = layout.write(request, beside)
        versions = {"qexport": __version__} | dict(layout.proved)
        write_deployment(beside, target, artifacts, laid.models, laid.changes, evidence=seen, versions=versions)
    return read_deployment(folder)


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    ours = manifest_kind(folder) == DEPLOYMENT
    check_replaceable(folder, "what `qexport deploy` made", is_ours=ours, overwrite=overwrite)


def _check_options(target: Target, layout: Layout, given: Mapping[str, bool]) -> None:
    for option in (name for name, used in given.items() if used and name not in layout.options):
        able = next(name for name, each in LAYOUTS.items() if option in each.options)
        raise InputError(f"--{option.replace('_', '-')}: is for --to {able}, not for {target}; leave it out")


def _check_together(target: Target, layout: Layout, artifacts: Sequence[Artifact]) -> None:
    """Several artifacts are one model in several recipes, each with a name of its own, for a layout that has room for them."""
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
        raise InputError(f"{twice}: two of the artifacts are called so; rename one of the folders")
