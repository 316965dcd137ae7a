"""Bad input on the command line: what was wrong, where, what to do; no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forgekit import alloy
from tests.support.builders import an_alloy, write_alloy
from tests.support.running import EMBEDDED, ROOT, forgekit, heeds_interrupts, without_catalog

EMBER = EMBEDDED / "forgekit" / "ember-moe-tiny"


@pytest.fixture
def ember(tmp_path):
    """A copy of an honest artifact."""
    return Path(shutil.copytree(EMBER, tmp_path / "ember"))


def edited(folder, *changes):
    """Set values in the alloy of a folder: pairs of keys and value."""
    (path,) = folder.glob("*.alloy.json")
    tree = json.loads(path.read_bytes())
    for *keys, last, value in changes:
        node = tree
        for key in keys:
            node = node[key]
        node[last] = value
    path.write_bytes(alloy.write(tree))
    return folder


def findings(ran):
    return {finding["pointer"]: finding for finding in ran.json["artifacts"][0]["findings"]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"forge it", "the document is not JSON: expecting value\n  in   {path}, line 1, column 1"),
        (b'{"name": "x", "stages": [', "the document ends in the middle, after 25 bytes"),
        (b"", "the document is empty\n  in   {path}"),
        (b'{"name":' + b"[" * 5000 + b"]" * 5000 + b"}", "the document is nested deeper than 64 levels\n  in   {path}"),
        (b'{"name": "x", "name": "y"}', "the key 'name' is given twice\n  in   {path}"),
        (b'{"name": NaN}', "NaN is not JSON\n  in   {path}"),
        (b"[1]", "the document is a list, not a JSON object\n  in   {path}"),
        ('{"name": "x"}'.encode("utf-16"), "the document is not UTF-8: byte 0 is 0xff\n  in   {path}"),
        (b'\xef\xbb\xbf{"name": "x"}', "the document starts with a byte order mark"),
    ],
    ids=["not JSON", "truncated", "empty", "deep", "duplicate key", "NaN", "a list", "UTF-16", "a byte order mark"],
)
@pytest.mark.parametrize("command", ["verify", "plan"])
def test_a_document_that_cannot_be_read_says_why_and_where(tmp_path, command, data, says):
    path = tmp_path / "x.alloy.json"
    path.write_bytes(data)

    ran = forgekit(command, path)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: " + says.format(path=path).split("\n")[0])
    assert says.format(path=path) in ran.err


def test_a_document_of_200_megabytes_is_refused_without_being_read(tmp_path):
    path = tmp_path / "x.alloy.json"
    with path.open("wb") as file:
        file.truncate(200 << 20)

    started = time.monotonic()
    ran = forgekit("verify", path)

    assert ran.code == 2
    assert "the file is 200 MiB; an alloy has at most 16 MiB" in ran.err
    assert time.monotonic() - started < 5


def test_a_field_of_the_wrong_type_is_refuted_and_hides_no_other_claim(ember):
    ran = forgekit("verify", edited(ember, ("cycles", "three"), ("source", "numLayers", True)), "--tier", "1", "--json")

    schema = findings(ran)[""]
    assert ran.code == 1
    assert schema["verdict"] == "refuted"
    assert "#/cycles" in schema["reason"]
    assert "#/source/numLayers" in schema["reason"]
    assert findings(ran)["/stages/2"]["verdict"] == "confirmed"


def test_an_unknown_stage_is_unchecked_and_says_where_it_would_go(ember):
    edited(ember, ("stages", 2, "type", "expert-polish"))

    planned = forgekit("plan", ember)
    verified = findings(forgekit("verify", ember, "--tier", "1", "--json"))["/stages/2"]

    assert planned.code == 2
    assert "#/stages/2/type: no stage is named 'expert-polish'" in planned.err
    assert "add forgekit/stages/expert_polish.py" in planned.err
    assert verified["verdict"] == "unchecked"


def test_an_unknown_architecture_names_those_that_are_known(ember):
    edited(ember, ("source", "architecture", "mamba"))

    ran = forgekit("plan", ember)

    assert ran.code == 2
    assert "#/source/architecture: no family is named 'mamba' (deepseek_v2, granitemoe, " in ran.err
    assert "add forgekit/families/mamba.py" in ran.err


def test_a_misspelt_architecture_suggests_the_right_one(ember):
    ran = forgekit("plan", edited(ember, ("source", "architecture", "qwen3moe")))

    assert "try 'qwen3_moe'" in ran.err


def test_an_unsupported_pair_says_what_the_family_does_support_and_what_to_use(tmp_path):
    tree = an_alloy()
    tree["source"] = {"baseModel": "lab/dense", "architecture": "qwen2"}

    ran = forgekit("plan", write_alloy(tmp_path, tree))

    assert ran.code == 2
    assert "family 'qwen2' cannot do 'expert-prune', which needs Experts" in ran.err
    assert "It supports " in ran.err
    assert "to shrink, use " in ran.err


@pytest.mark.parametrize("path", ["../secret.jsonl", "eval/../../secret.jsonl", "/etc/passwd", ""])
def test_a_samples_path_that_leaves_the_artifact_is_not_followed(ember, path):
    (ember.parent / "secret.jsonl").write_text("hush")
    edited(ember, ("results", "benchmarks", 0, "samplesPath", path))

    found = findings(forgekit("verify", ember, "--json"))

    for pointer in ("/results/benchmarks/0/resultHash", "/results/benchmarks/0/score"):
        assert found[pointer]["verdict"] == "unproven"
        assert "hush" not in json.dumps(found[pointer])
    assert "keep the file inside the artifact" in found["/results/benchmarks/0/resultHash"]["fix"]


@pytest.mark.parametrize("target", ["../../../secret.jsonl", "/etc/passwd"])
def test_a_link_out_of_the_artifact_is_not_followed(ember, target):
    (ember.parent / "secret.jsonl").write_text("hush")
    samples = ember / "eval" / "forgekit_mini" / "student_samples.jsonl"
    samples.unlink()
    samples.symlink_to(target)

    found = findings(forgekit("verify", ember, "--json"))["/results/benchmarks/0/resultHash"]

    assert found["verdict"] == "unproven"
    assert "is a link that leaves the artifact" in found["reason"]


def test_a_link_inside_the_artifact_is_followed(ember):
    samples = ember / "eval" / "forgekit_mini" / "student_samples.jsonl"
    samples.rename(ember / "moved.jsonl")
    samples.symlink_to("../../moved.jsonl")

    found = findings(forgekit("verify", ember, "--tier", "3", "--json"))["/results/benchmarks/0/resultHash"]

    assert found["verdict"] == "confirmed"


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_hash_of_the_wrong_length_is_no_hash(ember, length):
    edited(ember, ("results", "integrity", "fileHashes", 0, "sha256", "a" * length))

    found = findings(forgekit("verify", ember, "--tier", "3", "--json"))["/results/integrity/fileHashes/0/sha256"]

    assert found["verdict"] == "refuted"
    assert f"it has {length} hex digits, not 64" in found["reason"] or "it is empty" in found["reason"]


def test_a_truncated_weight_file_is_refuted_by_hash_and_its_header_unread(ember):
    weights = ember / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])

    found = findings(forgekit("verify", ember, "--tier", "3", "--json"))

    assert found["/results/integrity/fileHashes/0/sha256"]["verdict"] == "refuted"
    assert found["/results/forgedParamsB"]["verdict"] == "unchecked"
    assert "model.safetensors" in found["/results/forgedParamsB"]["reason"]


@pytest.mark.parametrize(
    "arguments",
    [["verify"], ["claims"], ["plan"], ["hash"], ["score", "-b", "forgekit_mini"], ["catalog", "list", "--catalog"]],
    ids=lambda arguments: arguments[0],
)
def test_what_is_not_there_is_named(tmp_path, arguments):
    ran = forgekit(*arguments, tmp_path / "nowhere")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: there is no ")
    assert str(tmp_path / "nowhere") in ran.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = write_alloy(tmp_path, an_alloy())
    path.chmod(0)

    ran = forgekit("verify", path)

    assert ran.code == 2
    assert str(path) in ran.err


def test_a_folder_with_two_alloys_is_ambiguous(ember):
    shutil.copy(ember / "ember-moe-tiny.alloy.json", ember / "other.alloy.json")

    ran = forgekit("verify", ember)

    assert ran.code == 2
    assert "ember-moe-tiny.alloy.json" in ran.err
    assert "other.alloy.json" in ran.err


def _small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def limited(*arguments, cwd=ROOT):
    """Run forgekit where no file can grow beyond 2,000 bytes: a disk that is full."""
    return subprocess.run(
        [sys.executable, "-m", "forgekit", *map(str, arguments)],
        preexec_fn=_small_files,
        capture_output=True,
        text=True,
        env=without_catalog(),
        cwd=cwd,
        check=False,
    )


def test_a_full_disk_leaves_no_half_written_page(tmp_path):
    page = tmp_path / "page"
    forgekit("verify", EMBER, "--html", page)
    before = {path.name: path.read_bytes() for path in page.iterdir()}

    ran = limited("verify", EMBER, "--tier", "1", "--html", page)

    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert "File too large" in ran.stderr
    assert {path.name: path.read_bytes() for path in page.iterdir()} == before


def test_full_standard_output_is_told(tmp_path):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "forgekit", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=without_catalog(),
            cwd=tmp_path,
            check=False,
        )

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m forgekit schema | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env=without_catalog(),
        cwd=ROOT,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("{\n", "")


@pytest.mark.parametrize("command", ["hash", "verify"])
def test_ctrl_c_while_hashing_stops_at_once_and_says_so(ember, command):
    big = ember / "model.safetensors"
    with big.open("r+b") as file:
        file.truncate(64 << 30)  # sparse: a minute of hashing
    process = subprocess.Popen(
        [sys.executable, "-m", "forgekit", command, ember if command == "verify" else big],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=without_catalog(),
        cwd=ROOT,
        preexec_fn=heeds_interrupts,
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert (out, err) == ("", "stopped; nothing was left half-written\n")
    assert time.monotonic() - started < 3


def test_ctrl_c_while_scoring_leaves_no_process_behind(tmp_path):
    problems = (ROOT / "forgekit" / "benchmarks" / "data" / "forgekit_mini.jsonl").read_text().splitlines()
    loop = "while True: pass\n"
    samples = tmp_path / "samples.jsonl"
    rows = [{"task_id": json.loads(line)["task_id"], "solution": loop} for line in problems]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = subprocess.Popen(
        [sys.executable, "-m", "forgekit", "score", samples, "-b", "forgekit_mini"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=without_catalog(XDG_CACHE_HOME=str(tmp_path / "cache")),
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=heeds_interrupts,
    )
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert (out, err) == ("", "stopped; nothing was left half-written\n")
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/environ")
        if str(tmp_path / "cache").encode() in _read(path) or str(samples).encode() in _read(path.parent / "cmdline")
    ]
    assert left == []


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
