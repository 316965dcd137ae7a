"""A hub on loopback that speaks enough of the Hub API for the real ``huggingface_hub`` client.

Listing, model info with blobs, tree, HEAD and GET resolve with ETag and
range; and on demand every way a hub misbehaves.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".safetensors", ".gguf", ".jsonl")


@dataclass
class Repo:
    """One model repository: files by path, and its commit."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    lies: dict[str, str] = field(default_factory=dict)  # path -> sha256 the listing gives instead

    @property
    def commit(self) -> str:
        state = hashlib.sha1(usedforsecurity=False)
        for path in sorted(self.files):
            state.update(path.encode() + b"\0" + self.files[path])
        return state.hexdigest()

    def siblings(self) -> list[dict[str, Any]]:
        rows = []
        for path, data in sorted(self.files.items()):
            row: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
            if path.endswith(LFS):
                sha = self.lies.get(path, hashlib.sha256(data).hexdigest())
                row["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134}
            elif path in self.lies:
                row["blobId"] = self.lies[path]
            rows.append(row)
        return rows


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """What the server serves, and how it misbehaves.

    Attributes:
        faults: pattern of a request path -> statuses to answer with before behaving; 0 drops the connection.
        seen: requests by "METHOD path".
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: dict[str, list[int]] = field(default_factory=dict)
    token: str = "hf_secret"
    seen: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Environment for a process that should talk to this hub and to nothing else."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FORGEKIT_", "HUGGING"))}
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "hf"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_COLOR": "1",
            "FORGEKIT_RUNTIME_TRANSFORMERS_PYTHON": "/nowhere/python",  # what it would say is not about the hub
            **more,
        }

    def fault(self, path: str) -> int | None:
        for pattern, statuses in self.faults.items():
            if re.search(pattern, path) and statuses:
                return statuses.pop(0)
        return None


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(iter(self._chunk, b""))
            hub.seen[f"POST {path}"] += 1
            status = hub.fault(path)
            if status is not None:
                self._send(status, json.dumps({"error": f"fault {status}"}).encode(), {"Retry-After": "0"})
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)", path):
                self._write(found[1], found[2], body)
            else:
                self._send(404, b"{}", {})

        def _chunk(self) -> bytes:
            size = int(self.rfile.readline(), 16)
            data = self.rfile.read(size)
            self.rfile.readline()
            return data

        def _write(self, name: str, step: str, body: bytes) -> None:
            """A commit of regular files: all of them on top of the parent that is named, or none."""
            repo = hub.repos.get(name)
            if repo is None or self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            if step == "preupload":
                files = json.loads(body)["files"]
                self._json(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
                return
            lines = [json.loads(line) for line in body.splitlines() if line]
            header = next(line["value"] for line in lines if line["key"] == "header")
            if header.get("parentCommit") not in (None, repo.commit):
                self._send(412, json.dumps({"error": "the branch has moved on"}).encode(), {})
                return
            new = {
                v["path"]: base64.b64decode(v["content"])
                for v in (line["value"] for line in lines if line["key"] == "file")
            }
            repo.files = repo.files | new
            self._json(
                {"success": True, "commitOid": repo.commit, "commitUrl": f"{hub.url}/{name}/commit/{repo.commit}"}
            )

        def _answer(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.seen[f"{self.command} {path}"] += 1
            status = hub.fault(path)
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            if status is not None:
                self._send(status, json.dumps({"error": f"fault {status}"}).encode(), {"Retry-After": "0"})
                return
            if path == "/api/models":
                self._list(parse_qs(url.query))
                return
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
            if found:
                self._info(found[1], found[2], found[3])
                return
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if found:
                self._resolve(found[1], found[2], found[3])
                return
            self._send(404, b"{}", {})

        def _list(self, query: dict[str, list[str]]) -> None:
            author = query.get("author", [""])[0]
            rows = [{"id": name, "modelId": name} for name in sorted(hub.repos) if name.startswith(f"{author}/")]
            self._json(rows)

        def _info(self, name: str, kind: str | None, revision: str | None) -> None:
            repo = self._repo(name, revision)
            if repo is None:
                return
            if kind == "tree":
                self._json(
                    [
                        {"type": "file", "path": row["rfilename"], "size": row["size"], "oid": row["blobId"]}
                        | ({"lfs": {"oid": row["lfs"]["sha256"], **row["lfs"]}} if "lfs" in row else {})
                        for row in repo.siblings()
                    ]
                )
                return
            self._json(
                {
                    "id": name,
                    "modelId": name,
                    "sha": repo.commit,
                    "private": repo.private,
                    "gated": repo.gated,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "siblings": repo.siblings(),
                }
            )

        def _resolve(self, name: str, revision: str, path: str) -> None:
            repo = self._repo(name, revision)
            if repo is None:
                return
            if path not in repo.files:
                self._send(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
                return
            data = repo.files[path]
            etag = hashlib.sha256(data).hexdigest() if path.endswith(LFS) else git_sha1(data)
            headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                start, end = int(wanted[1]), int(wanted[2] or len(data) - 1)
                headers["Content-Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
                self._send(206, data[start : end + 1], headers)
                return
            self._send(200, data, headers)

        def _repo(self, name: str, revision: str | None) -> Repo | None:
            repo = hub.repos.get(name)
            known = self.headers.get("Authorization") == f"Bearer {hub.token}"
            if repo is None or (repo.private and not known):
                self._send(401 if not known else 404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return None
            if repo.gated and not known:
                self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
                return None
            if revision not in (None, "main", repo.commit):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return None
            return repo

        def _json(self, value: Any) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def repo_of(folder: Path) -> Repo:
    """A repository with the files of a folder, pins left out."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "forgekit-pin.json"
    }
    return Repo(files)
