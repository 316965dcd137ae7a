"""Files are a function of their tensors, whole or not there at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit.checkpoint import writing
from forgekit.checkpoint.opening import open_folder
from forgekit.checkpoint.writing import Made, Piece, Span, cut_anew, unchanged, write_file, write_shards
from forgekit.errors import CheckpointError
from tests.support.models import base
from tests.support.running import ROOT

WIDTHS = {"F64": 8, "F32": 4, "BF16": 2, "U8": 1}
tensors = st.dictionaries(
    st.from_regex(r"[a-z]{1,4}(\.[0-9]{1,2})?", fullmatch=True),
    st.tuples(st.sampled_from([*WIDTHS]), st.lists(st.integers(0, 3), max_size=3).map(tuple)),
    min_size=1,
    max_size=6,
)


def in_memory(name, dtype, shape):
    data = bytes(ord(name[0]) % 251 for _ in range(WIDTHS[dtype] * int(np.prod(shape, dtype=int))))
    return Piece(name, dtype, shape, (Made(lambda: data, len(data)),)), data


@settings(max_examples=40, deadline=None)
@given(tensors, st.randoms(use_true_random=False))
def test_what_is_written_is_read_back_by_the_safetensors_library(tmp_path_factory, described, shuffle):
    import safetensors

    folder = tmp_path_factory.mktemp("written")
    made = {name: in_memory(name, dtype, shape) for name, (dtype, shape) in described.items()}
    pieces = [piece for piece, _ in made.values()]
    write_file(folder / "model.safetensors", pieces, durable=False)
    shuffle.shuffle(pieces)
    write_file(folder / "again.safetensors", pieces, durable=False)

    read = safetensors.deserialize((folder / "model.safetensors").read_bytes())
    assert {name: (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in read} == {
        name: (piece.dtype, piece.shape, data) for name, (piece, data) in made.items()
    }
    assert (folder / "model.safetensors").read_bytes() == (folder / "again.safetensors").read_bytes()


def test_tensors_start_at_multiples_of_their_element_size():
    head, ordered = writing.header([in_memory(*row)[0] for row in (("a", "U8", (3,)), ("b", "F32", (1,)))])

    assert [piece.name for piece in ordered] == ["b", "a"]
    assert len(head) % 8 == 0


def test_copying_every_tensor_keeps_every_byte(tmp_path):
    source = open_folder(base("mixtral"))
    shards = {
        name: [unchanged(source, t) for t, p in source.tensors.items() if p.file == name] for name in source.files
    }

    write_shards(tmp_path, shards)

    made = open_folder(tmp_path)
    assert all(made.read(name) == source.read(name) for name in source.tensors)
    assert list(made.files) == list(source.files)


def test_a_machine_without_the_kernels_copy_gets_the_same_bytes(tmp_path, monkeypatch):
    source = open_folder(base("qwen2"))
    pieces = [unchanged(source, name) for name in source.tensors]
    write_file(tmp_path / "a.safetensors", pieces)
    monkeypatch.delattr(os, "copy_file_range")
    write_file(tmp_path / "b.safetensors", pieces)

    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_source_that_ends_early_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "source").write_bytes(b"1234")
    piece = Piece("x", "U8", (8,), (Span(tmp_path / "source", 0, 8),))

    with pytest.raises(CheckpointError, match="'x' is cut short"):
        write_file(tmp_path / "model.safetensors", [piece])

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_piece_of_the_wrong_size_is_an_error():
    with pytest.raises(CheckpointError, match="needs 8 bytes and would get 4"):
        writing.header([Piece("x", "U8", (8,), (Made(lambda: b"1234", 4),))])


def test_a_file_that_is_complete_is_not_written_again(tmp_path):
    piece, _ = in_memory("x", "U8", (8,))
    write_file(tmp_path / "model.safetensors", [piece])
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns

    def never():
        raise AssertionError("its bytes were asked for")

    write_file(tmp_path / "model.safetensors", [Piece("x", "U8", (8,), (Made(never, 8),))])

    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before


def test_shards_are_cut_in_order_and_stay_below_the_limit():
    pieces = [in_memory(name, "U8", (3,))[0] for name in "abcdefg"]

    cut = cut_anew(pieces, 7)

    assert [[piece.name for piece in shard] for shard in cut.values()] == [["a", "b"], ["c", "d"], ["e", "f"], ["g"]]
    assert next(iter(cut)) == "model-00001-of-00004.safetensors"


def test_a_tensor_larger_than_the_limit_has_a_shard_of_its_own():
    pieces = [in_memory("a", "U8", (3,))[0], in_memory("b", "F64", (3,))[0], in_memory("c", "U8", (3,))[0]]

    assert [len(shard) for shard in cut_anew(pieces, 4).values()] == [1, 1, 1]


FILL = """
import sys
from pathlib import Path
from forgekit.checkpoint.writing import Made, Piece, write_file
from forgekit.errors import CheckpointError
piece = Piece("x", "U8", (8 << 20,), (Made(lambda: bytes(8 << 20), 8 << 20),))
folder = Path(sys.argv[1])
try:
    write_file(folder / "model.safetensors", [piece])
except CheckpointError as error:
    print(error)
print(sorted(path.name for path in folder.iterdir()))
"""


def test_a_full_disk_is_said_and_nothing_half_written_is_left(tmp_path):
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare to mount a small disk with")
    shell = f"mount -t tmpfs -o size=4m none {tmp_path} && exec {sys.executable} -c '{FILL}' {tmp_path}"
    ran = subprocess.run(
        [unshare, "-Urm", "sh", "-c", shell], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    if ran.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {ran.stderr.strip()[-100:]}")

    assert "No space left on device" in ran.stdout
    assert "make room and run the same command again" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[]"
