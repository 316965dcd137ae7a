"""``forgekit store``, as a user runs it."""

from __future__ import annotations

import io
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import pytest

from forgekit.cli import main
from forgekit.digest import Digest, model_hash, sha256
from forgekit.store import audit, chain
from forgekit.store.objects import key_of
from tests.support.running import Ran, forgekit, without_catalog
from tests.support.store import a_chain, a_store, delete_by_hand

COMMANDS = ("put", "get", "ls", "unpin", "fsck", "gc", "audit", "restore")
NONE = "0" * 64


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "artifact"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(b"weights")
    (folder / "deep" / "b.json").write_bytes(b"{}")
    return folder


def run(tmp_path, *arguments, store="s"):
    """The command in this process: starting Python takes longer than all of them."""
    out, err = io.StringIO(), io.StringIO()
    command = ["forgekit", "store", *map(str, arguments), "--store", str(tmp_path / store)]
    with mock.patch.object(sys, "argv", command), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
    return Ran(code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path, command):
    ran = run(tmp_path, command, "--help")

    assert ran.code == 0
    assert f"Usage: forgekit store {command}" in ran.out


def test_a_folder_goes_in_under_its_model_hash_and_comes_out_whole(tmp_path, files):
    ran = run(tmp_path, "put", files, "--type", "weights", "--json")
    rows = {row["path"]: row for row in ran.json["objects"]}
    whole = model_hash([("a.safetensors", sha256(b"weights").hex), ("deep/b.json", sha256(b"{}").hex)])

    assert rows[str(files)]["object"] == str(whole)
    assert rows[str(files / "a.safetensors")]["type"] == "weights"
    got = run(tmp_path, "get", whole, "--to", tmp_path / "out", "--json")
    assert (got.code, got.json["files"]) == (0, 2)
    assert (tmp_path / "out/deep/b.json").read_bytes() == b"{}"
    assert run(tmp_path, "get", whole, "--to", tmp_path / "m.json", "--raw").code == 0
    assert sha256((tmp_path / "m.json").read_bytes()) == whole
    assert len(run(tmp_path, "ls", "--json").json["objects"]) == 3
    assert run(tmp_path, "fsck").code == 0


def test_the_store_is_where_the_environment_says(tmp_path, files):
    env = without_catalog(FORGEKIT_STORE=str(tmp_path / "there"))
    assert forgekit("store", "put", files / "a.safetensors", env=env).code == 0
    assert (tmp_path / "there" / key_of(sha256(b"weights"))).read_bytes() == b"weights"
    elsewhere = without_catalog(XDG_DATA_HOME=str(tmp_path / "data"))
    assert forgekit("store", "put", files / "a.safetensors", env=elsewhere).code == 0
    assert (tmp_path / "data/forgekit/store" / key_of(sha256(b"weights"))).is_file()


def test_a_hurt_object_is_1_and_leaves_no_file(tmp_path, files):
    run(tmp_path, "put", files)
    hurt = tmp_path / "s" / key_of(sha256(b"weights"))
    hurt.chmod(0o644)
    hurt.write_bytes(b"weighty")

    checked = run(tmp_path, "fsck", "--json")
    got = run(tmp_path, "get", sha256(b"weights"), "--to", tmp_path / "out")
    missing = run(tmp_path, "get", NONE, "--to", tmp_path / "out", "--json")

    assert (checked.code, [fault["kind"] for fault in checked.json["faults"]]) == (1, ["corrupt"])
    assert (got.code, got.out) == (1, "")
    assert "not to its name" in got.err
    assert (missing.code, missing.json["error"]) == (1, "the store does not hold it")
    assert not (tmp_path / "out").exists()


def test_bad_input_is_2(tmp_path, files):
    (files / "out").symlink_to("/etc/passwd")
    for arguments in (
        ("put", tmp_path / "absent"),
        ("put", files),
        ("get", "xyz", "--to", tmp_path / "out"),
        ("fsck",),
        ("restore", "--from", tmp_path / "absent", "--refs"),
        ("put", files / "a.safetensors", "--weigh"),
    ):
        ran = run(tmp_path, *arguments)
        assert (ran.code, ran.out) == (2, ""), arguments
    assert forgekit("store", "ls", "--store", "nosuch://x").code == 2  # and no traceback
    assert not (tmp_path / "s").exists()


def test_an_empty_store_has_nothing_to_check(tmp_path):
    (tmp_path / "s").mkdir()

    assert [run(tmp_path, command).code for command in ("fsck", "audit")] == [3, 3]
    assert run(tmp_path, "restore", "--from", tmp_path / "s").code == 3
    assert run(tmp_path, "gc").code == 0


def test_collecting_is_a_dry_run_until_it_is_confirmed(tmp_path, files):
    run(tmp_path, "put", files / "a.safetensors", "--passing")
    run(tmp_path, "put", files / "deep" / "b.json")

    said = run(tmp_path, "gc", "--grace", "0", "--json").json
    assert [(row["keep"], row["reason"]) for row in said["decisions"]] == [
        (True, "pinned"),
        (False, "nothing names it"),
    ]
    assert (said["dryRun"], said["deleted"]) == (True, [])
    assert all(row["keep"] for row in run(tmp_path, "gc", "--json").json["decisions"])
    ran = run(tmp_path, "gc", "--grace", "0", "--confirm")
    assert (ran.code, "1 deleted" in ran.err) == (0, True)
    assert run(tmp_path, "unpin", sha256(b"{}")).code == 0
    assert run(tmp_path, "gc", "--grace", "0", "--confirm", "--json").json["freed"] == 2
    assert run(tmp_path, "ls", "--json").json["objects"] == []


def test_a_break_is_named_and_a_replica_makes_it_good(tmp_path):
    store = a_store(tmp_path / "s")
    links = a_chain(store, tmp_path / "work")
    audit.publish(store, "lab/ember", links[-1])
    shutil.copytree(tmp_path / "s", tmp_path / "replica")
    assert run(tmp_path, "audit", "--verify").code == 0
    lost = chain.load(store, links[1]).files[0].digest
    delete_by_hand(store, lost)

    told = run(tmp_path, "audit", "--json")
    (found,) = told.json["chains"][0]["breaks"]
    assert (told.code, found["stage"], found["missing"]) == (1, "1 (prune)", str(lost))
    assert found["lastSeen"].startswith(store.where(lost))
    assert "lab/ember: stage 1 (prune): model-00001-of-00002.safetensors" in run(tmp_path, "audit").out

    restored = run(tmp_path, "restore", "--from", f"file://{tmp_path}/replica", "--json")
    assert (restored.code, restored.json["fetched"]) == (0, [str(lost)])
    assert run(tmp_path, "audit", "--verify", "--json").json["summary"] == {
        "chains": 1,
        "sound": 1,
        "broken": 0,
        "unproven": 0,
    }


def test_a_store_that_was_lost_whole_comes_back_from_its_replica(tmp_path):
    store = a_store(tmp_path / "s")
    links = a_chain(store, tmp_path / "work")
    audit.publish(store, "lab/ember", links[-1])

    assert run(tmp_path, "restore", "--from", tmp_path / "s", "--refs", store="new").code == 0

    assert run(tmp_path, "audit", "--verify", store="new").code == 0
    assert Digest(links[-1].hex) in [head for _, head in chain.published(a_store(tmp_path / "new"))]


def test_what_no_replica_holds_is_1(tmp_path, files):
    run(tmp_path, "put", files / "a.safetensors")
    shutil.copytree(tmp_path / "s", tmp_path / "replica")
    for name in ("s", "replica"):
        (tmp_path / name / key_of(sha256(b"weights"))).unlink()

    ran = run(tmp_path, "restore", "--from", tmp_path / "replica")

    assert ran.code == 1
    assert "the replica does not hold it either" in ran.out


def test_a_catalogs_unreadable_alloy_is_a_break(tmp_path):
    (tmp_path / "cat/lab/x").mkdir(parents=True)
    (tmp_path / "cat/lab/x/x.alloy.json").write_bytes(b"[")

    ran = run(tmp_path, "audit", "--catalog", tmp_path / "cat", "--json", store="cat")

    assert ran.code == 1
    assert ran.json["chains"][0]["breaks"][0]["stage"] == "alloy"
