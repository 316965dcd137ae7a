"""What a candidate sees of the machine, at every level of isolation this machine offers."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from forgekit import benchmarks, sandbox
from forgekit.benchmarks._engine import Engine
from forgekit.errors import SandboxError
from forgekit.sandbox import GAPS, LEVELS, WITHOUT_SECCOMP, Isolation, Job, Sandbox
from forgekit.sandbox.wire import Opaque, decode

TRY = """
def attempt(act):
    try:
        return act()
    except BaseException as error:
        return "refused: " + type(error).__name__
"""


@pytest.fixture(scope="module", params=LEVELS)
def level(request):
    """A sandbox of one level, or a skip that says why there is none."""
    try:
        made = Sandbox((request.param,))
    except SandboxError as error:
        pytest.skip(f"{request.param} is not to be had here: {error}")
    with made:
        yield made


def ask(box, code, *arguments):
    """What ``f`` returns in there."""
    job = Job(code=TRY + code, entry="f", inputs=[list(arguments)], limit=5.0, limits={}, total=10.0)
    with box.cell() as cell:
        answers = Engine(box, 1).answers(cell, job, lambda _: 5.0)
    assert answers.end == "done", answers.end
    return decode(answers.frames[0]).value


def kept(box, *gaps):
    """Whether this level promises to keep candidates from all of these."""
    return not any(gap in said for gap in gaps for said in box.isolation.gaps)


def test_an_honest_function_answers(level):
    assert ask(level, "def f(x): return [x, x + 0.5, {'k': (1, None)}]", 1) == [1, 1.5, {"k": (1, None)}]


def test_numpy_is_at_hand(level):
    pytest.importorskip("numpy")

    assert ask(level, "def f(x):\n    import numpy as np\n    return int(np.arange(x).sum())", 5) == 10


def test_the_level_and_its_gaps_are_said(level):
    said = level.isolation

    assert said.gaps[: len(GAPS[said.level])] == GAPS[said.level]
    assert (said.gaps == ()) is (said.level == "namespaces" and said.seccomp)
    assert said.level in str(said)
    for gap in said.gaps:
        assert gap in str(said)


def test_no_credential_of_this_process_is_in_its_environment(monkeypatch):
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "hush")
    for name in LEVELS:
        try:
            box = Sandbox((name,))
        except SandboxError:
            continue
        with box:
            seen = ask(box, "def f():\n    import os\n    return sorted(os.environ.items())")
        assert "hush" not in repr(seen)
        assert not any("HF_" in key or "AWS" in key or "SSH" in key for key, _ in seen)


def test_only_standard_descriptors_and_its_own_are_open(level):
    code = (
        "def f():\n    import os\n    return [n for n in range(200) if type(attempt(lambda: os.fstat(n))) is not str]"
    )

    assert set(ask(level, code)) <= {0, 1, 2, 3, 4}


def test_files_of_this_user_cannot_be_read(level, tmp_path):
    if not kept(level, "reading this user's files"):
        pytest.skip(f"{level.isolation.level} does not promise that, and says so")
    hidden = tmp_path / "hidden"
    hidden.write_text("hush")
    read = "def f(p):\n    import io\n    return attempt(lambda: io.open(p).read())"

    for path in (
        str(hidden),
        "/etc/passwd",
        "/etc/shadow",
        str(Path(benchmarks.__file__)),
        "/proc/self/environ",
        "/proc/1/environ",
    ):
        assert "hush" not in str(ask(level, read, path))
        assert str(ask(level, read, path)).startswith("refused"), path


def test_the_package_that_judges_cannot_be_imported(level):
    if not kept(level, "reading this user's files"):
        pytest.skip(f"{level.isolation.level} does not promise that, and says so")

    seen = ask(
        level,
        "def f():\n    def act():\n        import forgekit\n        return forgekit.__file__\n    return attempt(act)",
    )

    assert seen == "refused: ModuleNotFoundError"


def test_nothing_can_be_written_but_a_scratch_folder(level, tmp_path):
    if not kept(level, "leaving files behind"):
        pytest.skip(f"{level.isolation.level} does not promise that, and says so")
    write = "def f(p):\n    import io\n    return attempt(lambda: io.open(p, 'w').write('x'))"
    site = str(Path(sys.prefix, "lib", "forgekit-abuse.pth"))

    for path in (str(tmp_path / "x"), site, "/etc/x", "/usr/lib/x", "/lib/x", "/x", "/dev/x"):
        assert str(ask(level, write, path)).startswith("refused"), path
    assert list(tmp_path.iterdir()) == []


def test_what_it_writes_to_its_scratch_folder_is_gone(level):
    if not kept(level, "leaving files"):
        pytest.skip(f"{level.isolation.level} does not promise that, and says so")
    ask(
        level,
        "def f():\n    import io\n    return attempt(lambda: io.open('/tmp/forgekit-abuse-scratch', 'w').write('x'))",
    )

    assert not Path("/tmp/forgekit-abuse-scratch").exists()
    assert "scratch" not in str(ask(level, "def f():\n    import os\n    return attempt(lambda: os.listdir('/tmp'))"))


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX"])
def test_there_is_no_network(level, family):
    if not kept(level, "the network"):
        pytest.skip("system calls cannot be filtered here, and the finding says so")
    code = "def f(n):\n    import socket\n    return attempt(lambda: socket.socket(getattr(socket, n)).fileno())"

    assert str(ask(level, code, family)).startswith("refused")


def test_a_listening_neighbour_hears_nothing(level):
    if not kept(level, "the network"):
        pytest.skip("system calls cannot be filtered here, and the finding says so")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        code = "def f(*at):\n    import socket\n    return attempt(lambda: socket.create_connection(at).fileno())"
        assert str(ask(level, code, *server.getsockname())).startswith("refused")
        with pytest.raises(TimeoutError):
            server.accept()


CALLS = {
    "fork": "libc.fork()",
    "vfork": "libc.syscall(58)",
    "clone": "libc.syscall(56, 17, 0, 0, 0, 0)",
    "clone3": "libc.syscall(435, 0, 0)",
    "execve": "libc.execv(b'/bin/true', None)",
    "kill": "libc.kill(os.getppid(), 0)",
    "ptrace": "libc.ptrace(16, os.getppid(), 0, 0)",
    "unshare": "libc.unshare(0x10000000)",
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "chroot": "libc.chroot(b'/tmp')",
    "setns": "libc.setns(3, 0)",
    "socketpair": "libc.socketpair(1, 1, 0, (ctypes.c_int * 2)())",
    "io_uring": "libc.syscall(425, 8, ctypes.create_string_buffer(120))",
    "bpf": "libc.syscall(321, 0, 0, 0)",
    "memfd_secret": "libc.syscall(447, 0)",
    "process_vm_readv": "libc.syscall(310, os.getppid(), 0, 0, 0, 0, 0)",
    "pidfd_open": "libc.syscall(434, os.getppid(), 0)",
    "keyctl": "libc.syscall(250, 0, -3, 1)",
    "prlimit of another": "libc.prlimit(os.getppid(), 7, None, (ctypes.c_ulong * 2)())",
    "sched_setaffinity of another": "libc.sched_setaffinity(os.getppid(), 8, ctypes.create_string_buffer(b'\\1', 8))",
    "a descriptor's signals for another": "libc.fcntl(4, 8, os.getppid())",
    "a descriptor's signal": "libc.fcntl(4, 10, 9)",
    "shmat": "libc.syscall(30, 0, 0, 0)",
    "shmget": "libc.shmget(0, 4096, 0o1600)",
    "setpriority": "libc.setpriority(0, 0, -5)",
}  # numbers of x86-64, where the library has no function


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
@pytest.mark.parametrize("call", CALLS)
def test_the_kernel_refuses(level, call):
    if not level.isolation.seccomp:
        pytest.skip("system calls cannot be filtered here, and the finding says so")
    code = f"def f():\n    import ctypes, os\n    libc = ctypes.CDLL(None)\n    return {CALLS[call]}\n"

    assert ask(level, code) == -1


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")
def test_the_other_system_call_table_is_deadly(level):
    if not level.isolation.seccomp:
        pytest.skip("system calls cannot be filtered here, and the finding says so")
    code = "def f():\n    import ctypes\n    return ctypes.CDLL(None).syscall(0x40000000 + 39)\n"
    job = Job(code=code, entry="f", inputs=[[]], limit=5.0, limits={}, total=10.0)

    with level.cell() as cell:
        answers = Engine(level, 1).answers(cell, job, lambda _: 5.0)

    assert answers.end == "its process died of SIGSYS"


def test_threads_still_work(level):
    code = (
        "def f(n):\n    import threading\n    found = []\n"
        "    made = [threading.Thread(target=found.append, args=(i,)) for i in range(n)]\n"
        "    [t.start() for t in made], [t.join() for t in made]\n    return sorted(found)\n"
    )

    assert ask(level, code, 4) == [0, 1, 2, 3]


def test_memory_is_bounded(level):
    box = Sandbox((level.isolation.level,), memory=1 << 30)
    with box:
        assert ask(box, "def f():\n    return attempt(lambda: len(bytearray(1 << 31)))") == "refused: MemoryError"


def test_ids_are_nobodys(level):
    if level.isolation.level != "namespaces":
        pytest.skip("only namespaces have ids of their own")

    assert ask(level, "def f():\n    import os\n    return [os.getuid(), os.getgid(), os.getgroups()]")[0] == 65534


def test_what_is_not_data_does_not_cross(level):
    assert isinstance(ask(level, "def f(): return f"), Opaque)


def test_without_any_level_nothing_runs():
    with pytest.raises(SandboxError, match="cannot be isolated"):
        Sandbox(())


def test_a_level_that_fails_is_named_beside_the_one_in_use(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)

    with Sandbox(("bubblewrap", "rlimits")) as box:
        assert box.isolation.level == "rlimits"
        assert box.isolation.weaker_because == ("bubblewrap: bubblewrap is not installed",)


def test_gaps_are_part_of_what_is_printed():
    said = str(Isolation("rlimits", seccomp=False, gaps=GAPS["rlimits"] + WITHOUT_SECCOMP))

    assert said == (
        "rlimits (not kept from: reading this user's files, leaving files behind, the network, starting processes)"
    )


def test_cells_end_with_their_sandbox():
    box = Sandbox()
    folder = Path(tempfile.gettempdir())
    before = set(folder.iterdir())
    with box.cell() as one, box.cell() as other:
        processes = [cell.process for cell in (one, other) if hasattr(cell, "process")]
    box.close()

    assert all(process.returncode is not None for process in processes)
    assert not [path for path in set(folder.iterdir()) - before if "forgekit" in path.name]
