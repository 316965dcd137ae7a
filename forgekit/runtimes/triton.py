"""Triton Inference Server: a server that is already running, asked over HTTP.

What it serves is not in our hands, so being there and answering prove
nothing: its text must be the one Transformers writes from these weights.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._invariants import COMMON

ADDRESS = "FORGEKIT_TRITON_URL"  # http://host:8000/v2/models/NAME, or without the last part for the artifact's own name
TIMEOUT = 60.0  # seconds for one answer


class Driver:
    """The server's health, the model's readiness, then its generate endpoint. Source: Triton's HTTP/REST protocol."""

    @staticmethod
    def warm() -> None:
        """Nothing to import."""

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.server, self.model = address(os.environ[ADDRESS], str(asked["name"]))
        self._get("/v2/health/live")
        self._get("/v2/health/ready")
        self._get(f"/v2/models/{self.model}/ready")
        self.told = json.loads(self._get("/v2") or "{}")
        return {"model": self.model}

    def describe(self) -> dict[str, str]:
        return {
            "engine": str(self.told.get("name", "triton")),
            "version": str(self.told.get("version", "unknown")),
            "device": self.server,
        }

    def write(self, text: str, count: int) -> str:
        """What the model writes after ``text``, without it."""
        body = {"text_input": text, "max_tokens": count, "temperature": 0.0, "stream": False}
        answer = json.loads(self._get(f"/v2/models/{self.model}/generate", json.dumps(body).encode()))
        written = answer.get("text_output")
        if not isinstance(written, str):
            raise TypeError(f"the generate endpoint gave no text_output: {str(answer)[:200]}")
        return written.removeprefix(text)

    def encode(self, text: str) -> list[int] | None:  # noqa: ARG002 - the server keeps its tokenizer to itself
        return None

    def generate(self, ids: list[int], count: int) -> list[int]:
        raise ValueError(f"a server that takes text cannot be given {len(ids)} ids to write {count} after")

    def logits(self, ids: list[int]) -> Any:  # noqa: ARG002 - it gives text
        return None

    def _get(self, path: str, body: bytes | None = None) -> str:
        request = urllib.request.Request(  # noqa: S310 - address() takes http and https only
            self.server + path, data=body, headers={"Content-Type": "application/json"} if body else {}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - as above
                return str(answer.read(1 << 20).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            said = error.read(400).decode("utf-8", "replace")
            raise RuntimeError(f"{path} answers {error.code}: {said}") from error
        except urllib.error.URLError as error:
            raise RuntimeError(f"{self.server} does not answer: {error.reason}") from error


def address(url: str, name: str) -> tuple[str, str]:
    """(server, model) of an address.

    Raises:
        ValueError: it is no HTTP address.
    """
    found = re.fullmatch(r"(https?://[^/\s]+)(?:/v2/models/([\w.-]+))?/?", url)
    if found is None:
        raise ValueError(f"{ADDRESS} is {url!r}, and should be http://host:port/v2/models/NAME")
    return found[1], found[2] or name


def named_backend(form: Form) -> Iterator[Obstacle]:
    """A model repository's configuration says what runs the model."""
    if form.kind != "triton":
        return
    text = form.text("config.pbtxt") or ""
    if not re.search(r'^\s*(backend|platform)\s*:\s*"[^"]+"', text, re.MULTILINE):
        yield Obstacle(
            invariant="named-backend",
            effect="refuse",
            text="config.pbtxt names neither a backend nor a platform",
            where=f"{form.where}/config.pbtxt",
            fix='state backend: "vllm", or whichever runs it',
        )


def elsewhere() -> str:
    return "" if os.environ.get(ADDRESS) else f"no Triton server is named: set {ADDRESS}"


RUNTIME = Runtime(
    name="triton",
    title="Triton",
    reads=("triton", "safetensors"),
    modules=(),
    install=f"start a server with the model and set {ADDRESS}",
    invariants=(*COMMON, named_backend),
    driver=Driver,
    elsewhere=elsewhere,
    remote=(ADDRESS,),
)
