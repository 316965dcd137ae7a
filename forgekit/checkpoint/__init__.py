"""Weight files by their headers: what tensors there are, without loading one.

Headers are read through a function, so the same code serves a local file and
a range request; a header that does not describe its file is an error that
names the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Reader = Callable[[int, int], bytes]
"""(start, size) -> at most ``size`` bytes of the file from ``start``."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as its header describes it.

    Attributes:
        dtype: as the format names it.
        shape: outermost dimension first.
        start, end: byte range in the file; ``end`` is None where the format does not say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int | None

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)
