"""The far side of a probe: an engine in a process of its own, which may crash, hang or eat memory as it likes.

Started by path, in whichever interpreter has the engine. Everything of
forgekit that it needs is standard library only; nothing else of the
interpreter that forgekit is installed in can be seen from here.

It confines itself once (no network but its own loopback, no writing but in
one folder), imports the engine, and then forks one worker per question, so
that engines are imported once and every artifact still dies alone. Questions
come as lines of JSON on standard input, answers go as lines of JSON to the
descriptor named on the command line.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PR_SET_PDEATHSIG = 1
POLL = 0.01  # seconds between two looks at a worker
SMALL = 512 << 20  # bytes that the next worker does not miss while this one gives them back
TAIL = 4000  # characters of what an engine printed that are kept
OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


def borrow(package: str) -> None:
    """Make ``forgekit`` importable from its folder, and nothing that is installed beside it."""
    if importlib.util.find_spec("forgekit") is None:
        spec = importlib.util.spec_from_file_location(
            "forgekit", f"{package}/__init__.py", submodule_search_locations=[package]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["forgekit"] = module
        spec.loader.exec_module(module)


def confine(package: str, scratch: str, *, network: bool) -> dict[str, Any]:
    """Give up the network, unless it is needed, and writing outside ``scratch``; says what was not to be had."""
    jail = _module("_jail", f"{package}/sandbox/_jail.py")  # alone: the rest of the sandbox is not for this side
    gaps = []
    reach = "the machine's"
    if sys.platform != "linux":
        return {"network": reach, "gaps": [f"anything: {sys.platform} has no namespaces and no landlock"]}
    if not network:
        try:
            uid, gid = os.getuid(), os.getgid()
            jail.unshare(jail.CLONE_NEWUSER | jail.CLONE_NEWNET)
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                    file.write(text)
            _loopback_up()
            reach = "its own loopback"
        except (jail.JailError, OSError) as error:
            gaps.append(f"the network ({error})")
    try:
        jail.drop_capabilities()
    except jail.JailError as error:
        gaps.append(f"its capabilities ({error})")
    try:
        jail.allow_writing([scratch, "/dev"])
    except jail.JailError as error:
        gaps.append(f"writing files ({error})")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return {"network": reach, "gaps": gaps}


def _loopback_up() -> None:
    import fcntl
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def die_with_parent() -> None:
    if sys.platform == "linux":  # elsewhere the end of standard input ends it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def work(driver: Any, asked: dict[str, Any], answer: dict[str, Any], begin: Callable[[str], None]) -> None:
    """Load and generate. ``begin`` puts down what comes next, for whoever finds this process dead."""
    if asked.get("inspect"):
        begin("inspect")
        answer["seen"] = driver.inspect(asked)
        return
    begin("load")
    answer["baselineBytes"] = _peak(os.getpid())
    began = time.perf_counter()
    answer["notes"] = driver.load(asked) or {}
    answer["loadSeconds"] = time.perf_counter() - began
    if not hasattr(driver, "generate"):  # it was asked to make something, not to run it
        begin("done")
        return
    answer["engine"] = driver.describe()
    if hasattr(driver, "write"):  # a server that takes text
        _write(driver, asked, answer, begin)
        return
    begin("encode")
    if asked.get("texts"):
        answer["encoded"] = [driver.encode(text) for text in asked["texts"]]
    prompts = asked.get("prompts") or answer.get("encoded")
    if not prompts or not all(prompts):
        prompts = asked["fallback"]
    answer["prompts"] = prompts
    begin("generate")
    began = time.perf_counter()
    answer["outputs"] = [driver.generate(ids, asked["tokens"]) for ids in prompts]
    answer["generateSeconds"] = time.perf_counter() - began
    if asked.get("repeat", True):
        answer["repeated"] = [driver.generate(ids, asked["tokens"]) for ids in prompts]
    if asked.get("logits"):
        begin("logits")
        answer["sequences"] = asked.get("sequences") or [a + b for a, b in zip(prompts, answer["outputs"])]  # noqa: B905
        answer["logits"] = _put_logits(driver, answer["sequences"], asked["logits"])
    if hasattr(driver, "check"):
        begin("check")
        driver.check()
    if hasattr(driver, "decode"):
        answer["written"] = [driver.decode(ids) for ids in answer["outputs"]]
    begin("done")


def _put_logits(driver: Any, sequences: list[list[int]], path: str) -> list[list[int]] | None:
    """Shapes of the logits along each sequence, which go into a file; None where the engine does not give them."""
    shapes: list[list[int]] = []
    with open(path, "wb") as file:
        for ids in sequences:
            values = driver.logits(ids)  # float32 [len(ids), vocabulary], or None
            if values is None:
                return None
            shapes.append(list(values.shape))
            file.write(values.tobytes())
    return shapes


def _write(driver: Any, asked: dict[str, Any], answer: dict[str, Any], begin: Callable[[str], None]) -> None:
    begin("generate")
    answer["prompts"] = asked["texts"]
    began = time.perf_counter()
    answer["written"] = [driver.write(text, asked["tokens"]) for text in asked["texts"]]
    answer["generateSeconds"] = time.perf_counter() - began
    answer["outputs"] = [list(text.encode()) for text in answer["written"]]
    answer["repeated"] = [list(driver.write(text, asked["tokens"]).encode()) for text in asked["texts"]]
    begin("done")


def answer_one(make: Any, asked: dict[str, Any], scratch: str) -> dict[str, Any]:
    """Fork a worker for one question, watch it, and give what became of it."""
    result, log = f"{scratch}/answer.json", f"{scratch}/log.txt"
    for path in (result, log):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    _bury()
    began = time.monotonic()
    heard, told = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(heard)
        _worker(make, asked, result, log, told)
    os.close(told)
    try:
        stopped, status, peak = _watch(worker, heard, asked, began)
    finally:
        os.close(heard)
    said: dict[str, Any] = {"outcome": "died"}
    with contextlib.suppress(OSError, ValueError), open(result, encoding="utf-8") as file:
        said = json.load(file)
    code = os.waitstatus_to_exitcode(status)
    if stopped:
        said["outcome"] = stopped
    elif code < 0:
        said |= {"outcome": "died", "signal": -code}
    elif code or said.get("outcome") == "working":
        said |= {"outcome": "died", "exit": code}
    said["seconds"] = time.monotonic() - began
    said["peakBytes"] = max(peak, said.get("peakBytes", 0))
    with contextlib.suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
        said["log"] = file.read()[-TAIL:]
    return said


def _watch(worker: int, heard: int, asked: dict[str, Any], began: float) -> tuple[str, int, int]:
    """(why it was stopped, how it ended, the most memory it had); returns when the worker has ended, or says it has."""
    peak, stopped = 0, ""
    open_ends = [heard]  # the other end is written to when all is said, and closes when the worker ends
    while True:
        done, status = os.waitpid(worker, os.WNOHANG)
        if done:
            return stopped, status, peak
        peak = max(peak, _peak(worker))
        if not stopped:
            if time.monotonic() - began > asked["seconds"]:
                stopped = "time"
            elif asked["memory"] and _resident(worker) > asked["memory"]:
                stopped = "memory"
            if stopped:
                os.kill(worker, signal.SIGKILL)
        if select.select(open_ends, [], [], POLL)[0]:
            if os.read(heard, 1) and not stopped:
                os.kill(worker, signal.SIGKILL)  # it leaves by itself, if it is what it says
                LEAVING.append(worker)
                return stopped, 0, peak
            open_ends = []


LEAVING: list[int] = []  # workers that have said all, and are giving back gigabytes of mapped files


def _bury() -> None:
    """Take note of those that are gone by now."""
    LEAVING[:] = [worker for worker in LEAVING if not os.waitpid(worker, os.WNOHANG)[0]]


def _worker(make: Any, asked: dict[str, Any], result: str, log: str, told: int) -> None:
    """Never returns.

    Args:
        told: where it is told that all is said and this process only leaves.
    """
    answer: dict[str, Any] = {"outcome": "working"}

    def keep() -> None:
        answer["peakBytes"] = _peak(os.getpid())
        with open(result + ".partial", "w", encoding="utf-8") as file:
            json.dump(answer, file)
        os.replace(result + ".partial", result)

    def begin(phase: str) -> None:
        answer["phase"] = phase
        keep()

    try:
        die_with_parent()
        handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if asked["memory"] and asked.get("device", "cpu") == "cpu":
            resource.setrlimit(resource.RLIMIT_DATA, (asked["memory"], asked["memory"]))
        begin("load")
        work(make(), asked, answer, begin)
        answer["outcome"] = "answered"
        keep()
        if asked.get("device", "cpu") == "cpu" and 0 < _status(os.getpid(), b"RssAnon:") < SMALL:
            os.write(told, b".")
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - whatever an engine raises is an answer
        text = f"{type(error).__name__}: {error}".strip()
        answer["outcome"] = "memory" if any(mark in text for mark in OUT_OF_MEMORY) else "refused"
        answer["error"] = text[:TAIL]
        with contextlib.suppress(BaseException):
            import traceback

            traceback.print_exc()
        with contextlib.suppress(BaseException):
            keep()
        os._exit(0)


def _status(pid: int, key: bytes) -> int:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(key):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _peak(pid: int) -> int:
    return _status(pid, b"VmHWM:")


def _resident(pid: int) -> int:
    return _status(pid, b"VmRSS:")


def _module(name: str, file: str) -> Any:
    """The module a driver stands in: forgekit's own by name, somebody else's by its file."""
    if name.startswith("forgekit."):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    settings = json.loads(sys.argv[1])
    die_with_parent()
    borrow(settings["package"])
    out = os.fdopen(settings["descriptor"], "w", encoding="utf-8")
    sys.stdout = sys.stderr  # what an engine prints on import is not an answer

    def put(tree: dict[str, Any]) -> None:
        out.write(json.dumps(tree) + "\n")
        out.flush()

    scratch = settings["scratch"]
    confined = confine(settings["package"], scratch, network=settings["network"])
    make: Any = None
    try:
        make = getattr(_module(settings["module"], settings["file"]), settings["driver"])
        if settings["warm"]:
            make.warm()
    except BaseException as error:  # noqa: BLE001 - said, not thrown: the other side decides
        put({"outcome": "refused", "phase": "import", "error": f"{type(error).__name__}: {error}"[:TAIL]})
        return
    put({"outcome": "ready", "confined": confined})
    for line in sys.stdin:
        put(answer_one(make, json.loads(line), scratch))


if __name__ == "__main__":
    main()
