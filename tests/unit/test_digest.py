from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit import digest
from forgekit.digest import Digest
from forgekit.errors import DigestError, SourceError
from tests.support.running import heeds_interrupts

HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)


def test_published_model_hash_of_one_file():
    found = digest.model_hash(
        [("model.safetensors", "b0103eceb715ea1bd27bea2cafbd1b201f8a24b5c81d3228c9555220abd4d756")]
    )

    assert str(found) == "sha256:3f1fd0b9b5b70d7869fd9a48162641f7652c693cd01d5bc2b1781321e5786c64"


@pytest.mark.parametrize("order", [1, -1])
def test_model_hash_of_two_files_in_either_order(order):
    files = [("a.safetensors", "a" * 64), ("b.safetensors", "b" * 64)][::order]

    assert str(digest.model_hash(files)) == "sha256:8f6b31872995f832763e4d26c121d437b39d18974a524dd8486b322593fc721f"


@given(st.dictionaries(st.text(min_size=1), HEX, min_size=1, max_size=8), st.randoms())
def test_model_hash_does_not_depend_on_order(files, random):
    rows = list(files.items())
    shuffled = random.sample(rows, len(rows))

    assert digest.model_hash(rows) == digest.model_hash(shuffled)


@given(st.dictionaries(st.text(min_size=1), HEX, min_size=1, max_size=4), HEX)
def test_model_hash_changes_with_any_file(files, other):
    name = min(files)
    if files[name] == other:
        return

    assert digest.model_hash(files.items()) != digest.model_hash((files | {name: other}).items())


def test_model_hash_of_nothing_is_an_error():
    with pytest.raises(DigestError, match="at least one weight file"):
        digest.model_hash([])


def test_model_hash_of_a_file_listed_twice_is_an_error():
    with pytest.raises(DigestError, match="'a' is listed twice"):
        digest.model_hash([("a", "a" * 64), ("a", "b" * 64)])


def test_concat_hash_of_one_file_is_the_files_own(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"weights")

    assert digest.concat_hash([tmp_path / "m.safetensors"]) == digest.sha256(b"weights")


def test_concat_hash_goes_by_name(tmp_path):
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").write_bytes(b"1")

    assert digest.concat_hash([tmp_path / "b", tmp_path / "a"]) == digest.sha256(b"12")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a" * 63, "it has 63 hex digits, not 64"),
        ("sha256:" + "a" * 65, "it has 65 hex digits, not 64"),
        ("A" * 64, "its hex digits are not lower case"),
        ("sha256:legacy-pre-alloy-schema", "it is not hexadecimal"),
        ("sha256:", "it is empty"),
    ],
)
def test_what_is_no_digest_says_why(text, fault):
    assert digest.fault(text) == fault
    with pytest.raises(DigestError, match=fault):
        Digest.parse(text)


@given(HEX)
def test_a_digest_survives_its_own_spelling(hex_digits):
    assert Digest.parse(str(Digest(hex_digits))) == Digest.parse(hex_digits) == Digest(hex_digits)
    assert Digest(hex_digits).short == hex_digits[:16]


@given(st.lists(st.binary(max_size=200_000), max_size=4))
def test_files_hash_as_their_bytes_do(contents):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(index)) for index in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        counted: list[int] = []

        found = digest.sha256_files(paths, workers=3, progress=counted.append)

        assert [value.hex for value in found.values()] == [hashlib.sha256(content).hexdigest() for content in contents]
        assert list(found) == paths
        assert sum(counted) == sum(map(len, contents))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(SourceError) as caught:
        digest.sha256_files([tmp_path / "gone"])

    assert str(caught.value) == f"cannot read the file: No such file or directory\n  in   {tmp_path / 'gone'}"


def test_hashing_stops_when_told_to(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(3 << 20))
    stop = threading.Event()

    with pytest.raises(CancelledError):
        digest.sha256_file(path, progress=lambda _: stop.set(), stop=stop)


def test_ctrl_c_during_hashing_ends_the_program_at_once_and_quietly(tmp_path):
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.truncate(64 << 30)  # holes: minutes of hashing, no disk
    process = subprocess.Popen(
        [sys.executable, "-m", "forgekit", "hash", str(path)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_interrupts,
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)

    out, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert out == ""
    assert err == "stopped; nothing was left half-written\n"


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_merkle_root_by_the_definition(leaves):
    def root(level: list[bytes]) -> bytes:
        if len(level) == 1:
            return level[0]
        paired = [hashlib.sha256(b"\1" + b"".join(level[i : i + 2])).digest() for i in range(0, len(level) - 1, 2)]
        return root(paired + level[len(level) - len(level) % 2 :])

    assert digest.merkle_root(leaves).hex == root([hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]).hex()


def test_a_merkle_node_cannot_pass_for_a_leaf():
    left, right = (hashlib.sha256(b"\0" + leaf).digest() for leaf in (b"x", b"y"))

    assert digest.merkle_root([b"x", b"y"]) != digest.merkle_root([left + right])


def test_merkle_root_of_files_is_by_name(tmp_path):
    for name, content in (("b", b"2"), ("a", b"1")):
        (tmp_path / name).write_bytes(content)

    assert digest.merkle_root_of_files([tmp_path / "b", tmp_path / "a"]) == digest.merkle_root([b"1", b"2"])


def test_merkle_root_of_nothing_is_an_error():
    with pytest.raises(DigestError):
        digest.merkle_root([])


@pytest.mark.parametrize(
    ("path", "stays"),
    [
        ("a/b.jsonl", True),
        ("a", True),
        ("../a", False),
        ("a/../../b", False),
        ("/etc/passwd", False),
        ("", False),
        ("\\\\h\\s", False),
        ("a\0b", False),
    ],
)
def test_paths_that_leave_the_artifact_are_told(path, stays):
    assert digest.is_plain_relative(path) is stays


def test_workers_default_to_the_processors_of_this_process():
    assert 1 <= digest.available_processors() <= (os.cpu_count() or 1)
