"""Run candidates side by side in the sandbox and judge what they answer.

Limits are on CPU time, so a busy machine does not change a verdict; a clock
on idle time stops sleepers. Whoever fails by time is run again alone before
it counts, and a verdict that still changes is reported as unstable.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import Any

from forgekit.benchmarks import Verdict
from forgekit.benchmarks._evalplus import (
    LIMIT_FACTOR,
    MIN_LIMIT,
    TOTAL_LIMIT,
    Problem,
    Question,
    right,
    tolerance,
)
from forgekit.digest import available_processors
from forgekit.errors import SandboxError
from forgekit.sandbox import Cell, Job, Running, Sandbox
from forgekit.sandbox.wire import HEADER, MalformedError, decode, frames

GRACE = 1.0  # seconds past a limit before a candidate that ignores its own clock is killed
TICK = 0.05  # seconds between looks at a candidate that says nothing
PACKING = 30.0  # CPU seconds a candidate's process may take to pack one large value
MAX_ANSWER = 8 << 20  # bytes; plain values much smaller than this are sent as a hash
NEAR = 1 << 16  # bytes an answer may be longer than 16 times the right one, before it is wrong unread
MAX_WHOLE = 256 << 20  # bytes of one value that is sent whole
SLOWER = 10  # how much slower a machine the rules must be safe on, before a pass counts as clear of the limit
CLEAR = 1.5  # times the time used that the rules must allow there
RECURSION = 976  # the official harness leaves a candidate about this many frames of 1000


@dataclass(frozen=True, slots=True)
class Expected:
    """What the canonical solution answered to one test set.

    Attributes:
        frames: one per call, as the sandbox sends them.
        times: CPU seconds of the calls that took noticeably long, by index.
        floats_at: index of the first call evalplus compares with a tolerance; None where there is none.
    """

    frames: tuple[bytes, ...]
    times: dict[int, float]
    floats_at: int | None

    @property
    def limits(self) -> dict[int, float]:
        """CPU seconds per call, where that is more than the minimum."""
        return {index: LIMIT_FACTOR * spent for index, spent in self.times.items() if LIMIT_FACTOR * spent > MIN_LIMIT}

    @property
    def total(self) -> float:
        """CPU seconds for the whole test set."""
        limits = self.limits
        return min(TOTAL_LIMIT, MIN_LIMIT * (len(self.frames) - len(limits)) + sum(limits.values())) + 2

    @property
    def cost(self) -> float:
        return sum(self.times.values())


@dataclass(frozen=True, slots=True)
class Task:
    """One sample against one test set."""

    problem: Problem
    suite: str
    code: str
    expected: Expected


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task went. ``timed_out`` marks the failures that another day might not bring."""

    verdict: Verdict
    timed_out: bool = False
    cpu: float = 0.0
    memory: int = 0


def is_close(used: float, reference: float) -> bool:
    """Whether a call is so near the time the rules allow that a slow or busy machine may fail it.

    The rules allow ``MIN_LIMIT`` seconds or ``LIMIT_FACTOR`` times the canonical
    solution, by the clock on the wall, so what passes here can fail elsewhere.

    Args:
        used: CPU seconds of the candidate here.
        reference: CPU seconds of the canonical solution here.
    """
    return max(MIN_LIMIT, LIMIT_FACTOR * reference * SLOWER) < CLEAR * used * SLOWER


@dataclass(frozen=True, slots=True)
class Answers:
    """What came back from one run: frames, the CPU time of each where asked for, and how it ended."""

    frames: tuple[bytes, ...]
    times: tuple[float, ...]
    floats_at: int | None
    end: str  # "done", "stopped", "time", "killed", or what went wrong
    cpu: float
    memory: int


class Engine:
    """Judges tasks, several at a time."""

    def __init__(self, sandbox: Sandbox, workers: int | None = None) -> None:
        self.sandbox = sandbox
        self.workers = workers or available_processors()

    def judge(self, tasks: Sequence[Task], progress: Callable[[int, int], None] | None = None) -> list[Outcome]:
        """One outcome per task, in their order."""
        outcomes: dict[int, Outcome] = {}
        order = sorted(range(len(tasks)), key=lambda index: -tasks[index].expected.cost)
        for index, outcome in self.each(order, lambda cell, index: self._judge(cell, tasks[index])):
            outcomes[index] = outcome
            if progress:
                progress(len(outcomes), len(tasks))
        late = [index for index in order if outcomes[index].timed_out]
        if late:
            with self.sandbox.cell() as cell:
                for index in late:
                    outcomes[index] = self._again(cell, tasks[index], outcomes[index])
        return [outcomes[index] for index in range(len(tasks))]

    def each(self, items: Iterable[Any], work: Callable[[Cell, Any], Any]) -> Iterator[tuple[Any, Any]]:
        """(item, result) as they come, each worker thread with a cell of its own."""
        queue = iter(list(items))
        lock = threading.Lock()
        stop = threading.Event()
        done: list[tuple[Any, Any]] = []
        ready = threading.Condition(lock)

        def worker() -> None:
            with self.sandbox.cell() as cell:
                while not stop.is_set():
                    with lock:
                        item = next(queue, _END)
                    if item is _END:
                        return
                    result = work(cell, item)
                    with ready:
                        done.append((item, result))
                        ready.notify()

        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            jobs = [pool.submit(worker) for _ in range(self.workers)]
            try:
                while True:
                    with ready:
                        while not done and not all(job.done() for job in jobs):
                            ready.wait(0.1)
                        batch, done[:] = list(done), []
                    if not batch and all(job.done() for job in jobs):
                        break
                    yield from batch
                for job in as_completed(jobs):
                    job.result()
            finally:  # a broken worker or Ctrl-C: the others finish their candidate and leave
                stop.set()

    def answers(self, cell: Cell, job: Job, limits: Callable[[int], float], *, largest: int = MAX_ANSWER) -> Answers:
        """Run a job that is not judged: the canonical solutions."""
        collected = _Collector()
        end, cpu, memory = _watch(cell.start(job), collected, limits, job.total, largest)
        return Answers(tuple(collected.frames), tuple(collected.times), collected.floats_at, end, cpu, memory)

    def _judge(self, cell: Cell, task: Task) -> Outcome:
        """Judge a task; where only the hash of a large value differs, look at that value itself."""
        whole: dict[int, bytes] = {}
        while True:
            outcome, undecided = self._run(cell, task, whole)
            if undecided is None:
                return outcome
            whole[undecided] = self._whole(cell, task, undecided)

    def _whole(self, cell: Cell, task: Task, index: int) -> bytes:
        """The frame of one expected value, whatever its size."""
        job = canonical_job(task.problem, task.suite, only=index, total=task.expected.total * 10)
        truth = self.answers(cell, job, lambda _: 60.0, largest=MAX_WHOLE)
        if len(truth.frames) != 1:
            raise SandboxError(f"the canonical solution of {task.problem.task_id} no longer answers: {truth.end}")
        return truth.frames[0]

    def _run(self, cell: Cell, task: Task, whole: dict[int, bytes]) -> tuple[Outcome, int | None]:
        problem, expected = task.problem, task.expected
        inputs = problem.inputs(task.suite)
        limits = expected.limits
        job = Job(
            code=task.code,
            entry=problem.entry_point,
            inputs=inputs,
            limit=MIN_LIMIT,
            limits=limits,
            total=expected.total,
            whole=tuple(whole),
            as_set=problem.collects_set,
            recursion=RECURSION,
        )
        judge = _Judge(problem, inputs, expected, whole)
        largest = max(MAX_ANSWER, *(4 * len(frame) for frame in whole.values()), 0)
        end, cpu, memory = _watch(
            cell.start(job), judge, lambda index: limits.get(index, MIN_LIMIT), job.total, largest
        )
        outcome = Outcome(judge.verdict(end), timed_out=judge.by_time(end), cpu=cpu, memory=memory)
        return outcome, judge.undecided

    def _again(self, cell: Cell, task: Task, first: Outcome) -> Outcome:
        """Repeat, alone, a task that failed by time."""
        second = self._judge(cell, task)
        if second.timed_out:
            return second
        third = self._judge(cell, task)
        if third.verdict.status == second.verdict.status and not third.timed_out:
            return third
        seen = ", ".join(outcome.verdict.status for outcome in (first, second, third))
        return replace(third, verdict=Verdict("unstable", f"three runs disagree: {seen}"))


_END = object()


def canonical_job(problem: Problem, suite: str, *, only: int | None = None, total: float) -> Job:
    """The reference solution on one test set, timed; or on one call of it, its value sent whole."""
    inputs = problem.inputs(suite)
    return Job(
        code=problem.canonical,
        entry=problem.entry_point,
        inputs=inputs if only is None else [inputs[only]],
        limit=60.0,
        limits={},
        total=total,
        timed=only is None,
        whole=() if only is None else (0,),
        as_set=problem.collects_set,
    )


@dataclass
class _Collector:
    frames: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    floats_at: int | None = None
    packing: bool = False
    end: str = ""

    @property
    def answered(self) -> int:
        return len(self.frames)

    def spent(self, cpu: float) -> None:
        """Canonical solutions time themselves."""

    def take(self, frame: bytes) -> bool:
        letter = frame[:1]
        if letter == b"C":
            spent, floats = decode(b"V" + frame[1:]).value
            self.times.append(spent)
            if floats and self.floats_at is None:
                self.floats_at = len(self.frames)
        elif letter in b"VHE":
            self.frames.append(frame)
            self.packing = False
        elif letter == b"P":
            self.packing = True
        elif letter != b"R":
            self.end = _said(frame)
            return False
        return True


class _Judge:
    """Compares answers with what is expected as they come in, and says when it has seen enough."""

    def __init__(self, problem: Problem, inputs: list[list[Any]], expected: Expected, whole: dict[int, bytes]) -> None:
        self.problem, self.inputs, self.expected, self.whole = problem, inputs, expected, whole
        self.answered = 0
        self.found = False  # the function, in the candidate's code
        self.packing = False  # a large value is on its way
        self.undecided: int | None = None
        self.end = ""
        self.wrong = ""
        self.close = False

    def spent(self, cpu: float) -> None:
        """Note the CPU seconds since the answer before the last, by the judge's own clock."""
        self.close = self.close or is_close(cpu, self.expected.times.get(self.answered - 1, 0.0))

    def take(self, frame: bytes) -> bool:
        """Whether to go on reading."""
        letter = frame[:1]
        if letter in b"VHE":
            self.packing = False
            return self._answer(frame)
        if letter == b"R" and not self.found:
            self.found = True
        elif letter == b"P" and not self.packing:
            self.packing = True
        else:
            self.end = _said(frame)
        return not self.end

    def _answer(self, frame: bytes) -> bool:
        index = self.answered
        if index >= len(self.expected.frames):
            self.wrong = "more answers than questions"
            return False
        wanted = self.whole.get(index) or self.expected.frames[index]
        if frame != wanted or _may_hold_nan(wanted):
            if wanted[:1] == b"H":
                self.undecided = index
                return False
            oversize = len(frame) > NEAR + 16 * len(wanted)
            if frame[:1] == b"H" or oversize or not self._right(index, wanted, frame):
                self.wrong = f"input {index} of {len(self.inputs)} is answered wrongly"
                return False
        self.answered += 1
        return True

    def _right(self, index: int, wanted: bytes, frame: bytes) -> bool:
        floats_at = self.expected.floats_at
        atol = tolerance(self.problem, after_floats=floats_at is not None and floats_at < index)
        question = Question(self.problem, self.inputs[index], decode(wanted).value, atol)
        return right(question, decode(frame))

    def by_time(self, end: str) -> bool:
        return not self.wrong and self.undecided is None and end in ("time", "killed")

    def verdict(self, end: str) -> Verdict:
        if self.wrong:
            return Verdict("fail", self.wrong)
        if end == "killed":
            return Verdict("timeout", f"stopped at input {self.answered} of {len(self.inputs)}")
        if end == "time":
            return Verdict("fail", f"input {self.answered} of {len(self.inputs)} used up its time")
        if end == "done" and self.answered == len(self.expected.frames):
            return Verdict("pass", close=self.close)
        if end == "done":
            return Verdict("fail", f"{self.answered} answers to {len(self.inputs)} inputs")
        return Verdict("fail", end)


def _said(frame: bytes) -> str:
    letter = frame[:1]
    if letter == b"D":
        return "done"
    if letter == b"T":
        return "time"
    if letter == b"X":
        return frame[HEADER:].decode("utf-8", "replace")
    return "sent bytes that are no answer"


def _may_hold_nan(frame: bytes) -> bool:
    """NaN equals nothing, itself included, so equal bytes prove nothing where there is one."""
    return frame[:1] != b"H" and (b"\xf8\x7f" in frame or b"\xf8\xff" in frame)


def _watch(
    running: Running, reader: Any, limit: Callable[[int], float], total: float, largest: int
) -> tuple[str, float, int]:
    """Read a candidate's answers until it ends, is judged, or has used up its time.

    Returns:
        How it ended ("done", "time", "killed", "stopped" or its last words), CPU seconds, peak memory in bytes.
    """
    buffer = bytearray()
    end = ""
    clock = _Clock(running)
    poll = select.poll()
    poll.register(running.fileno(), select.POLLIN)
    try:
        while not end:
            if poll.poll(TICK * 1000):
                data = os.read(running.fileno(), 1 << 18)
                if not data:
                    break
                buffer += data
                end = _absorb(frames(buffer, largest), reader, clock)
            if not end and clock.due():
                allowed = PACKING if reader.packing else limit(reader.answered)
                end = "killed" if clock.overdue(allowed, total) else ""
    except MalformedError as error:
        end = f"sent {error.what}"
    finally:
        exit_ = running.finish()
    return end or _epitaph(exit_.code), exit_.cpu, exit_.memory


def _absorb(arrived: Iterator[bytes], reader: Any, clock: _Clock) -> str:
    """Hand frames to the reader; how it ended, once the reader has seen enough."""
    answered, packing = reader.answered, reader.packing
    end = ""
    for frame in arrived:
        if not reader.take(frame):
            end = reader.end or "stopped"
            break
    fresh = reader.answered - answered
    if fresh or reader.packing != packing:
        used = clock.mark()
        if fresh and not packing:
            reader.spent(used / fresh)
    return end


def _epitaph(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return "killed" if name == "SIGXCPU" else f"its process died of {name}"
    return f"its process ended (exit code {code}) before it answered"


class _Clock:
    """Time a candidate has used since its last answer, whatever else the machine did meanwhile."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.started = self.looked = time.monotonic()
        self.cpu = 0.0
        self.mark()

    def mark(self) -> float:
        """Start anew, and say how much CPU time was used since the last start."""
        before = self.cpu
        self.marked = time.monotonic()
        self.cpu = self.running.cpu() or before
        self.queued = self.running.queued() or 0.0
        return self.cpu - before

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.looked < TICK:
            return False
        self.looked = now
        return True

    def overdue(self, limit: float, total: float) -> bool:
        now = time.monotonic()
        cpu, queued = self.running.cpu(), self.running.queued()
        if cpu is None:  # the system does not tell: wall-clock, generously
            return now - self.marked > 5 * limit + 10 or now - self.started > 5 * total
        used = cpu - self.cpu
        if used > limit + GRACE or cpu > total:
            return True
        waited = (queued or self.queued) - self.queued if queued is not None else (now - self.marked) * 0.8
        idle = now - self.marked - used - waited
        return idle > limit + GRACE
