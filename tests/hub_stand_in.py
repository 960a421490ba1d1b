"""A stand-in of the Hugging Face hub on this machine: the part of its HTTP interface that pushing and loading models use.

Written from what ``huggingface_hub`` 0.36 sends and reads. Every file is kept as bytes by commit; large or binary ones go
through Git LFS as on the hub, without Xet, which the client then does not use either.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_test"
USER = "user"
LICENCES = ("apache-2.0", "mit", "llama3.1", "other")
"""Those that the hub knows, shortened."""
_LFS_BYTES = 20_000
"""On the hub 10 MB; lower here, so that small models take the same way."""


@dataclass
class Repo:
    private: bool = False
    commits: list[tuple[str, dict[str, bytes], frozenset[str]]] = field(default_factory=list)
    """Digest, files, and which of them are kept with Git LFS."""

    def commit(self, files: dict[str, bytes], lfs: frozenset[str]) -> str:
        text = json.dumps([len(self.commits), sorted((name, sha256(data)) for name, data in files.items())])
        digest = hashlib.sha1(text.encode()).hexdigest()
        self.commits.append((digest, files, lfs))
        return digest

    def at(self, revision: str) -> tuple[str, dict[str, bytes], frozenset[str]] | None:
        if revision in ("main", "HEAD"):
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]


@dataclass
class Hub:
    """What the stand-in holds, and how it is to behave."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """Uploaded through Git LFS, by the digest that was promised."""
    requests: list[str] = field(default_factory=list)
    corrupt: str = ""
    """A file of which one byte is turned over where it is stored."""
    lose: str = ""
    """A file that the hub says its .gitignore leaves out."""
    fail: int = 0
    """A status that every commit is answered with."""

    def reset(self) -> None:
        """As it was when it began to answer."""
        self.__init__(url=self.url)

    def add(self, repo_id: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """A repository that is there already. Returns its commit."""
        return self.repos.setdefault(repo_id, Repo(private=private)).commit(files, frozenset())

    def _stored(self, path: str, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:] if path == self.corrupt else data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """A stand-in that answers at ``hub.url`` until the ``with`` block is left."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Answer(Exception):
    """Ends a request: status, what to say, and headers."""

    def __init__(self, status: int, body: object = None, **headers: str) -> None:
        super().__init__(status)
        self.status, self.body, self.headers = status, body, headers


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 (the names that http.server calls)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.sent = self.rfile.read(length)
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        self.hub.requests.append(f"{self.command} {parts.path}")
        try:
            for pattern, method in _ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {parts.path}"):
                    method(self, **{name: unquote(value) for name, value in match.groupdict().items() if value})
            raise _Answer(404, {"error": f"not in the stand-in: {self.command} {parts.path}"})
        except _Answer as answer:
            self._send(answer)

    def _send(self, answer: _Answer) -> None:
        raw = isinstance(answer.body, bytes)
        body = answer.body if raw else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/octet-stream" if raw else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def _user(self) -> str:
        return {f"Bearer {TOKEN}": USER, "Bearer hf_stranger": "stranger"}.get(
            self.headers.get("Authorization", ""), ""
        )

    def _may_write(self, repo: str) -> None:
        if not self._user:
            raise _Answer(401, {"error": "Invalid username or password."})
        if repo.partition("/")[0] != self._user:
            raise _Answer(403, {"error": f"You don't have the rights to write to {repo}"})

    def _repo(self, repo: str) -> Repo:
        found = self.hub.repos.get(repo)
        if found is None or (found.private and self._user != repo.partition("/")[0]):
            raise _Answer(
                401 if not self._user else 404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound"
            )
        return found

    def _commit(self, repo: str, revision: str) -> tuple[str, dict[str, bytes], frozenset[str]]:
        found = self._repo(repo).at(revision)
        if found is None:
            raise _Answer(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
        return found

    def whoami(self) -> None:
        self._may_write(f"{self._user}/")
        raise _Answer(200, {"type": "user", "name": self._user, "orgs": []})

    def create(self) -> None:
        asked = json.loads(self.sent)
        repo = f"{asked['organization']}/{asked['name']}"
        self._may_write(repo)
        url = f"{self.hub.url}/{repo}"
        if repo in self.hub.repos:
            raise _Answer(409, {"error": "You already created this model repo", "url": url})
        self.hub.add(repo, {".gitattributes": b"*.onnx filter=lfs\n"}, private=asked.get("private", False))
        raise _Answer(200, {"url": url})

    def validate(self) -> None:
        """The hub's rules for a card that matter here: types, known licences, and what model-index must hold."""
        content = json.loads(self.sent)["content"]
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        if match is None:
            raise _Answer(200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
        if wrong := _wrong(yaml.safe_load(match[1])):
            raise _Answer(400, {"errors": [{"message": message} for message in wrong], "warnings": []})
        raise _Answer(200, {"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        self._may_write(repo)
        _, files, lfs = self._commit(repo, revision)
        modes = []
        for file in json.loads(self.sent)["files"]:
            path = file["path"]
            binary = b"\0" in base64.b64decode(file["sample"])
            there = files.get(path)
            oid = None if there is None else (sha256 if path in lfs else git_sha1)(there)
            modes.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if binary or file["size"] > _LFS_BYTES else "regular",
                    "shouldIgnore": path == self.hub.lose,
                    "oid": oid,
                }
            )
        raise _Answer(200, {"files": modes, "commitOid": None})

    def batch(self, repo: str) -> None:
        self._may_write(repo)
        objects = []
        for asked in json.loads(self.sent)["objects"]:
            oid = asked["oid"]
            actions = {
                "upload": {"href": f"{self.hub.url}/lfs/{oid}"},
                "verify": {"href": f"{self.hub.url}/lfs/{oid}/verify"},
            }
            objects.append(asked if oid in self.hub.objects else {**asked, "actions": actions})
        raise _Answer(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        self.hub.objects[oid] = self.sent
        raise _Answer(200, {})

    def verify(self, oid: str) -> None:
        asked = json.loads(self.sent)
        size = len(self.hub.objects.get(oid, b""))
        raise _Answer(200 if asked == {"oid": oid, "size": size} else 404, {})

    def commit(self, repo: str, revision: str) -> None:
        self._may_write(repo)
        if self.hub.fail:
            raise _Answer(self.hub.fail, {"error": "the stand-in was told to fail"})
        head, files, lfs = self._commit(repo, revision)
        files, kept = dict(files), set(lfs)
        for line in self.sent.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    if value.get("parentCommit") not in (None, head):
                        raise _Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                case "file":
                    files[value["path"]] = self.hub._stored(value["path"], base64.b64decode(value["content"]))
                    kept.discard(value["path"])
                case "lfsFile":
                    files[value["path"]] = self.hub._stored(value["path"], self.hub.objects[value["oid"]])
                    kept.add(value["path"])
                case "deletedFile":
                    del files[value["path"]]
                    kept.discard(value["path"])
        digest = self._repo(repo).commit(files, frozenset(kept))
        raise _Answer(
            200,
            {
                "success": True,
                "commitOid": digest,
                "commitUrl": f"{self.hub.url}/{repo}/commit/{digest}",
                "hookOutput": "",
            },
        )

    def info(self, repo: str, revision: str = "main") -> None:
        digest, files, lfs = self._commit(repo, revision)
        siblings = [{"rfilename": path} for path in files]
        if "blobs" in self.query:
            siblings = [
                {"rfilename": path, "size": len(data), "blobId": git_sha1(_pointer(data) if path in lfs else data)}
                | ({"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 134}} if path in lfs else {})
                for path, data in files.items()
            ]
        found = self.hub.repos[repo]
        raise _Answer(
            200,
            {"id": repo, "modelId": repo, "sha": digest, "private": found.private, "siblings": siblings, "tags": []},
        )

    def tree(self, repo: str, revision: str, folder: str = "") -> None:
        _, files, lfs = self._commit(repo, revision)
        listed = [
            _entry(path, data, lfs) for path, data in files.items() if path.startswith(f"{folder}/" if folder else "")
        ]
        if folder and not listed:
            raise _Answer(404, {"error": f"{folder} does not exist"}, X_Error_Code="EntryNotFound")
        raise _Answer(200, listed)

    def paths_info(self, repo: str, revision: str) -> None:
        _, files, lfs = self._commit(repo, revision)
        text = self.sent.decode()
        asked = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        raise _Answer(200, [_entry(path, files[path], lfs) for path in asked if path in files])

    def resolve(self, repo: str, revision: str, path: str) -> None:
        digest, files, lfs = self._commit(repo, revision)
        if path not in files:
            raise _Answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=digest)
        data = files[path]
        etag = sha256(data) if path in lfs else git_sha1(data)
        raise _Answer(200, data, ETag=f'"{etag}"', X_Repo_Commit=digest, X_Linked_Size=str(len(data)))


def _pointer(data: bytes) -> bytes:
    """What Git keeps of a file whose bytes are elsewhere."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n".encode()


def _entry(path: str, data: bytes, lfs: frozenset[str]) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
    return entry | ({"lfs": {"oid": sha256(data), "size": len(data), "pointerSize": 134}} if path in lfs else {})


def _wrong(data: dict[str, object]) -> list[str]:
    names = ("library_name", "pipeline_tag", "base_model", "base_model_relation")
    wrong = [f'"{name}" must be a string' for name in names if not isinstance(data.get(name, ""), str)]
    if data.get("license") not in LICENCES:
        wrong.append(f'"license" must be one of [{", ".join(LICENCES)}]')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        wrong.append('"tags" must be strings')
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not (result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]):
                wrong.append('"model-index[0].results[0].dataset.type" is required')
            wrong += ['"metrics[0].value" is required' for metric in result["metrics"] if metric.get("value") is None]
    return wrong


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES = (
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"POST /api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.store),
    (r"POST /lfs/(?P<oid>[0-9a-f]{64})/verify", _Handler.verify),
    (rf"POST /api/models/{_REPO}/commit/{_REVISION}", _Handler.commit),
    (rf"GET /api/models/{_REPO}/revision/{_REVISION}", _Handler.info),
    (rf"GET /api/models/{_REPO}/tree/{_REVISION}(/(?P<folder>.+))?", _Handler.tree),
    (rf"POST /api/models/{_REPO}/paths-info/{_REVISION}", _Handler.paths_info),
    (rf"GET /api/models/{_REPO}", _Handler.info),
    (rf"(GET|HEAD) /{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
)
