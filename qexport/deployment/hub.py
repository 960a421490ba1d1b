"""The verb ``push``: sends an artifact and its card to the Hugging Face hub in one commit, then compares the commit.

Only the files that the manifest names, the manifest and the card are sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from qexport.core import (
    MANIFEST_NAME,
    VERSION,
    Artifact,
    ContractError,
    FileInfo,
    InputError,
    ModelInfo,
    QExportError,
    UnsupportedHere,
    file_sha256,
    load_verified_graph,
    progress,
    whole_folder,
)
from qexport.deployment.card import CARD_NAME, Licence, card
from qexport.deployment.pipeline import LAYOUTS
from qexport.report import Evidence, find_evidence

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoSibling

LIST_NAME = "files.json"
"""The list of files that a dry run writes next to the card."""

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


class PushReport(BaseModel):
    """The result of a push, or of a dry run."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    repo_id: str
    url: str = ""
    """The address of the commit; empty if nothing was sent."""
    changed: bool = False
    """True if the push changed the repository; False also if it already had all files."""
    licence: str
    evidence: Evidence | None
    """The figures in the card."""
    files: tuple[FileInfo, ...]
    """All files of the commit, with the manifest and the card."""
    removed: tuple[str, ...] = ()
    """Files of an earlier push that this artifact lacks."""
    others: tuple[str, ...] = ()
    """Files of the repository that did not come from qexport."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The files that go into one commit."""

    folder: Path
    files: tuple[FileInfo, ...]
    """Files of ``folder``, with its manifest."""
    card: str
    message: str
    """The message of the commit."""

    @property
    def all_files(self) -> tuple[FileInfo, ...]:
        text = self.card.encode()
        info = FileInfo(path=CARD_NAME, size_bytes=len(text), sha256=hashlib.sha256(text).hexdigest())
        return (info, *self.files)


def push(
    path: Path,
    repo_id: str,
    *,
    records: Path | None = None,
    licence: str | None = None,
    private: bool = False,
    dry_run: Path | None = None,
) -> PushReport:
    """Publish an artifact with a model card, and compare the hub's files with the manifest.

    Args:
        path: the artifact's folder.
        repo_id: the repository, ``user/name``; made if it is missing.
        records: a report folder, or file of records, of the comparison that measured the artifact.
        licence: the hub's name of the base model's licence; None takes it from the card of a base model on the hub.
        private: if True, make the repository visible only to its owners.
        dry_run: a new folder for the card and the list of files; nothing is sent.

    Raises:
        InputError: the artifact, the records or the licence are missing, or the repository cannot be written to.
        ContractError: a file was altered, here or on the hub.
        UnsupportedHere: the hub cannot be reached or does not work.
    """
    _check_name(repo_id)
    artifact = load_verified_graph(path)
    found = None if records is None else find_evidence(records, artifact.sha256)
    known = licence_of(artifact.manifest.model, licence)
    manifest = artifact.manifest
    text = card(
        manifest,
        artifact_sha256=artifact.sha256,
        files=manifest.files,
        repo_id=repo_id,
        licence=known,
        evidence=found,
        runtimes=_runtimes(artifact),
    )
    upload = upload_of(artifact, text)
    report = PushReport(repo_id=repo_id, licence=known.title or known.name, evidence=found, files=upload.all_files)
    if dry_run is not None:
        write(upload, repo_id, dry_run)
        return report
    return report.model_copy(update=send(upload, repo_id, private=private))


def _runtimes(artifact: Artifact) -> dict[str, str]:
    """The runtimes that can run an artifact: ``qexport deploy --to`` values and their names."""
    if artifact.manifest.kind == "torch":
        return {}
    able = {}
    for target, layout in LAYOUTS.items():
        with contextlib.suppress(UnsupportedHere):
            layout.check(artifact)
            able[str(target)] = layout.runtime
    return able


def upload_of(artifact: Artifact, text: str) -> Upload:
    """An artifact's files, its manifest and a card."""
    place = artifact.path / MANIFEST_NAME
    manifest = FileInfo(path=MANIFEST_NAME, size_bytes=place.stat().st_size, sha256=file_sha256(place))
    model = artifact.manifest.model
    return Upload(
        folder=artifact.path,
        files=(manifest, *artifact.manifest.files),
        card=text,
        message=f"{model.name} as {artifact.manifest.recipe}, by qexport {VERSION}",
    )


def write(upload: Upload, repo_id: str, folder: Path) -> None:
    """Write the card and the list of files to send into a new folder.

    Raises:
        InputError: the folder exists and is not empty, or cannot be made.
    """
    listed = {"repo_id": repo_id, "files": [info.model_dump() for info in upload.all_files]}
    with whole_folder(folder, _check_new) as beside:
        (beside / CARD_NAME).write_text(upload.card, encoding="utf-8", newline="\n")
        (beside / LIST_NAME).write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


def _check_new(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise InputError(f"{folder}: exists; choose another folder for the card and the list of files")


def licence_of(model: ModelInfo, named: str | None) -> Licence:
    """The base model's licence: from the user, or from the model's card on the hub. It is never guessed.

    Raises:
        InputError: the user named none, and neither does the card.
    """
    if named is not None:
        if not _LICENCE.fullmatch(named):
            raise InputError(
                f"--license {named}: not a name of the hub; give one like apache-2.0, mit, llama3.1, or other"
            )
        return Licence(name=named, source="according to the publisher of this artifact")
    if not model.revision:
        raise InputError(
            f"{model.name}: a local model, whose licence the artifact does not know; name it: --license apache-2.0"
        )
    data = _card_data(model)
    name = data.get("license")
    if not isinstance(name, str) or not name:
        raise InputError(f"{model.name}: its card on the hub names no licence; look it up and name it with --license")
    return Licence(
        name=name,
        title=str(data.get("license_name") or ""),
        link=str(data.get("license_link") or ""),
        source="from its card at this revision",
    )


def _card_data(model: ModelInfo) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download, metadata_load

    try:
        place = hf_hub_download(model.name, CARD_NAME, revision=model.revision)
        return metadata_load(place) or {}
    except Exception as error:  # errors of the hub, its cache, offline mode and YAML share no base class
        raise InputError(
            f"{model.name}: its card on the hub cannot be read for the licence ({type(error).__name__}); "
            "name it with --license"
        ) from error


def _check_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id}: not a name on the hub ({error}); give USER/NAME") from error
    if "/" not in repo_id:
        raise InputError(f"{repo_id}: names no owner; give USER/{repo_id}")


def send(upload: Upload, repo_id: str, *, private: bool) -> dict[str, Any]:
    """Commit the files to a repository, which is made if it is missing, and compare the hub's files.

    Returns:
        The fields ``url``, ``changed``, ``removed`` and ``others`` of a :class:`PushReport`.

    Raises:
        InputError: the hub refuses, or the repository holds a model that qexport did not push.
        ContractError: the hub's files differ from the sent files.
        UnsupportedHere: the hub cannot be reached or does not work.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="qexport", library_version=VERSION)
    ours = {info.path for info in upload.all_files}
    megabytes = sum(info.size_bytes for info in upload.all_files) / 1e6
    with _hub_errors(repo_id), _silent(), progress.task(f"pushing {megabytes:,.1f} MB to {repo_id}"):
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        before = api.model_info(repo_id)
        if private and not before.private:
            raise InputError(f"{repo_id}: is public already; make it private on the hub first, or leave --private out")
        there = {file.rfilename for file in before.siblings or ()}
        earlier = _earlier(api, repo_id, str(before.sha), there, ours)
        removed = sorted((earlier & there) - ours)
        commit = api.create_commit(
            repo_id,
            [
                CommitOperationAdd(CARD_NAME, upload.card.encode()),
                *(CommitOperationAdd(info.path, upload.folder / info.path) for info in upload.files),
                *(CommitOperationDelete(name) for name in removed),
            ],
            commit_message=upload.message,
            parent_commit=before.sha,
        )
        after = api.model_info(repo_id, revision=commit.oid, files_metadata=True).siblings or ()
    _require_same(upload, repo_id, commit.oid, after)
    others = {file.rfilename for file in after} - ours - {".gitattributes"}
    return {
        "url": str(commit.commit_url),
        "changed": commit.oid != before.sha,
        "removed": tuple(removed),
        "others": tuple(sorted(others)),
    }


def _earlier(api: HfApi, repo_id: str, revision: str, there: set[str], ours: set[str]) -> set[str]:
    """The files of an earlier push, from its manifest.

    Raises:
        InputError: no earlier push exists, and files of another model would be overwritten.
    """
    if MANIFEST_NAME in there:
        text = Path(api.hf_hub_download(repo_id, MANIFEST_NAME, revision=revision)).read_text(encoding="utf-8")
        try:
            return {str(info["path"]) for info in json.loads(text)["files"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{repo_id}: its {MANIFEST_NAME} is not a manifest of qexport; push to another name"
            ) from error
    if others := sorted((there & ours) - {CARD_NAME}):
        raise InputError(
            f"{repo_id}: holds another model ({', '.join(others)}), which qexport did not push; push to another name"
        )
    return set()


def _require_same(upload: Upload, repo_id: str, commit: str, there: Sequence[RepoSibling]) -> None:
    on_hub = {file.rfilename: file for file in there}
    for info in upload.all_files:
        file = on_hub.get(info.path)
        if file is None:
            raise ContractError(
                f"{repo_id}: {info.path} is not in the commit {commit[:12]}; look for a .gitignore there"
            )
        if file.lfs is None:
            same = file.blob_id == _git_sha1(upload, info)
        else:
            same = (file.lfs.sha256, file.lfs.size) == (info.sha256, info.size_bytes)
        if not same:
            raise ContractError(
                f"{repo_id}: {info.path} in the commit {commit[:12]} is not the file that was sent "
                f"(sha256 {info.sha256[:12]}); do not use that commit, and push again"
            )


def _git_sha1(upload: Upload, info: FileInfo) -> str:
    """Git's hash of a file, which is the hub's only digest of small files; empty for an altered file."""
    content = upload.card.encode() if info.path == CARD_NAME else (upload.folder / info.path).read_bytes()
    if hashlib.sha256(content).hexdigest() != info.sha256:
        return ""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence the hub's library: :mod:`qexport.core.progress` shows progress, and the report shows results."""
    from huggingface_hub import constants
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    bars = not are_progress_bars_disabled() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    logger.setLevel(logging.ERROR)
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            enable_progress_bars()


@contextlib.contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turn errors between this machine and the hub into one line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except QExportError:
        raise
    except OfflineModeIsEnabled as error:
        raise UnsupportedHere(f"{repo_id}: HF_HUB_OFFLINE is set; unset it to push, or use --dry-run") from error
    except HfHubHTTPError as error:
        raise _refused(repo_id, error) from error
    except OSError as error:
        if error.filename is not None:  # a file of this machine
            raise
        raise UnsupportedHere(
            f"{repo_id}: {constants.ENDPOINT} cannot be reached ({type(error).__name__}); try again, or use --dry-run"
        ) from error
    except RuntimeError as error:  # an upload wraps the error in it
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _refused(repo_id, error.__cause__) from error
        raise UnsupportedHere(f"{repo_id}: the upload stopped ({_reason(error)}); push again") from error
    except ValueError as error:
        raise InputError(f"{repo_id}: the hub refuses the push ({_reason(error)}); nothing was changed") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error.__cause__ or error).split())


def _refused(repo_id: str, error: HfHubHTTPError) -> QExportError:
    status = 0 if error.response is None else error.response.status_code
    said = " ".join((error.server_message or "").split())
    told = f" ({said})" if said else ""
    user = repo_id.partition("/")[0]
    match status:
        case 401:
            return InputError(
                f"{repo_id}: the hub knows no token of yours{told}; `hf auth login`, or set HF_TOKEN to one that may write"
            )
        case 403:
            return InputError(f"{repo_id}: your token may not write there{told}; take one with write access to {user}")
        case 404:
            return InputError(f"{repo_id}: not found on the hub{told}; check the name, and that your token may see it")
        case 409 | 412:
            return InputError(f"{repo_id}: was changed by somebody else meanwhile{told}; push again")
        case _ if status >= 500 or status == 429:
            return UnsupportedHere(f"{repo_id}: the hub does not work now ({status}){told}; push again later")
        case _:
            return InputError(f"{repo_id}: the hub refuses the push ({status}){told}")
