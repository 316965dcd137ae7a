"""A cut tensor has exactly the bytes its origin says, and a changed one is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.checkpoint.opening import open_folder, opened
from forgekit.checkpoint.slices import Expected, Origin, caught, compare, cut, drawn, pieces
from forgekit.checkpoint.writing import Made, Piece, write_file, write_shards


@st.composite
def cuts(draw):
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    keep = st.none() | st.lists(st.integers(0, rows - 1), min_size=1, unique=True).map(sorted).map(tuple)
    some = st.none() | st.lists(st.integers(0, columns - 1), min_size=1, unique=True).map(sorted).map(tuple)
    kept_rows, kept_columns = draw(keep), draw(some)
    zero_rows = () if kept_rows else draw(st.lists(st.integers(0, rows - 1), unique=True).map(tuple))
    zero_columns = () if kept_columns else draw(st.lists(st.integers(0, columns - 1), unique=True).map(tuple))
    return rows, columns, Origin("x", kept_rows, kept_columns, zero_rows, zero_columns)


def checkpoint(folder, array):
    data = array.tobytes()
    write_file(folder / "model.safetensors", [Piece("x", "BF16", array.shape, (Made(lambda: data, len(data)),))])
    return open_folder(folder)


@given(cuts())
def test_a_cut_is_what_numpy_would_take(tmp_path_factory, drawn_cut):
    rows, columns, origin = drawn_cut
    folder = tmp_path_factory.mktemp("cut")
    array = np.arange(1, rows * columns + 1, dtype="<u2").reshape(rows, columns)
    parent = checkpoint(folder, array)

    wanted = array.copy()
    wanted[list(origin.zero_rows)] = 0
    wanted[:, list(origin.zero_columns)] = 0
    wanted = wanted if origin.rows is None else wanted[list(origin.rows)]
    wanted = wanted if origin.columns is None else wanted[:, list(origin.columns)]
    assert bytes(cut(parent, origin)) == wanted.tobytes()

    out = tmp_path_factory.mktemp("written")
    expected = Expected({"x": origin})
    write_shards(out, pieces(parent, expected), durable=False)
    child = open_folder(out)
    assert child.read("x") == wanted.tobytes()
    assert compare(parent, child, expected).differences == []


def test_one_flipped_bit_is_named_with_its_tensor_and_byte(tmp_path):
    array = np.arange(64, dtype="<u2").reshape(8, 8)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    parent = checkpoint(tmp_path / "a", array)
    spoilt = array[[1, 3]].copy()
    spoilt[1, 2] ^= 1

    child = checkpoint(tmp_path / "b", spoilt)

    (said,) = compare(parent, child, Expected({"x": Origin("x", rows=(1, 3))})).differences
    assert said == "tensor 'x' differs from 'x' of the base, first at its byte 20"


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    parent = checkpoint(tmp_path / "a", np.zeros((4, 4), "<u2"))
    child = checkpoint(tmp_path / "b", np.zeros((3, 4), "<u2"))

    assert compare(parent, child, Expected({}, frozenset({"x"}))).differences == [
        "tensor 'x' has no origin in the base"
    ]
    assert compare(parent, child, Expected({})).differences == ["tensor 'x' is BF16 [3, 4] and should be BF16 [4, 4]"]
    assert "tensor 'y' is missing" in compare(parent, child, Expected({"y": Origin("x")})).differences


def test_a_sample_of_459_catches_one_percent_and_of_44_ten():
    assert caught(459, 10**6) == pytest.approx(0.01, rel=0.01)
    assert caught(44, 10**6) == pytest.approx(0.1, rel=0.01)
    assert caught(10, 10) == pytest.approx(0.1)


def test_a_sample_is_drawn_by_its_seed_alone():
    names = [f"t{number}" for number in range(100)]

    assert drawn(names, 5, 1) == drawn(list(reversed(names)), 5, 1)
    assert drawn(names, 5, 1) != drawn(names, 5, 2)
    assert drawn(names, 500, 1) == sorted(names)


def test_a_remote_checkpoint_is_read_by_ranges_only(tmp_path):
    parent = checkpoint(tmp_path, np.arange(4096, dtype="<u2").reshape(64, 64))
    data = (tmp_path / "model.safetensors").read_bytes()
    asked = []

    def reader(_name):
        def read(start, size):
            asked.append(size)
            return data[start : start + size]

        return read

    remote = opened({"model.safetensors": len(data)}, reader, "remote")

    assert remote.read_part("x", 128, 8) == parent.read_part("x", 128, 8)
    assert sum(asked) < 300
