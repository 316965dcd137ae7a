"""Texts, tokenised and batched; what was padded is marked and counts nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgekit.errors import CorpusError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100  # the label that torch's cross entropy passes over


@dataclass(frozen=True, slots=True)
class Batch:
    """Some texts.

    Attributes:
        ids: int64[batch, length], token ids; the pad id where a text has ended.
        mask: int64[batch, length], 1 for tokens and 0 for padding.
    """

    ids: Tensor
    mask: Tensor

    @property
    def labels(self) -> Tensor:
        """int64[batch, length]: the ids, and -100 for padding."""
        return self.ids.masked_fill(self.mask == 0, IGNORED)

    def to(self, device: Any) -> Batch:
        return Batch(self.ids.to(device), self.mask.to(device))


def read_texts(path: Path) -> list[str]:
    """The texts of a JSONL corpus: each line's ``text``, else ``content``; blank ones are passed over.

    Raises:
        CorpusError: a line is not such an object, or there is no text at all.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"the corpus cannot be read: {error}", where=str(path)) from error
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row["text"] if "text" in row else row["content"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                "a line is not an object with a text", where=f"{path}:{number}", hint='write {"text": "…"} on each line'
            ) from error
        if not isinstance(text, str):
            raise CorpusError("a text is not a string", where=f"{path}:{number}")
        if text.strip():
            texts.append(text)
    if not texts:
        raise CorpusError("the corpus holds no text", where=str(path))
    return texts


def encode(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of each text, cut at ``max_length``; texts without tokens are left out."""
    found = [list(tokenizer(text, truncation=True, max_length=max_length)["input_ids"]) for text in texts]
    return [ids for ids in found if ids]


def batches(encoded: Sequence[Sequence[int]], size: int, pad: int) -> Iterator[Batch]:
    """Texts in the order given, ``size`` at a time, padded on the right to the longest of each batch."""
    import torch

    for start in range(0, len(encoded), size):
        rows = encoded[start : start + size]
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), pad, dtype=torch.int64)
        mask = torch.zeros((len(rows), length), dtype=torch.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = 1
        yield Batch(ids, mask)


def pad_id(tokenizer: Any) -> int:
    """A token to pad with; which one makes no difference, for padding is masked everywhere."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return int(found or 0)
