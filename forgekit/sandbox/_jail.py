"""Linux isolation by system calls alone: namespaces, an empty root, seccomp, Landlock, rlimits.

Loaded by ``_cell.py`` in an interpreter of its own, by path: standard library
only, nothing of forgekit. Nothing here needs root or an installed tool.

Sources: unshare(2), user_namespaces(7), pivot_root(2), seccomp(2), landlock(7), capabilities(7);
system call numbers from the kernel's tables for x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import struct

MACHINE = os.uname().machine
LIBC = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_THREAD = 0x10000000, 0x20000000, 0x40000000, 0x10000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15
AT_FDCWD, AT_RECURSIVE, AT_EMPTY_PATH = -100, 0x8000, 0x1000
NOBODY = 65534
EPERM, ENOSYS = 1, 38

# name: (x86_64, aarch64); -1 where the architecture has no such call
NUMBERS = {
    "clone": (56, 220), "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    "clone3": (435, 435), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "prlimit64": (302, 261), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setparam": (142, 118),
    "ioprio_set": (251, 30), "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "quotactl": (179, 60), "acct": (163, 89),
    "swapon": (167, 224), "reboot": (169, 142), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "syslog": (103, 116),
    "sethostname": (170, 161), "setdomainname": (171, 162), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "personality": (135, 92), "iopl": (172, -1),
    "ioperm": (173, -1), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193),
    "semtimedop": (220, 192), "semctl": (66, 191), "mq_open": (240, 180),
    "memfd_secret": (447, 447), "fanotify_init": (300, 262), "lookup_dcookie": (212, 18), "mbind": (237, 235),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "vhangup": (153, 58), "capset": (126, 91),
    "fcntl": (72, 25), "sched_setaffinity": (203, 122), "landlock_create_ruleset": (444, 444),
    "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
}  # fmt: skip
ARCHES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
JAIL_SETUP = {
    "clone",
    "clone3",
    "tgkill",
    "prlimit64",
    "fcntl",
    "sched_setaffinity",
    "landlock_create_ruleset",
    "landlock_add_rule",
    "landlock_restrict_self",
}
LAYER, AUDIT_ARCH = ARCHES.get(MACHINE, (None, 0))


class JailError(Exception):
    """A step of setting the jail up failed; the message names it."""


def number(name: str) -> int:
    if LAYER is None:
        raise JailError(f"no system call table for {MACHINE}")
    return NUMBERS[name][LAYER]


def syscall(name: str, *args: object) -> int:
    ctypes.set_errno(0)
    result = LIBC.syscall(ctypes.c_long(number(name)), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise JailError(f"{name}: {os.strerror(code)}")
    return int(result)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    ctypes.set_errno(0)
    if LIBC.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(options)) != 0:
        raise JailError(f"mount {source or kind} on {target}: {os.strerror(ctypes.get_errno())}")


def unshare(flags: int) -> None:
    ctypes.set_errno(0)
    if LIBC.unshare(ctypes.c_int(flags)) != 0:
        raise JailError(f"unshare: {os.strerror(ctypes.get_errno())}")


def enter_namespaces() -> None:
    """Move this process into new user, mount, pid, network, IPC, UTS and cgroup namespaces.

    Returns in a child that is process 1 of the new pid namespace; the calling
    process waits for it and exits with it. Single-threaded callers only.
    """
    uid, gid = os.getuid(), os.getgid()
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child:
        os.close(ready[1])
        os.close(go[0])
        if os.read(ready[0], 1) == b"u":
            _map_ids(child, uid, gid)
            os.write(go[1], b"g")
        os.close(go[1])
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    unshare(CLONE_NEWUSER | flags)
    os.write(ready[1], b"u")
    os.close(ready[1])
    if os.read(go[0], 1) != b"g":
        raise JailError("user namespace: ids could not be mapped")
    os.close(go[0])
    init = os.fork()
    if init:
        _, status = os.waitpid(init, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _map_ids(pid: int, uid: int, gid: int) -> None:
    """Give the new namespace root and nobody when we may, else ourselves as nobody."""
    try:
        if uid != 0:
            raise PermissionError
        _write(f"/proc/{pid}/uid_map", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
        _write(f"/proc/{pid}/gid_map", f"0 0 1\n{NOBODY} {NOBODY} 1\n")
    except OSError:
        _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", f"{NOBODY} {uid} 1\n")
        _write(f"/proc/{pid}/gid_map", f"{NOBODY} {gid} 1\n")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def build_root(visible: dict[str, str], hidden: list[str]) -> None:
    """Replace the file system by an empty one that shows only ``visible``, read-only.

    Args:
        visible: path inside -> path outside, folders or device files.
        hidden: folders inside that are covered by an empty one.
    """
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    handles = {inside: os.open(outside, os.O_PATH) for inside, outside in visible.items()}  # /tmp is covered next
    stage = next(path for path in ("/tmp", "/var/tmp", "/run", "/mnt") if os.path.isdir(path))  # noqa: S108
    mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755")
    for inside, handle in sorted(handles.items()):
        target = stage + inside
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(f"/proc/self/fd/{handle}", target, None, MS_BIND | MS_REC)
        if not inside.startswith("/dev/"):
            _read_only(target)
        os.close(handle)
    for folder in hidden:
        if os.path.isdir(stage + folder):
            mount("tmpfs", stage + folder, "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k")
    os.makedirs(stage + "/tmp", exist_ok=True)  # noqa: S108
    os.chdir(stage)
    syscall("pivot_root", b".", b".")
    if LIBC.umount2(b".", MNT_DETACH) != 0:
        raise JailError(f"detach the old root: {os.strerror(ctypes.get_errno())}")
    os.chdir("/")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _read_only(target: str) -> None:
    """Make a mount and all below it read-only, nosuid and nodev."""
    attributes = struct.pack("=QQQQ", MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    path = os.fsencode(target)
    try:
        syscall("mount_setattr", AT_FDCWD, path, AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))
    except JailError:  # before Linux 5.12: this mount only, keeping the flags an unprivileged remount may not clear
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC | 1024 | 2048)
        mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def private_tmp(size: int) -> None:
    """An empty /tmp of at most ``size`` bytes that only this process and its threads see."""
    unshare(CLONE_NEWNS)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"size={size},nr_inodes=1024,mode=1777")  # noqa: S108


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    for capability in range(64):
        if LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break
    header = struct.pack("=Ii", 0x20080522, 0)
    if LIBC.syscall(ctypes.c_long(number("capset")), header, bytes(24)) != 0:
        raise JailError("capabilities could not be dropped")
    no_new_privileges()


def become_nobody() -> None:
    """Stop being root of the namespace, where another user is mapped."""
    if os.getuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError:  # none is: stay, without capabilities
            pass


def no_new_privileges() -> None:
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise JailError("no_new_privs could not be set")
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def set_limits(memory: int, file_size: int, cpu_seconds: int) -> None:
    """Bound this process: address space and stack in bytes, one file in bytes, CPU in seconds."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_STACK, memory),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_AS, memory),
    ):
        hard = resource.getrlimit(limit)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bound, bound))


def seccomp_available() -> bool:
    return LAYER is not None and os.path.exists("/proc/sys/kernel/seccomp")


def forbid_system_calls() -> None:
    """From here on: no new process, no signal to another, no socket, no mount, no tracing, for good."""
    code = filter_code().replace(OWN_PID, struct.pack("=I", os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    wanted = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(wanted), 0, 0) != 0:
        raise JailError(f"seccomp: {os.strerror(ctypes.get_errno())}")


OWN_PID = struct.pack("=I", 0x7FFFFFFE)  # stands for a process id that is known only after fork


@functools.cache
def filter_code() -> bytes:
    """The filter, assembled once; see ``_filter``."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _filter(0x7FFFFFFE))


def _filter(own_pid: int) -> list[tuple[int, int, int, int]]:
    """A BPF program over struct seccomp_data: {int nr; u32 arch; u64 ip; u64 args[6]}."""
    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06  # LD|W|ABS, JMP|JEQ|K, JMP|JSET|K, RET|K
    allow, kill, refuse, absent = 0x7FFF0000, 0x80000000, 0x00050000 | EPERM, 0x00050000 | ENOSYS
    nr, arch, first, second = 0, 4, 16, 24  # low halves of the first two arguments
    program: list[tuple[int, int, int, int]] = [
        (load, 0, 0, arch),
        (equal, 1, 0, AUDIT_ARCH),
        (give, 0, 0, kill),
        (load, 0, 0, nr),
    ]
    if MACHINE == "x86_64":
        program += [(bits, 0, 1, 0x40000000), (give, 0, 0, kill)]  # the x32 table has other numbers
    program += [(equal, 0, 1, number("clone3")), (give, 0, 0, absent)]  # glibc then falls back to clone
    program += [
        (equal, 0, 4, number("clone")),
        (load, 0, 0, first),
        (bits, 1, 0, CLONE_THREAD),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    program += [
        (equal, 0, 4, number("tgkill")),  # abort() and raise() signal the own process
        (load, 0, 0, first),
        (equal, 1, 0, own_pid),
        (give, 0, 0, refuse),
        (give, 0, 0, allow),
    ]
    for name in ("prlimit64", "sched_setaffinity"):  # of itself only
        program += [
            (equal, 0, 4, number(name)),
            (load, 0, 0, first),
            (equal, 1, 0, 0),
            (give, 0, 0, refuse),
            (give, 0, 0, allow),
        ]
    program += [  # a descriptor's owner gets the signals its taker chooses
        (equal, 0, 6, number("fcntl")),
        (load, 0, 0, second),
        (equal, 3, 0, F_SETOWN),
        (equal, 2, 0, F_SETOWN_EX),
        (equal, 1, 0, F_SETSIG),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    for name in NUMBERS:
        if name not in JAIL_SETUP and number(name) >= 0:
            program += [(equal, 0, 1, number(name)), (give, 0, 0, refuse)]
    program.append((give, 0, 0, allow))
    return program


def landlock_version() -> int:
    """ABI version of the running kernel's Landlock; 0 where there is none."""
    try:
        return syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), ctypes.c_uint(1))
    except JailError:
        return 0


def restrict_files(readable: list[str]) -> None:
    """Allow reading below ``readable`` and nothing else: no other file, no writing, no TCP.

    Source: landlock(7); access rights up to ABI 5, scopes from ABI 6.
    """
    version = landlock_version()
    if version == 0:
        raise JailError("landlock: not available")
    execute, read_file, read_dir = 1, 4, 8
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    attributes = struct.pack("=Q", rights)
    if version >= 4:
        attributes += struct.pack("=Q", 3)  # bind and connect
    if version >= 6:
        attributes += struct.pack("=Q", 3)  # abstract sockets and signals stay within
    ruleset = syscall("landlock_create_ruleset", attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    for path in readable:
        if not os.path.exists(path):
            continue
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = read_file | execute | (read_dir if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", allowed, handle)
        syscall("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(handle)
    no_new_privileges()
    syscall("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)


def allow_writing(folders: list[str]) -> None:
    """Allow changing files below ``folders`` and nowhere else; reading stays as it was.

    Source: landlock(7); the rights that change files, by ABI.
    """
    version = landlock_version()
    if version == 0:
        raise JailError("landlock: not available")
    rights = 0b1_1111_1111_0010  # write_file, remove_dir, remove_file, make_*
    rights |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)  # refer, truncate
    attributes = struct.pack("=Q", rights)
    ruleset = syscall("landlock_create_ruleset", attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    for path in folders:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, handle)
        syscall("landlock_add_rule", ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
        os.close(handle)
    no_new_privileges()
    syscall("landlock_restrict_self", ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)
