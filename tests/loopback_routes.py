"""What the tests' Hub answers to each request: pulls, pushes, history, access. The server is in loopback_hub.py."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from loopback_repos import Commit, HubState, Repo, Seen, StoredFile, User, is_large

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub


@dataclass
class Answer:
    """A status, headers and a body; plain data becomes JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class RefusalError(Exception):
    """An answer that ends the request."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = Answer(status, {"error": message}, headers)


@dataclass
class Request:
    """A request with what its token and address stand for."""

    hub: LoopbackHub
    seen: Seen
    body: bytes
    groups: dict[str, str]
    query: dict[str, str]

    @property
    def state(self) -> HubState:
        return self.hub.state

    @property
    def data(self) -> dict[str, Any]:
        return dict(json.loads(self.body or b"{}"))

    @property
    def user(self) -> User | None:
        if self.seen.token is None:
            return None
        if self.seen.token not in self.state.users:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.state.users[self.seen.token]

    @property
    def repo(self) -> Repo:
        """The repository of the address, where this user may see it."""
        user, kind = self.user, (self.groups["kind"] or "models").rstrip("s/")
        repo = self.state.repos.get((kind, self.groups["repo"]))
        if repo is None or (repo.private and not (user and user.is_member(repo.namespace))):
            raise RefusalError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    @property
    def commit(self) -> Commit:
        found = self.repo.at(unquote(self.groups["revision"]))
        if found is None:
            raise RefusalError(404, f"Invalid rev id: {self.groups['revision']}", "RevisionNotFound")
        return found

    def check_write(self, namespace: str) -> User:
        user = self.user
        if user is None:
            raise RefusalError(401, "Invalid username or password.")
        if user.role != "write" or not user.is_member(namespace):
            raise RefusalError(403, f"You don't have the rights to write to {namespace}: this token is {user.role}")
        return user

    def check_gate(self, repo: Repo) -> None:
        user = self.user
        is_in = user is not None and (user.name in repo.granted or user.is_member(repo.namespace))
        if repo.gated and not is_in:
            raise RefusalError(403 if user else 401, f"Access to model {repo.id} is restricted.", "GatedRepo")


Route = Callable[[Request], Answer]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []
API = r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
FILES = r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)"


def route(method: str, path: str) -> Callable[[Route], Route]:
    def add(function: Route) -> Route:
        ROUTES.append((method, re.compile(path), function))
        return function

    return add


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Answer:
    user = request.user
    if user is None:
        raise RefusalError(401, "Invalid username or password.")
    orgs = [{"name": name, "type": "org", "roleInOrg": "write"} for name in user.orgs]
    orgs += [{"name": name, "type": "org", "roleInOrg": "read"} for name in user.read_orgs]
    token = {"displayName": "test", "role": user.role}
    return Answer(body={"type": "user", "name": user.name, "orgs": orgs, "auth": {"accessToken": token}})


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Answer:
    data, user = request.data, request.user
    namespace = data.get("organization") or (user.name if user else "")
    request.check_write(namespace)
    kind, name = data.get("type") or "model", f"{namespace}/{data['name']}"
    url = f"{request.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    if (kind, name) in request.state.repos:
        return Answer(409, {"error": "You already created this repo", "url": url})
    is_private = data.get("visibility") == "private" or bool(data.get("private"))
    request.state.add_repo(name, kind=kind, private=is_private)
    return Answer(body={"url": url, "name": name, "id": name})


@route("DELETE", "/api/repos/delete")
def delete_repo(request: Request) -> Answer:
    data = request.data
    request.check_write(data["organization"])
    del request.state.repos[data.get("type") or "model", f"{data['organization']}/{data['name']}"]
    return Answer(body={})


@route("PUT", f"{API}/settings")
def set_settings(request: Request) -> Answer:
    repo, data = request.repo, request.data
    request.check_write(repo.namespace)
    repo.private = data.get("visibility", "private" if repo.private else "public") == "private"
    repo.gated = bool(data.get("gated", repo.gated))
    return Answer(body={})


@route("GET", f"{API}/auth-check(?P<write>/write)?")
def auth_check(request: Request) -> Answer:
    repo = request.repo
    request.check_gate(repo)
    if request.groups["write"]:
        request.check_write(repo.namespace)
    return Answer(body={})


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    import yaml

    front = re.match(r"---\n(.*?)\n---", request.data["content"], re.S)
    try:
        is_mapping = front is None or isinstance(yaml.safe_load(front[1]) or {}, dict)
        errors = [] if is_mapping else [{"message": "metadata is no mapping"}]
    except yaml.YAMLError as error:
        errors = [{"message": str(error)}]
    return Answer(400 if errors else 200, {"errors": errors, "warnings": []})


@route("POST", f"{API}/preupload/(?P<revision>[^/]+)")
def preupload(request: Request) -> Answer:
    request.check_write(request.repo.namespace)
    there = request.commit.files
    files = []
    for file in request.data["files"]:
        path, old = file["path"], there.get(file["path"])
        mode = "lfs" if is_large(path, file["size"]) else "regular"
        oid = old.etag if old else None
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": path in request.state.ignored,
                      "oid": oid})  # fmt: skip
    return Answer(body={"files": files})


@route("POST", rf"{FILES}\.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Answer:
    request.check_write(request.repo.namespace)
    objects = []
    for item in request.data["objects"]:
        upload = {"href": f"{request.hub.storage.url}/lfs/{item['oid']}?signature=good"}
        actions = {"upload": upload, "verify": {"href": f"{request.hub.url}/lfs-verify"}}
        is_there = item["oid"] in request.state.large_files and item["oid"] not in request.state.unverified
        new = {} if is_there else {"actions": actions}
        objects.append({"oid": item["oid"], "size": item["size"]} | new)
    return Answer(body={"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_put(request: Request) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != request.groups["oid"]:
        raise RefusalError(400, "content does not match oid")
    request.state.large_files[request.groups["oid"]] = request.body
    request.state.unverified.add(request.groups["oid"])
    return Answer(headers={"ETag": f'"{request.groups["oid"]}"'})


@route("GET", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_get(request: Request) -> Answer:
    return content_answer(request, request.state.large_files[request.groups["oid"]], {})


@route("POST", "/lfs-verify")
def lfs_verify(request: Request) -> Answer:
    content = request.state.large_files.get(request.data["oid"])
    if content is None or len(content) != request.data["size"]:
        raise RefusalError(404, "object was not uploaded")
    request.state.unverified.discard(request.data["oid"])
    return Answer(body={})


@route("GET", f"{API}/xet-write-token/(?P<revision>[^/]+)")
def xet_write_token(request: Request) -> Answer:
    request.check_write(request.repo.namespace)
    if request.state.xet_dir is None:
        raise RefusalError(404, "no Xet here")
    expiry, place = int(time.time()) + 3600, f"local://{request.state.xet_dir}"
    headers = {"X-Xet-Cas-Url": place, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expiry)}
    return Answer(body={"casUrl": place, "accessToken": "xet", "exp": expiry}, headers=headers)


@route("POST", f"{API}/commit/(?P<revision>[^/]+)")
def commit(request: Request) -> Answer:
    repo, branch = request.repo, unquote(request.groups["revision"])
    request.check_write(repo.namespace)
    changes: dict[str, bytes | None] = {}
    header: dict[str, Any] = {}
    for line in request.body.splitlines():
        item = json.loads(line)
        value = item["value"]
        match item["key"]:
            case "header":
                header = value
            case "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                if value["oid"] not in request.state.large_files or value["oid"] in request.state.unverified:
                    raise RefusalError(400, "LFS pointer pointed to a file that does not exist")
                changes[value["path"]] = request.state.large_files[value["oid"]]
            case "deletedFile":
                changes[value["path"]] = None
            case "deletedFolder":
                there = request.commit.files
                changes |= {path: None for path in there if path.startswith(value["path"].rstrip("/") + "/")}
    with request.state.lock:
        if header.get("parentCommit") not in (None, repo.branches.get(branch)):
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        sha = repo.commit(changes, header.get("summary", ""), branch)
    return Answer(body={"success": True, "commitOid": sha, "commitUrl": f"{request.hub.url}/{repo.id}/commit/{sha}"})


@route("GET", f"{API}(/revision/(?P<revision>[^/]+))?")
def info(request: Request) -> Answer:
    request.groups["revision"] = request.groups["revision"] or "main"
    repo, found = request.repo, request.commit
    siblings = [{"rfilename": path} | described(path, file) for path, file in sorted(found.files.items())]
    return Answer(
        body={"id": repo.id, "sha": found.sha, "private": repo.private, "gated": "auto" if repo.gated else False,
              "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
    )  # fmt: skip


@route("GET", f"{API}/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?")
def tree(request: Request) -> Answer:
    files = sorted(request.commit.files.items())
    start, size = int(request.query.get("cursor", 0)), request.state.page_size
    folder = unquote(request.groups["folder"] or "")
    entries = [described(path, file) for path, file in files if path.startswith(f"{folder}/" if folder else "")]
    if request.query.get("recursive", "").lower() != "true":
        entries = [entry for entry in entries if "/" not in entry["path"][len(folder) :].strip("/")]
    path = urlsplit(request.seen.path).path
    place = f"{request.state.pages_at or request.hub.url}{path}"
    following = f'<{place}?recursive=true&expand=false&cursor={start + size}>; rel="next"'
    headers = {"Link": following} if start + size < len(entries) else {}
    return Answer(body=entries[start : start + size], headers=headers)


@route("POST", f"{API}/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Request) -> Answer:
    wanted, files = parse_qs(request.body.decode())["paths"], request.commit.files
    return Answer(body=[described(path, files[path]) for path in wanted if path in files])


@route("GET", f"{API}/refs")
def refs(request: Request) -> Answer:
    def listed(names: dict[str, str], where: str) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{where}/{n}", "targetCommit": sha} for n, sha in sorted(names.items())]

    repo = request.repo
    return Answer(body={"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"), "converts": []})


@route("GET", f"{API}/commits/(?P<revision>[^/]+)")
def commits(request: Request) -> Answer:
    found, repo, listed = request.commit, request.repo, []
    while True:
        listed.append({"id": found.sha, "title": found.title, "message": "", "date": "2026-01-01T00:00:00.000Z",
                       "authors": []})  # fmt: skip
        if found.parent is None:
            return Answer(body=listed)
        found = repo.commits[found.parent]


@route("POST", f"{API}/(?P<what>branch|tag)/(?P<revision>[^/]+)")
def branch_or_tag(request: Request) -> Answer:
    repo, name, data = request.repo, unquote(request.groups["revision"]), request.data
    request.check_write(repo.namespace)
    is_branch = request.groups["what"] == "branch"
    names, new = (repo.branches, name) if is_branch else (repo.tags, data["tag"])
    start = repo.at(data.get("startingPoint", "main") if is_branch else name)
    if new in names:
        raise RefusalError(409, "Reference already exists")
    if start is None:
        raise RefusalError(404, "Invalid rev id", "RevisionNotFound")
    names[new] = start.sha
    return Answer(body={})


@route("GET", "/api/collections/(?P<slug>.+)")
def collection(request: Request) -> Answer:
    if request.groups["slug"] not in request.state.collections:
        raise RefusalError(404, "Collection not found")
    plain = {"title": "", "owner": {"name": "org"}, "items": [], "lastUpdated": "2026-01-01T00:00:00.000Z",
             "position": 0, "private": False, "theme": "blue", "upvotes": 0}  # fmt: skip
    return Answer(body=plain | {"slug": request.groups["slug"]} | request.state.collections[request.groups["slug"]])


@route("GET", f"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(request: Request) -> Answer:
    repo, found = request.repo, request.commit
    request.check_gate(repo)
    file = found.files.get(unquote(request.groups["path"]))
    if file is None:
        refusal = RefusalError(404, "Entry not found", "EntryNotFound")
        refusal.answer.headers["X-Repo-Commit"] = found.sha
        raise refusal
    headers = {"X-Repo-Commit": found.sha, "ETag": f'"{file.etag}"'}
    if file.is_large:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        if request.hub.storage.url != request.hub.url:
            request.state.large_files.setdefault(file.sha256, file.content)
            return Answer(
                302, b"", headers | {"Location": f"{request.hub.storage.url}/lfs/{file.sha256}?signature=good"}
            )
    return content_answer(request, file.content, headers)


def content_answer(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.seen.headers.get("range", ""))
    if wanted is None or not request.hub.knows_ranges:
        return Answer(200, content, headers)
    start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if start >= len(content):
        return Answer(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
    return Answer(206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"})


def described(path: str, file: StoredFile) -> dict[str, Any]:
    large = {"oid": file.sha256, "sha256": file.sha256, "size": len(file.content), "pointerSize": 134}
    entry = {"type": "file", "path": path, "oid": file.blob_id, "blobId": file.blob_id, "size": len(file.content)}
    return entry | ({"lfs": large} if file.is_large else {})
