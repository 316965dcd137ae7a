from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.checkpoint import gguf, safetensors
from forgekit.checkpoint.counting import count_parameters
from forgekit.errors import CheckpointError
from tests.support.builders import moe_tensors, parameters, write_safetensors
from tests.support.gguf import gguf_bytes, text


def reader(data):
    return lambda start, size: data[start : start + size]


def read(data):
    return safetensors.read_header(reader(data), len(data), "m.safetensors")


def checkpoint(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def f32(start, end, shape=None):
    return {"dtype": "F32", "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def fault_of(data):
    with pytest.raises(CheckpointError) as caught:
        read(data)
    return caught.value.what


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), st.integers(0, 5), max_size=6
    )
)
def test_tensors_come_back_as_they_were_written(sizes):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, count in sizes.items():
        header[name] = f32(at, at + 4 * count)
        at += 4 * count

    found = read(checkpoint(header, bytes(at)))

    assert {tensor.name: tensor.count for tensor in found} == sizes


def test_a_files_parameters_are_counted_from_its_header(tmp_path):
    tensors = moe_tensors()
    write_safetensors(tmp_path / "model.safetensors", tensors)
    data = (tmp_path / "model.safetensors").read_bytes()

    counted = count_parameters({"model.safetensors": len(data)}, lambda _: reader(data))

    assert counted.parameters == parameters(tensors)
    safetensors_library = pytest.importorskip("safetensors")
    with safetensors_library.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert set(file.keys()) == set(tensors)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"abc", "the file is too short to hold a header"),
        (checkpoint({})[:9], "the header says it has 2 bytes, more than the file"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "the header says it has 1,099,511,627,776 bytes, more than the file"),
        (checkpoint(b"{" * 4), "the header is not readable: "),
        (checkpoint(b"[]"), "the header is not an object"),
        (checkpoint(b'{"a": 1, "a": 2}'), "the header is not readable: a name is given twice"),
        (checkpoint({"a": {}}), "tensor 'a' is not described"),
        (checkpoint({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "tensor 'a' has a size that is"),
        (
            checkpoint({"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}}),
            "tensor 'a' has unknown dtype 'F33'",
        ),
        (checkpoint({"a": f32(0, 8, [1])}, bytes(8)), "tensor 'a', F32 [1], needs 4 bytes and claims 8"),
        (checkpoint({"a": f32(0, 8), "b": f32(4, 12)}, bytes(12)), "tensor 'b' overlaps the one before it"),
        (checkpoint({"a": f32(4, 8)}, bytes(8)), "tensor 'a' leaves a gap before it"),
        (checkpoint({"a": f32(0, 8)}, bytes(4)), "the file is cut short: the tensors end at byte 8 of 4"),
        (checkpoint({"a": f32(0, 4)}, bytes(8)), "bytes follow the tensors: the tensors end at byte 4 of 8"),
    ],
)
def test_a_header_that_does_not_describe_its_file_is_told(data, fault):
    assert fault_of(data).startswith(fault)


def test_a_header_of_over_100_mb_is_not_read():
    size = 1 << 40

    with pytest.raises(CheckpointError, match="more than the 100,000,000 bytes a reader accepts"):
        safetensors.read_header(reader((200_000_000).to_bytes(8, "little")), size, "m")


@given(st.binary(max_size=300))
def test_no_bytes_give_anything_but_tensors_or_a_checkpoint_error(data):
    for read_header in (safetensors.read_header, gguf.read_header):
        try:
            read_header(reader(data), len(data), "m")
        except CheckpointError:
            continue


# --- GGUF -------------------------------------------------------------------


METADATA = [
    ("general.architecture", 8, text("qwen3moe")),
    ("general.file_type", 4, struct.pack("<I", 7)),
    ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3000) + b"".join(text(f"t{i}") for i in range(3000))),
    ("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 3000) + bytes(12000)),
    ("rope.sections", 9, struct.pack("<IQ4i", 5, 4, 1, 2, 3, 4)),
]


def test_a_gguf_header_gives_metadata_and_tensors():
    data = gguf_bytes([("token_embd.weight", (32, 16)), ("blk.0.ffn_gate_exps.weight", (8, 4, 16))], METADATA)

    header = gguf.read_header(reader(data), len(data), "m.gguf")

    assert header.metadata["general.architecture"] == "qwen3moe"
    assert header.metadata["tokenizer.ggml.tokens"] == 3000
    assert header.metadata["rope.sections"] == [1, 2, 3, 4]
    assert [(tensor.name, tensor.shape) for tensor in header.tensors] == [
        ("token_embd.weight", (32, 16)),
        ("blk.0.ffn_gate_exps.weight", (8, 4, 16)),
    ]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"GGML" + bytes(100), "the file is not GGUF"),
        (gguf_bytes([], version=1), "GGUF version 1 is not supported"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0) + bytes(100),
            "the header lists 1,152,921,504,606,846,976 tensors",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 50),
            "the header holds a text of 1,125,899,906,842,624 bytes",
        ),
        (gguf_bytes([], [("k", 99, b"")]), "metadata of unknown type 99"),
        (gguf_bytes([("t", (1,) * 9)]), "tensor 't' has 9 dimensions"),
        (gguf_bytes([("t", (2, 2))])[:40], "the header reaches past the end of the file"),
        (gguf_bytes([("t", (2, 2)), ("u", (2, 2))], place=0), "tensors 't' and 'u' overlap"),
        (gguf_bytes([("t", (2, 2)), ("t", (2, 2))]), "tensor 't' is listed twice"),
        (gguf_bytes([("t", (2, 2))], place=8), "tensor 't' starts at offset 8, off its alignment"),
        (
            gguf_bytes([("t", (2, 2))], place=1 << 40),
            "tensor 't' reaches from byte 1,099,511,627,872 past the end of the file",
        ),
        (gguf_bytes([("t", (1 << 20, 1 << 20))]), "tensor 't' reaches from byte 96 past the end of the file"),
        (gguf_bytes([("t", (2, 40))], stored=8), "tensor 't' is Q8_0 with rows of 40, not a multiple of 32"),
        (
            gguf_bytes([], [("general.alignment", 4, struct.pack("<I", 24))]),
            "general.alignment is 24, which is no power of two",
        ),
        (gguf_bytes([], [("k", 9, struct.pack("<IQ", 9, 1) * 5000)]), "metadata nests arrays"),
        (gguf_bytes([], [("k", 8, struct.pack("<Q", 1 << 30))]), "the header holds a text of 1,073,741,824 bytes"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_gguf_header_that_lies_is_told(data, fault):
    with pytest.raises(CheckpointError) as caught:
        gguf.read_header(reader(data), len(data), "m.gguf")

    assert caught.value.what.startswith(fault)


def test_the_variants_of_one_model_hold_the_same_number_of_parameters():
    data = {"m.Q4_K_M.gguf": gguf_bytes([("a", (4, 4))]), "m.Q8_0.gguf": gguf_bytes([("a", (4, 4))])}
    sizes = {name: len(content) for name, content in data.items()}

    assert count_parameters(sizes, lambda name: reader(data[name])).parameters == 16
    data["m.Q8_0.gguf"] = gguf_bytes([("a", (4, 5))])
    with pytest.raises(CheckpointError, match=r"different numbers of parameters: m\.Q4_K_M\.gguf 16, m\.Q8_0\.gguf 20"):
        count_parameters(sizes, lambda name: reader(data[name]))


def test_the_parts_of_one_gguf_are_added_up():
    data = {f"m-0000{i}-of-00002.gguf": gguf_bytes([("a", (4, i))]) for i in (1, 2)}

    assert count_parameters({n: len(d) for n, d in data.items()}, lambda name: reader(data[name])).parameters == 12


def test_packed_weights_are_not_counted_as_parameters():
    header = {
        "a.weight": {"dtype": "U32", "shape": [4], "data_offsets": [0, 16]},
        "a.scales": {"dtype": "F16", "shape": [2], "data_offsets": [16, 20]},
    }
    data = checkpoint(header, bytes(20))

    with pytest.raises(CheckpointError, match="packed"):
        count_parameters({"m.safetensors": len(data)}, lambda _: reader(data))


def test_a_file_without_a_header_we_know_is_told():
    with pytest.raises(CheckpointError, match="no weight file has a header"):
        count_parameters({"m.bin": 3}, lambda _: reader(Path(__file__).read_bytes()))
