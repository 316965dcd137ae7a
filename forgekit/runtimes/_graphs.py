"""What engines of exported graphs share: what a graph is given for a text's token ids, and how it goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from forgekit.forms import TOKENIZER

PAST = ("past_key_values.", "past_")


class Greedy(ABC):
    """Goes on with the likeliest token, and reads all tokens anew at each step."""

    def generate(self, ids: list[int], count: int) -> list[int]:
        made: list[int] = []
        for _ in range(count):
            made.append(int(self.logits(ids + made)[-1].argmax()))
        return made

    @abstractmethod
    def logits(self, ids: list[int]) -> Any:
        """float32 [len(ids), vocabulary]."""


class GraphDriver(Greedy):
    """A graph that takes token ids and gives logits.

    The cache of keys and values, where it has one, is given empty.
    """

    words: Any = None

    def read_tokenizer(self, folder: Path) -> None:
        """The tokenizer that stands beside the graph, where one does."""
        if (folder / TOKENIZER).is_file():
            from tokenizers import Tokenizer

            self.words = Tokenizer.from_file(str(folder / TOKENIZER))

    def encode(self, text: str) -> list[int] | None:
        return list(self.words.encode(text, add_special_tokens=False).ids) if self.words is not None else None

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        given = {name: fed(name, shape, dtype, ids) for name, shape, dtype in self.inputs()}
        return self.run(given)[0].astype(np.float32)

    @abstractmethod
    def inputs(self) -> Iterable[tuple[str, Sequence[int | None], Any]]:
        """Name, shape (None where it may vary) and NumPy type of each input."""

    @abstractmethod
    def run(self, given: Mapping[str, Any]) -> Any:
        """Logits [1, n, vocabulary]."""


def fed(name: str, shape: Sequence[int | None], dtype: Any, ids: list[int]) -> Any:
    """What an input of a language model's graph is given.

    Raises:
        ValueError: it is none.
    """
    import numpy as np

    if name == "input_ids":
        return np.array([ids], dtype=dtype)
    if name == "attention_mask":
        return np.ones((1, len(ids)), dtype=dtype)
    if name == "position_ids":
        return np.arange(len(ids), dtype=dtype)[None]
    if name == "beam_idx":
        return np.zeros(1, dtype=dtype)
    if name.startswith(PAST) and len(shape) == 4:
        _, heads, _, width = shape
        return np.zeros((1, heads, 0, width), dtype=dtype)
    raise ValueError(f"the graph wants {name!r}, which is none of a language model's inputs")


def logits_among(names: Sequence[str]) -> str:
    """The output that holds them: the one called so, else the first."""
    return "logits" if "logits" in names else names[0]
