"""How many parameters the weight files of an artifact hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from forgekit.checkpoint import Reader, Tensor, gguf, safetensors
from forgekit.errors import CheckpointError

SPLIT = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """Elements of all tensors, and the files they were read from."""

    parameters: int
    files: tuple[str, ...]


def count_parameters(sizes: Mapping[str, int], reader: Callable[[str], Reader]) -> ParameterCount:
    """Count from headers alone.

    Every ``.safetensors`` file is a shard of one model; every GGUF file is a
    model, unless its name says it is one of several parts.

    Args:
        sizes: bytes of each weight file, by path.
        reader: gives the reader of a file.

    Raises:
        CheckpointError: a header is wrong, weights are stored packed so that their elements are not
            parameters, or several GGUF files hold different models.
    """
    shards = sorted(path for path in sizes if path.endswith(".safetensors"))
    if shards:
        total = 0
        for path in shards:
            tensors = safetensors.read_header(reader(path), sizes[path], path)
            _unpacked(tensors, path)
            total += sum(tensor.count for tensor in tensors)
        return ParameterCount(total, tuple(shards))
    models: dict[str, int] = {}
    for path in sorted(path for path in sizes if path.endswith(".gguf")):
        header = gguf.read_header(reader(path), sizes[path], path)
        model = SPLIT.sub("", path)
        models[model] = models.get(model, 0) + sum(tensor.count for tensor in header.tensors)
    if not models:
        raise CheckpointError("no weight file has a header that can be read", where=", ".join(sorted(sizes)))
    if len(set(models.values())) > 1:
        counts = ", ".join(f"{path} {count:,}" for path, count in models.items())
        raise CheckpointError(f"the files hold different numbers of parameters: {counts}")
    return ParameterCount(next(iter(models.values())), tuple(sorted(models)))


def _unpacked(tensors: tuple[Tensor, ...], path: str) -> None:
    names = {tensor.name for tensor in tensors}
    for tensor in tensors:
        if tensor.dtype in ("U32", "I32", "U8") and tensor.name.removesuffix(".weight") + ".scales" in names:
            raise CheckpointError(f"tensor {tensor.name!r} is packed: its elements are not parameters", where=path)
