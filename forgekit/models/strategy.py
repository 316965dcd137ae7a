"""How to load a checkpoint, from the bytes it has on disk and the memory there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from forgekit.checkpoint.opening import Checkpoint
from forgekit.errors import MachineError

Kind = Literal["full", "8-bit", "4-bit", "offload", "streaming"]
SHRINK = 3.5  # a 16-bit weight against NF4 with its double-quantised scales
USABLE_4BIT = 0.9  # of the device's memory
HEADROOM = 1.2  # activations and buffers beside the weights
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory. ``device`` is a GPU's; 0 where there is none."""

    device: int
    host: int | None


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to load, and why.

    Attributes:
        budget: bytes the device and the host may use, where a model is spread over both.
    """

    kind: Kind
    device: Literal["cpu", "cuda"]
    reason: str
    budget: tuple[int, int] | None = None


def choose(total: int, memory: Memory, *, quantisable: int | None = None) -> Strategy:
    """Full precision if it fits, 4-bit if that fits, spread over device and host, else streamed from disk.

    Args:
        total: bytes of the weight files, which count every expert; a formula over hidden sizes does not.
        quantisable: bytes of them that the quantiser really shrinks; all where None.
    """
    device: Literal["cpu", "cuda"] = "cuda" if memory.device else "cpu"
    room = memory.device or memory.host or 0
    shrinks = total if quantisable is None else quantisable
    small = total - shrinks + shrinks / SHRINK
    said = f"{total / 1e9:.2f} GB on disk, {room / 1e9:.2f} GB of {'device' if memory.device else 'host'} memory"
    if total * HEADROOM <= room:
        return Strategy("full", device, f"{said}: it fits in full precision")
    if memory.device and small <= USABLE_4BIT * room:
        return Strategy("4-bit", device, f"{said}: {small / 1e9:.2f} GB in 4 bits fit")
    if memory.device:
        on_device = max(memory.device - 2 * GIB, 8 * GIB)
        on_host = 50 * GIB if memory.host is None else max(memory.host - 12 * GIB, 16 * GIB)
        kind: Kind = "offload" if total * HEADROOM <= on_device + on_host else "streaming"
        words = "spread over device and host" if kind == "offload" else "layers are read from disk as they run"
        return Strategy(kind, device, f"{said}: {words}", (on_device, on_host))
    return Strategy("streaming", device, f"{said}: layers are read from disk as they run", (0, max(room // 2, GIB)))


def quantisable_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the tensors that bitsandbytes replaces: matrices of linear layers, and no experts.

    transformers 5 keeps experts as fused parameters, which bitsandbytes 0.50 leaves as they are.
    """
    return sum(
        placed.size
        for name, placed in checkpoint.tensors.items()
        if len(placed.tensor.shape) == 2 and ".experts." not in name and "embed" not in name and "lm_head" not in name
    )


def memory(device: str) -> Memory:
    """What this machine has.

    Raises:
        MachineError: a GPU is asked for and there is none.
    """
    host = _host()
    if device == "cpu":
        return Memory(0, host)
    import torch

    if not torch.cuda.is_available():
        raise MachineError("there is no CUDA device here", hint="use --device cpu")
    free, _ = torch.cuda.mem_get_info()
    return Memory(int(free), host)


def _host() -> int | None:
    """Bytes that can be had without swapping; the smaller of the machine's and this process's own limit."""
    try:
        pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - procfs
            rows = dict(line.split(":", 1) for line in file)
        available = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        try:
            available = pages * size
        except UnboundLocalError:
            return None
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(limit, encoding="ascii") as file:  # noqa: PTH123 - sysfs
                available = min(available, int(file.read()))
        except (OSError, ValueError):
            continue
    return available
