"""Whether the blocks of a GGUF file hold numbers: read on a second core, while the first loads and generates."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path

from forgekit.checkpoint import gguf
from forgekit.checkpoint.counting import SPLIT
from forgekit.checkpoint.opening import read_file
from forgekit.errors import CheckpointError

PIECE = 1 << 20  # bytes at a time, so that a thread that is no longer needed ends soon
TYPES = {name: (number, size) for number, (name, _, size) in gguf.TYPES.items()}


class BlockCheck:
    """ggml's own check for NaN and impossible scales, over every tensor, also those that no prompt reaches.

    Raises:
        OSError, AttributeError: this build has no such library, or the library no such function.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._valid = ctypes.CDLL(str(library)).ggml_validate_row_data
        self._valid.argtypes, self._valid.restype = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t], ctypes.c_bool
        self._file = file
        self._wrong: str | None = None
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self) -> str | None:
        """The first tensor that is broken, once all are read; empty where none is.

        None where a file is none that can be walked here, or holds a type whose size is not known.

        Raises:
            RuntimeError: not all could be read.
        """
        self._thread.join()
        if self._failed is not None:
            raise RuntimeError(f"the blocks cannot be read: {self._failed}") from self._failed
        return self._wrong

    def _run(self) -> None:
        try:
            parts = [(part, _header(part)) for part in _parts(self._file)]
        except (OSError, CheckpointError, ValueError):
            return
        try:
            self._wrong = next((name for part, header in parts for name in self._broken(part, header)), "")
        except Exception as error:  # noqa: BLE001 - told where the result is asked for
            self._failed = error

    def _broken(self, part: Path, header: gguf.GgufHeader) -> Iterator[str]:
        room = ctypes.create_string_buffer(PIECE)  # read, not mapped: an engine that maps the file is not kept waiting
        with part.open("rb", buffering=0) as file:
            for tensor in header.tensors:
                number, block = TYPES[tensor.dtype]
                assert tensor.end is not None
                step = PIECE // block * block
                for start in range(tensor.start, tensor.end, step):
                    size = min(step, tensor.end - start)
                    file.seek(start)
                    if file.readinto(memoryview(room)[:size]) != size:
                        raise OSError(f"{part.name} ends within {tensor.name}")
                    if not self._valid(number, ctypes.addressof(room), size):
                        yield tensor.name
                        break


def _parts(file: Path) -> list[Path]:
    if not SPLIT.search(file.name):
        return [file]
    stem = SPLIT.sub("", file.name)
    return sorted(part for part in file.parent.glob("*.gguf") if SPLIT.sub("", part.name) == stem)


def _header(part: Path) -> gguf.GgufHeader:
    header = gguf.read_header(lambda start, size: read_file(part, start, size), part.stat().st_size, str(part))
    strange = next((t for t in header.tensors if t.dtype not in TYPES or t.end is None), None)
    if strange is not None:
        raise ValueError(f"{strange.name} is of a type whose size is not known: {strange.dtype}")
    return header
