"""Tiny checkpoints of every family: two or three layers, the same bytes on every machine.

Values are drawn from SHAKE-256 by seed and tensor name, as bfloat16 bit
patterns: no floating-point arithmetic is done, so no library or processor can
change them. The layout is the one published checkpoints have on disk.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from forgekit.checkpoint.opening import CONFIG
from forgekit.checkpoint.writing import Made, Piece, cut_anew, write_shards, write_text
from forgekit.digest import Digest, sha256
from forgekit.errors import UnknownNameError
from forgekit.families import FAMILIES, Family

RANGE = re.compile(r"\{(\d+)-(\d+)\}")
# The high byte of a bfloat16 is its sign and seven bits of exponent, the low byte the last exponent bit and the
# mantissa. Weights: exponents 118 to 125, so 2**-9 <= |w| < 2**-1. Scales: 126 and 127, so 0.5 <= w < 2.
WEIGHT = bytes((byte & 0x80) | (0x3B + (byte & 3)) for byte in range(256))
SCALE = bytes([0x3F] * 256)
IS_SCALE = re.compile(r"norm\w*\.weight$|ln_q\.weight$|ln_post\.weight$|\.norm1\.weight$|\.norm2\.weight$")
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "as",
    "was",
    "with",
    "be",
    "by",
    "on",
    "not",
    "he",
    "this",
    "are",
    "or",
    "his",
    "from",
    "at",
    "which",
    "but",
    "have",
    "an",
    "had",
    "they",
    "you",
    "were",
    "their",
    "one",
    "all",
    "we",
    "can",
    "her",
    "has",
    "there",
    "been",
    "if",
    "more",
    "when",
    "will",
    "would",
    "who",
    "so",
    "no",
    "return",
    "def",
    "import",
    "class",
    "self",
    "print",
    "range",
    "len",
    "list",
    "dict",
    "str",
    "int",
    "float",
    "None",
    "True",
    "False",
    "while",
    "for",
    "else",
    "elif",
    "lambda",
    "yield",
    "model",
    "layer",
    "expert",
    "router",
    "token",
    "prune",
    "train",
    "quant",
    "hash",
    "proof",
]
VOCABULARY = 512
SPECIAL = ("<|bos|>", "<|endoftext|>", "<|pad|>")


@cache
def _table(name: str) -> Mapping[str, Any]:
    file = resources.files("forgekit.families").joinpath("_tiny", f"{name}.json")
    if not file.is_file():
        raise UnknownNameError(
            f"there is no tiny checkpoint of {name!r}", hint=f"add forgekit/families/_tiny/{name}.json"
        )
    made: Mapping[str, Any] = json.loads(file.read_text("utf-8"))
    return made


def families() -> Iterator[str]:
    """Names of the families that have a tiny checkpoint."""
    folder = resources.files("forgekit.families").joinpath("_tiny")
    known = {file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")}
    return (name for name, family in FAMILIES.items() if (family.tiny or name) in known)


def config(family: Family) -> dict[str, Any]:
    """``config.json`` of a family's tiny checkpoint, as its publisher would write it.

    Raises:
        UnknownNameError: the family has no tiny checkpoint.
    """
    made: dict[str, Any] = json.loads(json.dumps(_table(family.tiny or family.name)["config"]))
    return made


def shapes(family: Family) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by its name on disk, in name order."""
    found: dict[str, tuple[int, ...]] = {}
    for template, shape in _table(family.tiny or family.name)["tensors"].items():
        found.update(dict.fromkeys(_expanded(template), tuple(shape)))
    return dict(sorted(found.items()))


def _expanded(template: str) -> Iterator[str]:
    parts = RANGE.split(template)
    spans = [range(int(a), int(b) + 1) for a, b in zip(parts[1::3], parts[2::3], strict=True)]
    for chosen in itertools.product(*spans):
        fills = [*map(str, chosen), ""]
        yield "".join(text + fill for text, fill in zip(parts[::3], fills, strict=True))


def values(name: str, shape: tuple[int, ...], seed: int = 0) -> bytes:
    """One tensor: bfloat16, little-endian, ``2 * prod(shape)`` bytes."""
    drawn = bytearray(hashlib.shake_256(f"{seed}:{name}".encode()).digest(2 * math.prod(shape)))
    drawn[1::2] = drawn[1::2].translate(SCALE if IS_SCALE.search(name) else WEIGHT)
    return bytes(drawn)


def write(family: Family, folder: Path, *, seed: int = 0, shard_limit: int = 8 << 20) -> Path:
    """Write a family's tiny checkpoint: config, tokenizer, shards and index.

    Args:
        shard_limit: bytes of tensors per shard.

    Raises:
        UnknownNameError: the family has no tiny checkpoint.
        CheckpointError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [
        Piece(name, "BF16", shape, (Made(lambda n=name, s=shape: values(n, s, seed), 2 * math.prod(shape)),))  # type: ignore[misc]
        for name, shape in shapes(family).items()
    ]
    write_shards(folder, cut_anew(pieces, shard_limit), durable=False)
    for name, text in tokenizer().items():
        write_text(folder / name, text)
    write_text(folder / CONFIG, json.dumps(config(family), indent=2) + "\n")
    return folder


def fingerprint(family: Family, *, seed: int = 0) -> Digest:
    """What names a tiny checkpoint: a hash over its config, tokenizer, and every tensor."""
    parts: list[object] = [config(family), tokenizer(), seed]
    parts += [[n, s, hashlib.sha256(values(n, s, seed)).hexdigest()] for n, s in shapes(family).items()]
    return sha256(json.dumps(parts, sort_keys=True).encode())


@cache
def tokenizer() -> dict[str, str]:
    """Files of a byte-level BPE tokenizer of 512 tokens, by name."""
    alphabet = _byte_symbols()
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *alphabet))}
    merges: list[list[str]] = []
    for word in WORDS:
        for spelt in ("Ġ" + word, word):
            left = spelt[0]
            for right in spelt[1:]:
                if left + right not in vocabulary and len(vocabulary) < VOCABULARY - 16:
                    vocabulary[left + right] = len(vocabulary)
                    merges.append([left, right])
                if left + right not in vocabulary:
                    break
                left += right
    extra = [f"<|extra_{number}|>" for number in range(VOCABULARY - len(vocabulary))]
    special = [*SPECIAL, *extra]
    numbers = vocabulary | {token: len(vocabulary) + at for at, token in enumerate(extra)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tree = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": numbers[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in special
        ],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "pad_token": SPECIAL[2],
        "model_max_length": 512,
    }
    return {
        "tokenizer.json": json.dumps(tree, indent=1, ensure_ascii=False) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }


def _byte_symbols() -> list[str]:
    """The 256 characters that stand for bytes in byte-level BPE.

    Source: GPT-2's bytes_to_unicode: printable Latin-1 stands for itself, the rest from U+0100 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    shifted = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]
