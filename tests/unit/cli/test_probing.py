"""``forgekit probe`` as a user runs it: folders, files, catalogs, a hub; engines or headers alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from forgekit.runtimes.triton import address
from tests.support.gguf import gguf_bytes
from tests.support.hub import Hub, repo_of, serving
from tests.support.matrix import missing
from tests.support.models import base, look_alike
from tests.support.running import EMBEDDED, ROOT, forgekit, heeds_interrupts, without_catalog

needs_transformers = pytest.mark.skipif(bool(missing("transformers")), reason=f"unchecked: {missing('transformers')}")
pytestmark = pytest.mark.xdist_group("probing")


ask = partial(forgekit, engines=True)


def cells(ran):
    assert ran.json["schema"] == "forgekit.probe/1"
    return {cell["runtime"]: cell for cell in ran.json["cells"]}


@needs_transformers
def test_an_artifact_is_loaded_generates_and_is_measured():
    ran = ask("probe", EMBEDDED / "forgekit/ember-moe-tiny", "-r", "Transformers", "--json")

    found = cells(ran)["transformers"]
    assert (ran.code, found["verdict"]) == (0, "confirmed")
    evidence = found["evidence"]
    assert evidence["engine"] == "transformers"
    assert {"version", "device", "loadSeconds", "peakMemoryMiB", "promptHash", "outputTokenIds", "outputHash"} <= {
        *evidence
    }
    assert evidence["tokensPerSec"] > 0


@needs_transformers
def test_the_table_says_for_each_runtime_what_was_found():
    ran = ask("probe", "forgekit/ember-moe-tiny", "-r", "transformers", "-r", "onnxruntime", "--catalog", EMBEDDED)

    assert ran.code == 0
    assert "✓ transformers" in ran.out
    assert "? onnxruntime" in ran.out
    assert "every tensor finds its place" in ran.out


def test_headers_alone_give_the_whole_table(tmp_path):
    folder = look_alike("qwen2", tmp_path, auto_map={"AutoModel": "evil.Evil"})

    honest = ask("probe", base("qwen2"), "--preflight", "--runtime", "all")
    hostile = ask("probe", folder, "--preflight")

    assert (honest.code, hostile.code) == (0, 1)
    for name in ("transformers", "llama_cpp", "mlx", "vllm", "tensorrt_llm", "coreml", "triton", "onnxruntime"):
        assert name in honest.out
    assert "Headers confirm nothing" in honest.out
    assert "it wants to run its own code (evil.Evil) [no-remote-code]" in " ".join(hostile.out.split())


def test_a_repository_on_a_hub_is_foretold_by_ranges_alone(tmp_path):
    folder = shutil.copytree(base("qwen2"), tmp_path / "m")
    (folder / "m.gguf").write_bytes(gguf_bytes([("t", (2, 2))]))
    (folder / "recipe.alloy.json").write_text(
        json.dumps({"name": "m", "version": "1", "source": {"baseModel": "b", "architecture": "qwen2"}, "stages": []})
    )
    with serving(Hub(repos={"lab/m": repo_of(folder)})) as hub:
        ran = ask("probe", "hf://lab/m", "--preflight", "--json", env=hub.environment(tmp_path))
        seen = list(hub.seen)

    assert ran.code == 0, ran.err
    assert cells(ran)["transformers"]["precision"] == "BF16"
    assert cells(ran)["llama_cpp"]["form"] == "m.gguf"
    assert not [line for line in seen if line.startswith("HEAD") and line.endswith((".safetensors", ".gguf"))]


def test_a_hub_that_is_not_there_is_bad_input_and_not_a_verdict():
    ran = ask("probe", "hf://lab/m", "--preflight", "--offline")

    assert ran.code == 2
    assert "offline" in ran.err


def test_a_file_that_lies_is_refused_with_the_tensor_named(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_bytes([("blk.0.x", (2, 2)), ("blk.0.y", (2, 2))], place=0))

    ran = ask("probe", tmp_path / "m.gguf", "-r", "llama_cpp", "--json")

    assert ran.code == 1
    assert cells(ran)["llama_cpp"]["reason"] == "not given to the engine: tensors 'blk.0.x' and 'blk.0.y' overlap"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nowhere-at-all", "-r", "mlx"], 2, "nowhere-at-all"),
        ([str(EMBEDDED), "--runtime", "abacus"], 2, "no runtime is named 'abacus'"),
        ([str(EMBEDDED), "--device", "abacus"], 2, "neither cpu nor cuda"),
        ([str(ROOT / "tests"), "-r", "mlx"], 2, "nothing here that an engine could load"),
        ([str(EMBEDDED / "forgekit/ember-moe-tiny"), "-r", "onnxruntime"], 3, ""),
    ],
)
def test_bad_use_is_told_and_nothing_checked_is_its_own_code(arguments, code, says):
    ran = ask("probe", *arguments)

    assert ran.code == code, ran.err
    assert says in ran.err


@needs_transformers
def test_ctrl_c_ends_the_engines_too(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "forgekit", "probe", str(base("qwen3_moe")), "-r", "transformers"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=without_catalog(engines=True, TMPDIR=str(tmp_path)),
        cwd=ROOT,
        preexec_fn=heeds_interrupts,
    ) as ran:
        until = time.monotonic() + 30
        while time.monotonic() < until and not list(tmp_path.glob("forgekit-transformers-*")):
            time.sleep(0.05)
        ran.send_signal(signal.SIGINT)
        _, err = ran.communicate(timeout=30)

    assert ran.returncode == 130
    assert b"stopped" in err
    assert list(tmp_path.glob("forgekit-*")) == []


class Server(BaseHTTPRequestHandler):
    """The few endpoints of the KServe protocol that a client of Triton uses."""

    ready = True
    texts: dict[str, str] = {}

    def do_GET(self):
        if self.path == "/v2":
            self.answer(200, {"name": "triton", "version": "2.60.0"})
        else:
            self.answer(200 if self.ready else 503, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {"text_output": asked["text_input"] + self.texts.get(asked["text_input"], "something else")})

    def answer(self, code, tree):
        body = json.dumps(tree).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def triton():
    Server.ready, Server.texts = True, {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v2/models/ember"
        server.shutdown()


def asked(url, folder):
    env = without_catalog(engines=True, FORGEKIT_TRITON_URL=url)
    return ask("probe", folder, "-r", "triton", "-r", "transformers", "--json", env=env)


@needs_transformers
def test_a_server_is_confirmed_only_by_writing_what_transformers_writes(triton):
    from forgekit.forms import folder_forms
    from forgekit.probing.bench import TEXTS, Bench
    from forgekit.runtimes import RUNTIMES

    form = folder_forms(base("qwen2"))[0]
    with Bench() as bench:
        written = bench._reference(form, ()).written
    wrong = asked(triton, base("qwen2"))
    Server.texts = dict(zip(TEXTS, written, strict=True))
    right = asked(triton, base("qwen2"))
    assert RUNTIMES["triton"].remote

    assert cells(right)["triton"]["verdict"] == "confirmed", cells(right)["triton"]["reason"]
    assert cells(wrong)["triton"]["verdict"] == "refuted"
    assert "where Transformers writes" in cells(wrong)["triton"]["reason"]


@needs_transformers
def test_a_server_that_is_not_ready_is_refuted_and_none_named_is_unchecked(triton):
    Server.ready = False

    assert "answers 503" in cells(asked(triton, base("qwen2")))["triton"]["reason"]
    unnamed = cells(ask("probe", base("qwen2"), "-r", "triton", "--json"))["triton"]
    assert unnamed["verdict"] == "unchecked"
    assert "set FORGEKIT_TRITON_URL" in unnamed["reason"]


def test_a_server_s_address_may_name_the_model():
    assert address("http://host:8000/v2/models/ember", "m") == ("http://host:8000", "ember")
    assert address("https://host/", "m") == ("https://host", "m")
    with pytest.raises(ValueError, match="should be http://host:port"):
        address("file:///etc/passwd", "m")


def test_engines_that_need_other_machines_say_so_and_know_their_arguments(tmp_path):
    from forgekit.runtimes.tensorrt_llm import arguments

    (tmp_path / "rank0.engine").write_bytes(b"")

    assert arguments({"path": str(tmp_path)})["skip_tokenizer_init"] is True
    assert "backend" not in arguments({"path": str(tmp_path)})
    assert arguments({"path": str(tmp_path / "none")})["backend"] == "pytorch"
    assert arguments({"path": "x"})["trust_remote_code"] is False
    found = cells(ask("probe", base("qwen2"), "-r", "tensorrt_llm", "--json"))["tensorrt_llm"]
    if found["verdict"] == "unchecked":
        assert "NVIDIA GPUs only" in found["reason"] or "not installed" in found["reason"]
