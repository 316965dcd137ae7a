"""The program on the far side of the sandbox: runs one untrusted function and reports what it returned.

Started by path in an interpreter of its own (``python -I -S``): standard
library only, nothing of forgekit, no expected outputs, no secrets. The judge
sends inputs and receives plain data; whatever the candidate does in here, all
it can deliver is data, and data is compared outside.

Two ways to run:

* ``_cell.py serve FD``: set the jail up once, then fork one child per job
  received over the socket FD. Each child closes everything but its own two
  descriptors, drops what is left of its rights, and only then reads its job.
* ``_cell.py once``: one job from standard input, answers to standard output.

A job is ``marshal`` data: see ``Job`` in ``forgekit.sandbox``. The answers
are frames: one letter, a length (u32, little endian), the payload.

    ``R``  exec of the candidate's code is done, its function was found
    ``P``  the function returned something large, and the next value takes a while to pack
    ``V``  one returned value, ``marshal`` version 2: plain data of exact types only
    ``H``  SHA-256 of a value too large to send (see ``normal``)
    ``E``  one returned value with other types in it, as tagged plain data
    ``C``  CPU seconds of the next value and whether it is made of floats, where the job asked for times
    ``T``  the function used up its time for one input
    ``X``  the function, or the code around it, raised: a short text
    ``D``  all inputs were answered
"""

from __future__ import annotations

import array
import builtins
import contextlib
import gc
import hashlib
import importlib
import io
import itertools
import marshal
import os
import shutil
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing is slow to import, and every cell would pay
    from typing import Any

LARGE = 1 << 16  # bytes from which a value is hashed, not sent
LONG = LARGE // 5  # items from which a sequence is
FLUSH_SECONDS = 0.02  # how old unsent answers may get: the judge times inputs by their arrival
FLUSH_BYTES = 1 << 15
DEPTH = 100  # of nested values

# What the official harness takes away before it runs a candidate. Nothing here
# rests on it; an honest candidate that uses one of these fails there, so it fails here.
MISSING_OS = (
    "kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork",
    "forkpty", "killpg", "rename", "renames", "truncate", "replace", "unlink", "fchmod", "fchown",
    "chmod", "chown", "chroot", "lchflags", "lchmod", "lchown", "getcwd", "chdir",
)  # fmt: skip
MISSING_BUILTINS = ("exit", "quit", "open", "help")
MISSING_MODULES = ("ipdb", "joblib", "resource", "psutil", "tkinter")


class TimeoutException(Exception):  # noqa: N818 - the official harness's name: candidates may catch it
    """Raised inside the candidate when an input has used up its CPU time."""


class Unreadable(io.TextIOBase):
    """Standard input, output and error of a candidate: writing goes nowhere, reading fails."""

    def read(self, *_args: Any) -> str:
        raise OSError

    def readline(self, *_args: Any) -> str:  # type: ignore[override]
        raise OSError

    def readlines(self, *_args: Any) -> list[str]:  # type: ignore[override]
        raise OSError

    def readable(self) -> bool:
        return False

    def write(self, text: str) -> int:
        return len(text)


class Answers:
    """Frames on their way out."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.waiting = bytearray()
        self.flushed = time.monotonic()

    def put(self, letter: bytes, payload: bytes = b"") -> None:
        self.waiting += letter + len(payload).to_bytes(4, "little") + payload
        now = time.monotonic()
        if len(self.waiting) > FLUSH_BYTES or now - self.flushed > FLUSH_SECONDS:
            self.flush(now)

    def flush(self, now: float = 0.0) -> None:
        view = memoryview(self.waiting)
        sent = 0
        while sent < len(view):
            sent += os.write(self.descriptor, view[sent : sent + (1 << 20)])
        view.release()
        self.waiting.clear()
        self.flushed = now or time.monotonic()


def run_job(job: bytes, answers: Answers) -> None:
    """Execute the candidate's code, then its function on every input, until one raises."""
    work = marshal.loads(job)  # noqa: S302 - made by the judge
    limit, limits, timed = work["limit"], work["limits"], work["timed"]
    whole, as_set = work["whole"], work["as_set"]
    sys.setrecursionlimit(work["recursion"])
    tick, itimer, profile, getsizeof = time.process_time, signal.setitimer, signal.ITIMER_PROF, sys.getsizeof
    quiet = Unreadable()
    for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"):
        setattr(sys, name, quiet)
    signal.signal(signal.SIGPROF, _out_of_time)
    take_away()
    names: dict[str, Any] = {}
    try:
        exec(work["code"], names)  # noqa: S102 - this is what the sandbox is for
        function = names[work["entry"]]
    except BaseException as error:  # noqa: BLE001 - whatever the candidate raises, SystemExit too
        answers.put(b"X", said(error))
        answers.flush()
        return
    answers.put(b"R")
    answers.flush()
    for index, arguments in enumerate(work["inputs"]):
        try:
            itimer(profile, limits.get(index, limit))
            if timed:
                started = tick()
                value = function(*arguments)
                spent = tick() - started
            else:
                value = function(*arguments)
            itimer(profile, 0)
            if as_set and type(value) not in PLAIN_CONTAINERS:
                value = set(value)
            if getsizeof(value) > LARGE:
                answers.put(b"P")
                answers.flush()
            frame = encode(value, whole=index in whole)
        except TimeoutException:
            answers.put(b"T")
            break
        except BaseException as error:  # noqa: BLE001
            itimer(profile, 0)
            answers.put(b"X", said(error))
            break
        if timed:
            answers.put(b"C", marshal.dumps((spent, is_floats(value)), 2))
        answers.put(*frame)
    else:
        answers.put(b"D")
    answers.flush()


def take_away() -> None:
    for name in MISSING_OS:
        if hasattr(os, name):
            setattr(os, name, None)
    for name in MISSING_BUILTINS:
        setattr(builtins, name, None)
    for name in ("rmtree", "move", "chown"):
        setattr(shutil, name, None)
    setattr(subprocess, "Popen", None)  # noqa: B010 - a class, to a type checker
    sys.modules.update(dict.fromkeys(MISSING_MODULES))  # type: ignore[arg-type]


def _out_of_time(_signal: int, _frame: Any) -> None:
    raise TimeoutException("Timed out!")


def said(error: BaseException) -> bytes:
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # noqa: BLE001 - its __str__ is the candidate's
        text = type(error).__name__
    return text[:200].encode("utf-8", "replace")


# --- values ---------------------------------------------------------------

PLAIN_CONTAINERS = (list, tuple, set, frozenset, dict, str)
ATOMS = (int, float, str, bool, type(None), complex, bytes)


def encode(value: Any, *, whole: bool) -> tuple[bytes, bytes]:
    """One frame's letter and payload for a returned value."""
    kind = type(value)
    if not whole and (kind is list or kind is tuple) and len(value) > LONG:
        hashed = hash_long(value, kind)
        if hashed:
            return b"H", hashed
    try:
        plain = marshal.dumps(value, 2) if kind in ATOMS or kind in PLAIN_CONTAINERS else b""
    except ValueError:  # a type marshal has no form for, or nested too deep
        plain = b""
    # marshal writes anything with a buffer, numpy's scalars too, as bytes: look again where a "s" might be one
    if not plain or (kind not in ATOMS and b"s" in plain and not exact(value, DEPTH)):
        return b"E", marshal.dumps(tagged(value, DEPTH), 2)
    if whole or len(plain) < LARGE:
        return b"V", plain
    same = normal(value)
    return b"H", hashlib.sha256(plain if same is value else marshal.dumps(same, 2)).digest()


def hash_long(value: Any, kind: Any) -> bytes:
    """SHA-256 of a long list or tuple, such that equal numbers give equal hashes; empty where it holds odd types.

    Numbers are hashed as doubles where doubles can hold them; nested sequences
    piece by piece, since their plain form can be far larger than they are.
    """
    kinds = all_kinds(value)
    state = hashlib.sha256(kind.__name__.encode())
    if kinds <= {int, float}:
        try:
            numbers = array.array("d", value)
        except OverflowError:
            numbers = array.array("d")
        if len(numbers) and (int not in kinds or numbers.tolist() == list(value)):
            state.update(numbers)
            return state.digest()
    if not kinds <= {int, float, bool, str, type(None), list, tuple}:
        return b""
    as_is = kinds <= {int, str, type(None), list, tuple}
    for start in range(0, len(value), LONG):
        piece = list(value[start : start + LONG])
        state.update(marshal.dumps(piece if as_is else [normal(item) for item in piece], 2))
    return state.digest()


def all_kinds(value: Any) -> set[Any]:
    """Types of everything in a sequence whose levels hold either sequences or atoms; more than asked where mixed."""
    found: set[Any] = set()
    for level in range(1, DEPTH):
        items = iter(value)
        for _ in range(level - 1):
            items = itertools.chain.from_iterable(items)
        kinds = set(map(type, items))
        found |= kinds
        if not kinds <= {list, tuple}:
            break
    else:
        return {type}
    return found if not kinds & {list, tuple} else {type}


def is_floats(value: Any) -> bool:
    """Whether the official harness compares this value, when it is expected, with a tolerance."""
    if type(value) in (list, tuple) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def exact(value: Any, depth: int) -> bool:
    """Whether a value is made of exact plain types alone."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if depth <= 0 or kind not in PLAIN_CONTAINERS:
        return False
    if kind is dict:
        return exact(list(value), depth) and exact(list(value.values()), depth)
    kinds = set(map(type, value))
    return kinds.issubset(ATOMS) or all(exact(item, depth - 1) for item in value)


def normal(value: Any) -> Any:
    """A stand-in for a large value, such that equal numbers give equal bytes: 2.0 and True become 2 and 1."""
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() else value
    if kind is bool:
        return int(value)
    if kind is list or kind is tuple:
        if set(map(type, value)).issubset((int, str, type(None))):
            return value
        made = [normal(item) for item in value]
        return made if kind is list else tuple(made)
    if kind is dict:
        return {normal(k): normal(v) for k, v in value.items()}
    return value


def tagged(value: Any, depth: int) -> tuple[Any, ...]:
    """Plain data that says of every node what it is.

    ("=", atom), ("[", nodes), ("(", nodes), ("{", nodes), ("<", nodes) for list, tuple, set, frozenset,
    (":", pairs) for dict, ("sub", type name, node) for an instance of a subclass of one of these,
    ("array", dtype, shape, values), ("scalar", dtype, value) for numpy's, ("decimal", text),
    ("fraction", numerator, denominator), ("range", start, stop, step), ("other", type name).
    """
    kind: Any = type(value)
    if kind in ATOMS:
        return ("=", value)
    if depth <= 0:
        return ("other", "a value nested too deep")
    for base, tag in COLLECTIONS:
        if isinstance(value, base):
            node = _tagged_collection(value, base, tag, depth)
            return node if kind is base else ("sub", kind.__name__, node)
    if kind.__module__ == "numpy":
        return _tagged_numpy(value, depth)
    for plain in (int, float, complex, str, bytes):
        if isinstance(value, plain):
            return ("sub", kind.__name__, ("=", _base_value(plain, value)))
    return _tagged_known(value, kind)


COLLECTIONS: tuple[tuple[Any, str], ...] = ((list, "["), (tuple, "("), (set, "{"), (frozenset, "<"), (dict, ":"))


def _tagged_collection(value: Any, base: Any, tag: str, depth: int) -> tuple[Any, ...]:
    if base is dict:
        return (tag, [(tagged(k, depth - 1), tagged(v, depth - 1)) for k, v in dict.items(value)])
    return (tag, [tagged(item, depth - 1) for item in base.__iter__(value)])


def _tagged_known(value: Any, kind: Any) -> tuple[Any, ...]:
    if kind is range:
        return ("range", value.start, value.stop, value.step)
    if (kind.__module__, kind.__name__) in (("decimal", "Decimal"), ("_decimal", "Decimal")):
        return ("decimal", str(value))
    if (kind.__module__, kind.__name__) == ("fractions", "Fraction"):
        return ("fraction", value.numerator, value.denominator)
    return ("other", kind.__name__)


def _base_value(plain: type, value: Any) -> Any:
    """The value a subclass instance has as its base type, without asking the subclass."""
    if plain is int:
        return int.__index__(value)
    if plain is float:
        return float.__float__(value)
    if plain is str:
        return str.__str__(value)
    if plain is bytes:
        return bytes.__getitem__(value, slice(None))
    return complex(complex.real.__get__(value), complex.imag.__get__(value))


def _tagged_numpy(value: Any, depth: int) -> tuple[Any, ...]:
    import numpy as np

    if type(value) is np.ndarray and value.dtype.kind in "biufcU":
        return ("array", value.dtype.str, value.shape, tagged(value.ravel().tolist(), depth - 1))
    if isinstance(value, np.generic) and value.dtype.kind in "biufcU":
        return ("scalar", value.dtype.str, value.item())
    return ("other", type(value).__name__)


# --- processes ------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Fork one child per job until the judge hangs up."""
    import select
    import socket

    import _jail as jail  # type: ignore[import-not-found]

    judge = socket.socket(fileno=descriptor)
    settings = marshal.loads(judge.recv(1 << 20))  # noqa: S302 - from the judge
    try:
        prepare(settings, jail)
    except (jail.JailError, OSError) as error:
        judge.send(b"N" + str(error).encode())
        return
    judge.send(b"Y" + NUMPY.encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(judge, 64, 2)
        if not message:
            return
        job, out = descriptors
        child = os.fork()
        if child == 0:
            try:
                judge.close()
                harden(settings, jail, int.from_bytes(message[1:5], "little"), job, out)
                run_job(_read_all(3), Answers(4))
            except BaseException as error:  # noqa: BLE001 - the judge must learn that the jail broke, or that memory ran out
                _last_words(error)
            os._exit(0)
        os.close(job)
        os.close(out)
        handle = os.pidfd_open(child)
        socket.send_fds(judge, [b"P"], [handle])
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.register(judge, 0)  # a hang-up is always reported
        if all(ready == handle for ready, _ in poll.poll()):
            _, status, usage = os.wait4(child, 0)
            judge.send(b"X" + marshal.dumps((status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), 2))
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        os.close(handle)


NUMPY = ""
KEPT: list[Any] = []


def prepare(settings: dict[str, Any], jail: Any) -> None:
    """Everything that is done once, before the first candidate."""
    global NUMPY  # noqa: PLW0603
    level = settings["level"]
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # if memory runs out, the candidate goes first
    except OSError:
        pass
    packages: dict[str, str] = settings["packages"]
    folders = sorted({os.path.dirname(path) for path in packages.values()})
    if level == "namespaces":
        jail.enter_namespaces()
        visible: dict[str, str] = {path: path for path in settings["visible"]}
        visible.update({f"/packages/{name}": path for name, path in packages.items()})
        jail.build_root(visible, settings["hidden"])
        sys.path.append("/packages")
    else:
        sys.path += folders
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))
    try:
        import numpy as np

        NUMPY = np.__version__
    except ImportError:
        pass
    if level != "namespaces":
        sys.path[:] = [path for path in sys.path if path not in folders]
    if settings["seccomp"]:
        jail.filter_code()
    gc.collect()
    gc.freeze()  # a collection in a child then touches, and so copies, only what the child made
    KEPT.extend(sys.modules.pop(name, None) for name in ("_jail", "__main__"))


def harden(settings: dict[str, Any], jail: Any, cpu: int, job: int, out: int) -> None:
    """Leave this child nothing but its job (descriptor 3) and its way to answer (descriptor 4)."""
    import fcntl

    level = settings["level"]
    os.setsid()
    null, job, out = (fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (os.open("/dev/null", os.O_RDWR), job, out))
    for target, source in enumerate((null, null, null, job, out)):
        os.dup2(source, target, inheritable=False)
    os.closerange(5, 4096)
    if level == "namespaces":
        jail.private_tmp(settings["file_size"])
        os.chdir("/tmp")  # noqa: S108
        jail.become_nobody()
    elif level == "landlock":
        jail.restrict_files(settings["readable"])
    jail.drop_capabilities()
    jail.set_limits(settings["memory"], settings["file_size"], cpu)
    if settings["seccomp"]:
        jail.forbid_system_calls()


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    parts = []
    done = 0
    while done < size:
        part = os.pread(descriptor, size - done, done)
        if not part:
            break
        parts.append(part)
        done += len(part)
    os.close(descriptor)
    return b"".join(parts)


def _last_words(error: BaseException) -> None:
    with contextlib.suppress(BaseException):  # nothing more can be said
        answers = Answers(4)
        answers.put(b"X", said(error))
        answers.flush()


def once() -> None:
    """One job from standard input; for systems without the calls that ``serve`` uses."""
    import resource

    memory, file_size, cpu, filtered = (int(value) for value in sys.argv[2:6])
    sys.path += sys.argv[6:]
    with contextlib.suppress(ImportError):
        importlib.import_module("numpy")  # it is at hand in the official harness
    job = sys.stdin.buffer.read()
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    for name, value in (("CORE", 0), ("FSIZE", file_size), ("CPU", cpu), ("DATA", memory), ("AS", memory)):
        limit = getattr(resource, f"RLIMIT_{name}", None)
        try:
            if limit is not None:
                resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):  # macOS refuses some; the judge's clock remains
            pass
    if filtered:
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        import _jail as jail

        sys.path.pop(0)
        jail.no_new_privileges()
        jail.forbid_system_calls()
    run_job(job, Answers(out))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        serve(int(sys.argv[2]))
    else:
        once()
