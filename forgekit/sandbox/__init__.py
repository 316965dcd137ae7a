"""Run functions nobody vouches for, and learn nothing from them but data.

A candidate runs in a process that holds its own inputs and nothing else: no
expected outputs, no credentials, no network, no view of the file system
beyond Python itself. What it returns crosses as plain data and is judged on
this side. The sandbox has no off switch; where a system offers less, the
strongest level it has is used and every result says which.
"""

from __future__ import annotations

import contextlib
import importlib.util
import marshal
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from forgekit.errors import SandboxError

CELL = Path(__file__).with_name("_cell.py")
Level = Literal["namespaces", "bubblewrap", "landlock", "rlimits"]
LEVELS: tuple[Level, ...] = ("namespaces", "bubblewrap", "landlock", "rlimits")  # strongest first
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Isolation:
    """What stands between a candidate and this machine.

    Attributes:
        level: the mechanism in use.
        seccomp: whether system calls are filtered.
        gaps: what this level cannot keep a candidate from; empty at full strength.
        weaker_because: why stronger levels are not in use.
    """

    level: Level
    seccomp: bool
    gaps: tuple[str, ...] = ()
    weaker_because: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = self.level + ("+seccomp" if self.seccomp else "")
        return f"{text} (not kept from: {', '.join(self.gaps)})" if self.gaps else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A function to call.

    Attributes:
        code: Python source that defines it.
        entry: its name.
        inputs: one list of positional arguments per call.
        limit: CPU seconds one call may use.
        limits: other limits for single calls, by index.
        total: CPU seconds for everything together; a backstop inside the process.
        timed: whether to report the CPU seconds of each call.
        whole: calls whose value is sent whole however large, instead of as a hash, by index.
        as_set: whether a returned iterable is collected into a set.
        recursion: the interpreter's recursion limit.
    """

    code: str
    entry: str
    inputs: list[list[Any]]
    limit: float
    limits: dict[int, float]
    total: float
    timed: bool = False
    whole: tuple[int, ...] = ()
    as_set: bool = False
    recursion: int = 1000

    def payload(self) -> bytes:
        names = ("code", "entry", "inputs", "limit", "limits", "timed", "whole", "as_set", "recursion")
        return marshal.dumps({name: getattr(self, name) for name in names}, 2)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a candidate's process ended: exit code or negative signal, CPU seconds, peak memory in bytes."""

    code: int
    cpu: float
    memory: int


class Running(Protocol):
    """A candidate at work. Frames arrive on ``fileno()``; end of file means it is gone."""

    def fileno(self) -> int: ...

    def cpu(self) -> float | None:
        """CPU seconds used so far; None where the system does not tell."""

    def queued(self) -> float | None:
        """Seconds it was ready to run and others ran instead; None where the system does not tell."""

    def kill(self) -> None: ...

    def finish(self) -> Exit:
        """Kill it if it still runs, release everything, and say how it ended."""


class Cell(Protocol):
    """A place where one candidate at a time can run."""

    numpy: str  # version candidates can import; empty where there is none

    def start(self, job: Job) -> Running: ...

    def close(self) -> None: ...


class Sandbox:
    """The strongest isolation this machine offers, and cells of that kind.

    Args:
        levels: levels to try, strongest first.
        packages: importable packages that candidates may see beside the standard library.
        memory: bytes of address space a candidate gets.

    Raises:
        SandboxError: none of ``levels`` works here.
    """

    def __init__(
        self, levels: tuple[Level, ...] = LEVELS, *, packages: tuple[str, ...] = ("numpy",), memory: int | None = None
    ) -> None:
        self.packages = packages
        self.memory = memory or candidate_memory()
        failures: list[str] = []
        for level in levels:
            try:
                cell = self._cell(level)
            except SandboxError as error:
                failures.append(f"{level}: {error.what}")
                continue
            gaps = GAPS[level] + (() if _has_seccomp() else WITHOUT_SECCOMP)
            self.isolation = Isolation(level, _has_seccomp(), gaps, tuple(failures))
            self.numpy = cell.numpy
            self._spare = [cell]
            return
        raise SandboxError("untrusted code cannot be isolated here", where="; ".join(failures))

    @contextlib.contextmanager
    def cell(self) -> Iterator[Cell]:
        """A cell for the calling thread."""
        try:
            cell = self._spare.pop()  # one step, so that two threads cannot take the same
        except IndexError:
            cell = self._cell(self.isolation.level)
        try:
            yield cell
        finally:
            cell.close()

    def close(self) -> None:
        while self._spare:
            self._spare.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cell(self, level: Level) -> Cell:
        settings = _settings(level, self.packages, self.memory)
        if level == "rlimits":
            return _OnceCell(settings)
        if platform.system() != "Linux":
            raise SandboxError("needs Linux")
        return _ForkingCell(settings, _bubblewrap(settings) if level == "bubblewrap" else [])


GAPS: dict[Level, tuple[str, ...]] = {
    "namespaces": (),
    "bubblewrap": ("leaving files in a shared scratch folder",),
    "landlock": ("seeing which processes and file names exist",),
    "rlimits": ("reading this user's files", "leaving files behind"),
}
WITHOUT_SECCOMP = ("the network", "starting processes")


def candidate_memory() -> int:
    """Bytes a candidate may address: the official harness's 4 GiB, or what this machine can spare."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(4 * GIB, max(GIB, pages * 6 // 10))


class _ForkingCell:
    """A prepared jail that forks one child per job. Linux only."""

    def __init__(self, settings: dict[str, Any], wrapper: list[str]) -> None:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.judge = near
        command = [*wrapper, _interpreter(), "-I", "-S", "-B", str(CELL), "serve", str(far.fileno())]
        try:
            self.process = subprocess.Popen(  # noqa: S603 - our own file, by its path
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[far.fileno()],
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            near.close()
            raise SandboxError(f"could not start: {error.strerror}") from error
        finally:
            far.close()
        near.send(marshal.dumps(settings, 2))
        near.settimeout(30)
        try:
            answer = near.recv(4096)
        except OSError:
            answer = b""
        near.settimeout(None)
        if not answer.startswith(b"Y"):
            self.close()
            raise SandboxError(answer[1:].decode() or "the jail ended while it was set up")
        self.numpy = answer[1:].decode()

    def start(self, job: Job) -> Running:
        payload = job.payload()
        inbox = os.memfd_create("job")
        outbox, far = os.pipe()
        try:
            _write_all(inbox, payload)
            with contextlib.suppress(OSError):
                _fcntl(far, _F_SETPIPE_SZ, 1 << 20)
            socket.send_fds(self.judge, [b"J" + int(job.total + 10).to_bytes(4, "little")], [inbox, far])
            message, handles, _, _ = socket.recv_fds(self.judge, 16, 1)
        except OSError as error:
            os.close(outbox)
            raise SandboxError(f"the jail is gone: {error.strerror}") from error
        finally:
            os.close(inbox)
            os.close(far)
        if message != b"P":
            os.close(outbox)
            raise SandboxError("the jail ended before the candidate started")
        return _Forked(self.judge, handles[0], outbox)

    def close(self) -> None:
        self.judge.close()  # the jail sees the hang-up, kills what runs in it and leaves
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Clock:
    """What Linux tells of another process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.clock = ((~pid) << 3) | 2  # CPUCLOCK_SCHED of a process, as clock_getcpuclockid(3) makes it

    def cpu(self) -> float | None:
        if self.pid <= 0:  # gone before we could ask who it was
            return None
        try:
            return time.clock_gettime(self.clock)
        except OSError:
            return None

    def queued(self) -> float | None:
        try:
            return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return None


class _Forked(_Clock):
    def __init__(self, judge: socket.socket, handle: int, outbox: int) -> None:
        self.judge, self.handle, self.outbox = judge, handle, outbox
        lines = Path(f"/proc/self/fdinfo/{handle}").read_text().splitlines()
        super().__init__(next(int(line.split()[1]) for line in lines if line.startswith("Pid:")))

    def fileno(self) -> int:
        return self.outbox

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    def finish(self) -> Exit:
        os.close(self.outbox)  # a candidate stuck in writing answers gets SIGPIPE
        self.kill()
        os.close(self.handle)
        answer = self.judge.recv(256)
        if not answer.startswith(b"X"):
            raise SandboxError("the jail ended while a candidate ran")
        status, cpu, memory = marshal.loads(answer[1:])  # noqa: S302 - from the jail, which is ours
        return Exit(os.waitstatus_to_exitcode(status), cpu, memory)


class _OnceCell:
    """A fresh process per job, with resource limits only: for systems with nothing better."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.numpy = "as installed" if settings["packages"] else ""

    def start(self, job: Job) -> Running:
        folders = sorted({str(Path(path).parent) for path in self.settings["packages"].values()})
        settings = self.settings
        limits = [str(int(settings[name])) for name in ("memory", "file_size", "seccomp")]
        limits.insert(2, str(int(job.total + 10)))
        with tempfile.TemporaryFile() as inbox:
            inbox.write(job.payload())
            inbox.seek(0)
            process = subprocess.Popen(  # noqa: S603
                [_interpreter(), "-I", "-S", "-B", str(CELL), "once", *limits, *folders],
                stdin=inbox,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
                cwd=tempfile.gettempdir(),
                start_new_session=True,
            )
        return _Spawned(process)

    def close(self) -> None:
        pass


class _Spawned(_Clock):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(process.pid)
        self.process = process
        assert process.stdout is not None
        self.pipe = process.stdout

    def fileno(self) -> int:
        return self.pipe.fileno()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with whatever it started

    def finish(self) -> Exit:
        self.pipe.close()
        self.kill()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        scale = 1 if sys.platform == "darwin" else 1024
        return Exit(self.process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * scale)


ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # a verdict must not depend on the order of a set
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # large values come and go: keep their pages, and take big ones
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{setting}" for setting in ("hugetlb=1", "mmap_threshold=268435456", "trim_threshold=1073741824")
    ),
}
_F_SETPIPE_SZ = 1031


def _fcntl(descriptor: int, command: int, argument: int) -> None:
    import fcntl

    fcntl.fcntl(descriptor, command, argument)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)


@cache
def _interpreter() -> str:
    """The interpreter behind a virtual environment: the environment's own folder stays out of sight."""
    return os.path.realpath(sys.executable)


@cache
def _has_seccomp() -> bool:
    return platform.machine() in {"x86_64", "aarch64"} and Path("/proc/sys/kernel/seccomp").exists()


def _settings(level: Level, packages: tuple[str, ...], memory: int) -> dict[str, Any]:
    paths = {name: path for package in packages for name, path in _package_paths(package)}
    return {
        "level": level,
        "seccomp": _has_seccomp(),
        "memory": memory,
        "file_size": 16 << 20,
        "packages": paths,
        "visible": _visible(),
        "hidden": _hidden(),
        "readable": [*_around(_visible(), _hidden()), *paths.values()],
    }


def _around(folders: list[str], hidden: list[str]) -> Iterator[str]:
    """Paths that together show all of ``folders`` but ``hidden``."""
    for folder in folders:
        if folder in hidden:
            continue
        if any(path.startswith(f"{folder}/") for path in hidden):
            yield from _around(sorted(entry.path for entry in os.scandir(folder)), hidden)
        else:
            yield folder


def _package_paths(package: str) -> Iterator[tuple[str, str]]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return
    folder = os.path.realpath(next(iter(spec.submodule_search_locations)))
    yield package, folder
    if Path(folder + ".libs").is_dir():  # shared libraries of a manylinux wheel
        yield f"{package}.libs", folder + ".libs"


@cache
def _visible() -> list[str]:
    """Folders and devices an interpreter needs."""
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo"]
    devices = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]
    found = {path for path in (*_libraries(), *system, *devices) if Path(path).exists()}
    return sorted(path for path in found if not any(path.startswith(f"{other}/") for other in found))


@cache
def _hidden() -> list[str]:
    """Folders below the visible ones that hold installed packages."""
    found = {str(path) for root in (*_libraries(), "/usr/lib") for path in Path(root).glob("python3*/*-packages")}
    return sorted(found)


def _libraries() -> list[str]:
    """Where the standard library and its shared libraries are, of the interpreter behind a virtual environment."""
    return [f"{prefix}/{sys.platlibdir}" for prefix in {sys.base_prefix, sys.base_exec_prefix}] + [
        str(Path(sysconfig.get_path("stdlib")).parent)
    ]


def _bubblewrap(settings: dict[str, Any]) -> list[str]:
    tool = shutil.which("bwrap")
    if tool is None:
        raise SandboxError("bubblewrap is not installed")
    command = [tool, "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--dev", "/dev"]
    for path in settings["visible"]:
        if not path.startswith("/dev/"):
            command += ["--ro-bind", path, path]
    for folder in settings["hidden"]:
        command += ["--tmpfs", folder]
    for path in settings["packages"].values():
        command += ["--ro-bind", path, path]
    for path in (_interpreter(), str(CELL.parent)):
        command += ["--ro-bind", path, path]
    read_only = ["--remount-ro", "/dev", "--remount-ro", "/"]
    return [*command, "--tmpfs", "/tmp", *read_only, "--chdir", "/tmp"]  # noqa: S108 - inside the sandbox
