"""Checkpoints that are broken say where, and are never guessed at."""

from __future__ import annotations

import json
import struct

import pytest

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError
from tests.support.models import base, copy_of


def header_of(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def put_header(path, tree, body):
    text = json.dumps(tree).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def change_header(folder, change):
    path = folder / "model.safetensors"
    tree, body = header_of(path)
    change(tree)
    put_header(path, tree, body)


def message(folder):
    with pytest.raises(CheckpointError) as caught:
        open_folder(folder)
    return str(caught.value)


def test_a_sound_checkpoint_opens_with_every_tensor_placed():
    made = open_folder(base("mixtral"))

    assert len(made.files) == 2
    assert len(made.tensors) == 65
    assert made.read("model.norm.weight") == made.read_part("model.norm.weight", 0, 512)
    assert made.config["num_local_experts"] == 8


def test_a_truncated_shard_is_named(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])

    assert "cut short" in message(folder)
    assert shard.name in message(folder)


def test_offsets_that_overlap_are_refused(tmp_path):
    folder = copy_of("qwen2", tmp_path)

    def overlap(tree):
        start, end = tree["model.norm.weight"]["data_offsets"]
        tree["model.norm.weight"]["data_offsets"] = [start - 512, end - 512]

    change_header(folder, overlap)

    assert "overlaps the one before it" in message(folder)


def test_offsets_past_the_end_are_refused(tmp_path):
    folder = copy_of("qwen2", tmp_path)

    def past(tree):
        last = max(
            (row for name, row in tree.items() if name != "__metadata__"), key=lambda row: row["data_offsets"][1]
        )
        last["shape"] = [last["shape"][0] * 2, *last["shape"][1:]]
        start, end = last["data_offsets"]
        last["data_offsets"] = [start, end + end - start]

    change_header(folder, past)

    assert "cut short" in message(folder)


def test_a_header_of_more_than_a_hundred_megabytes_is_not_read(tmp_path):
    folder = copy_of("qwen2", tmp_path)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(300_000_000)  # sparse

    assert "100,000,000 bytes a reader accepts" in message(folder)


def test_a_dtype_that_does_not_fit_its_bytes_is_refused(tmp_path):
    folder = copy_of("qwen2", tmp_path)
    change_header(folder, lambda tree: tree["model.norm.weight"].update(dtype="F32"))

    assert "'model.norm.weight', F32 [256], needs 1024 bytes and claims 512" in message(folder)


def test_pickled_weights_are_refused_with_the_safe_alternative(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")

    said = message(tmp_path)
    assert "pickled (pytorch_model.bin)" in said
    assert "safetensors" in said


def test_an_index_that_lies_is_refused(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    path = folder / "model.safetensors.index.json"
    honest = json.loads(path.read_text())
    first, second = sorted(set(honest["weight_map"].values()))

    def lie(weight_map):
        path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return message(folder)

    assert "not there: gone.safetensors" in lie(honest["weight_map"] | {"x": "gone.safetensors"})
    assert "'x' is listed and in no shard" in lie(honest["weight_map"] | {"x": first})
    assert "stands in" in lie(honest["weight_map"] | {"lm_head.weight": second})
    assert "is not listed" in lie({k: v for k, v in honest["weight_map"].items() if k != "lm_head.weight"})
    assert "not a shard of this folder" in lie(honest["weight_map"] | {"x": "../../etc/passwd"})
    path.write_text("[")
    assert "not JSON" in message(folder)


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    first, second = sorted(folder.glob("*.safetensors"))
    second.write_bytes(first.read_bytes())

    assert "and again in" in message(folder)


def test_several_shards_need_an_index(tmp_path):
    folder = copy_of("mixtral", tmp_path)
    (folder / "model.safetensors.index.json").unlink()

    assert "2 shards and no model.safetensors.index.json" in message(folder)


def test_an_empty_folder_says_so(tmp_path):
    assert "no safetensors files" in message(tmp_path)
    assert "no such folder" in message(tmp_path / "none")


def test_a_missing_tensor_is_named():
    with pytest.raises(CheckpointError, match="no tensor 'nope'"):
        open_folder(base("qwen2")).read("nope")
