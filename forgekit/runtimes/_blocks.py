"""Whether the blocks of a GGUF file hold numbers: read on a second core, while the first loads and generates."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgekit.checkpoint import gguf
from forgekit.checkpoint.counting import SPLIT

PIECE = 1 << 16  # blocks at a time, so that a thread that is no longer needed ends soon
TYPES = {name: (number, size) for number, (name, _, size) in gguf.TYPES.items()}


class BlockCheck:
    """ggml's own check for NaN and impossible scales, over every tensor, also those that no prompt reaches.

    Raises:
        OSError: this build has no such library, and ``AttributeError`` where the library has no such function.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._valid = ctypes.CDLL(str(library)).ggml_validate_row_data
        self._valid.argtypes, self._valid.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_bool
        self._file = file
        self._wrong = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> str:
        """The first tensor that is broken, once all are read; empty where none is."""
        self._thread.join()
        return self._wrong

    def _run(self) -> None:
        parts = sorted(self._file.parent.glob("*.gguf")) if SPLIT.search(self._file.name) else [self._file]
        for part in parts:
            if SPLIT.sub("", part.name) == SPLIT.sub("", self._file.name):
                self._wrong = self._wrong or next(self._broken(part), "")

    def _broken(self, part: Path) -> Iterator[str]:
        with part.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as data:
            header = gguf.read_header(lambda start, size: data[start : start + size], len(data), str(part))
            whole: Any = ctypes.c_char.from_buffer(data)
            base = ctypes.addressof(whole)
            try:
                for tensor in header.tensors:
                    known = TYPES.get(tensor.dtype)
                    if known is None or tensor.end is None:
                        continue
                    number, block = known
                    for start in range(tensor.start, tensor.end, PIECE * block):
                        if not self._valid(number, base + start, min(PIECE * block, tensor.end - start)):
                            yield tensor.name
                            break
            finally:
                del whole
