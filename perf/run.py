"""Speed as ratios against named peers, measured in one run: ``python perf/run.py [plan|hash|score …] [--write]``.

Whole processes, alternating with their peer, medians. What a section needs and
does not find here (evalplus, its data set) it says, and is left out.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import forging
import runtimes
import store

HERE = Path(__file__).parent
ROOT = HERE.parent
PYTHON = sys.executable
FORGEKIT = [PYTHON, "-m", "forgekit"]
MIB = 1 << 20
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode, and so have the peers


@dataclass(frozen=True)
class Cost:
    """One finished process: wall and CPU seconds (descendants included), peak proportional memory of the tree."""

    wall: float
    cpu: float
    memory: int


def run(command: Sequence[str], *, watch: bool = False, env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end; exit codes 0 and 1 (a verdict) are both fine."""
    before = os.times()
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env) as process:
        stop = threading.Event()
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(process.pid, peak, stop), daemon=True)
        if watch:
            watcher.start()
        _, error = process.communicate()
        wall = time.perf_counter() - started
        stop.set()
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{error.decode()}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall, cpu, peak[0])


def _watch(root: int, peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(0.1):
        peak[0] = max(peak[0], sum(_memory(pid) for pid in _tree(root)))


def _tree(root: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, ())


def _memory(pid: int) -> int:
    """Proportional set size: pages shared between processes are counted once in all."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def alternate(ours: Callable[[], Cost], peer: Callable[[], Cost], runs: int) -> tuple[list[Cost], list[Cost]]:
    """Costs of both, one warm-up each, then in turn."""
    ours(), peer()
    pairs = [(ours(), peer()) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def median(costs: Sequence[Cost], of: Callable[[Cost], float] = lambda cost: cost.wall) -> float:
    return statistics.median(map(of, costs))


def row(what: str, ours: str, peer: str, ratio: str, goal: str = "") -> str:
    return f"| {what} | {ours} | {peer} | {ratio} | {goal} |"


def plan() -> Iterator[str]:
    """Cold ``forgekit plan`` of one alloy against the bare import of pydantic."""
    alloy = next((ROOT / "_cache" / "forgekit" / "ember-moe-tiny").glob("*.alloy.json"))
    ours, peer = alternate(
        lambda: run([*FORGEKIT, "plan", str(alloy)]), lambda: run([PYTHON, "-c", "import pydantic"]), 15
    )
    a, b = median(ours), median(peer)
    yield row(
        "cold `forgekit plan` of one alloy / `python -c 'import pydantic'`",
        f"{a * 1000:.0f} ms",
        f"{b * 1000:.0f} ms",
        f"{a / b:.2f}×",
    )


def hashing() -> Iterator[str]:
    """``forgekit hash`` of 2 GiB in eight files against ``sha256sum`` of the same, from the page cache."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        files = []
        for index in range(8):
            path = Path(folder, f"part-{index}.safetensors")
            with path.open("wb") as file:
                for _ in range(256):
                    file.write(os.urandom(MIB))
            files.append(str(path))
        pinned = ["taskset", "-c", str(cores[-1])]
        one, one_peer = alternate(
            lambda: run([*pinned, *FORGEKIT, "hash", *files]), lambda: run([*pinned, "sha256sum", *files]), 3
        )
        openssl = run([*pinned, "openssl", "dgst", "-sha256", *files]) if shutil.which("openssl") else None
        many, many_peer = alternate(lambda: run([*FORGEKIT, "hash", *files]), lambda: run(["sha256sum", *files]), 3)
        memory = run([*FORGEKIT, "hash", *files], watch=True).memory
    rate = 2048 / median(one), 2048 / median(one_peer)
    yield row(
        "hashing 2 GiB on one core / `sha256sum`",
        f"{rate[0]:.0f} MiB/s",
        f"{rate[1]:.0f} MiB/s",
        f"{rate[0] / rate[1]:.2f}× the rate",
        "≥ 0.95",
    )
    if openssl is not None:  # uses the processor's SHA instructions where coreutils does not
        faster = 2048 / openssl.wall
        yield row(
            "hashing 2 GiB on one core / `openssl dgst`",
            f"{rate[0]:.0f} MiB/s",
            f"{faster:.0f} MiB/s",
            f"{rate[0] / faster:.2f}× the rate",
        )
    alone = rate[0]
    rate = 2048 / median(many), 2048 / median(many_peer)
    yield row(
        f"hashing 2 GiB on {len(cores)} cores / `sha256sum`",
        f"{rate[0]:.0f} MiB/s, {memory / MIB:.0f} MiB of memory",
        f"{rate[1]:.0f} MiB/s",
        f"{rate[0] / rate[1]:.2f}× the rate",
        f"{rate[0] / alone:.2f}× its own rate on one core, of {len(cores)}",
    )


def scoring() -> Iterator[str]:
    """``forgekit score`` of a 164-problem set against evalplus's own command line, ground truth warm for both."""
    if importlib.util.find_spec("evalplus") is None:
        yield row("re-scoring", "-", "evalplus is not installed", "-")
        return
    with tempfile.TemporaryDirectory() as folder:
        given = _material(Path(folder))
        if given is None:
            yield row("re-scoring", "-", "HumanEval+ is not here: set FORGEKIT_SCORING or HUMANEVAL_OVERRIDE_PATH", "-")
            return
        samples, dataset, name = given
        env = {**os.environ, "XDG_CACHE_HOME": folder, "HUMANEVAL_OVERRIDE_PATH": str(dataset)}
        results = samples.with_name(samples.stem + "_eval_results.json")

        def official(*more: str, watch: bool = False) -> Cost:
            results.unlink(missing_ok=True)
            evaluate = [PYTHON, "-m", "evalplus.evaluate", "--dataset", "humaneval", "--samples", str(samples)]
            return run([*evaluate, *more], env=env, watch=watch)

        def ours(*, watch: bool = False) -> Cost:
            return run([*FORGEKIT, "score", str(samples), "-b", "humaneval_plus"], env=env, watch=watch)

        mine, theirs = alternate(ours, official, 3)
        memory = ours(watch=True).memory, official(watch=True).memory
        every_core = official("--parallel", str(os.cpu_count()))
        same = _same_verdicts(samples, results, env)
    wall = median(mine), median(theirs)
    cpu = median(mine, lambda cost: cost.cpu), median(theirs, lambda cost: cost.cpu)
    yield row(
        f"re-scoring {name}: wall / evalplus 0.3.1",
        *(f"{s:.1f} s" for s in wall),
        f"{wall[1] / wall[0]:.1f}× less",
        "≥ 5",
    )
    yield row(
        f"re-scoring {name}: wall / evalplus 0.3.1 with `--parallel {os.cpu_count()}`",
        f"{wall[0]:.1f} s",
        f"{every_core.wall:.1f} s",
        f"{every_core.wall / wall[0]:.1f}× less",
    )
    yield row(f"re-scoring {name}: CPU", *(f"{s:.1f} s" for s in cpu), f"{cpu[1] / cpu[0]:.1f}× less")
    mib = [m / MIB for m in memory]
    yield row(
        f"re-scoring {name}: peak memory, all processes",
        *(f"{m:.0f} MiB" for m in mib),
        f"{mib[1] / mib[0]:.1f}× less",
        "≤ 300 MB",
    )
    yield row(f"re-scoring {name}: problems with the same base and plus verdicts", same, "", "")


def _material(folder: Path) -> tuple[Path, Path, str] | None:
    """(samples, data set, name): a real sample set where FORGEKIT_SCORING has one, else the canonical solutions."""
    from forgekit.benchmarks._evalplus import HUMANEVAL, load
    from forgekit.errors import SamplesError

    shared = os.environ.get("FORGEKIT_SCORING")
    packed = Path(shared, "data", "HumanEvalPlus-v0.1.10.jsonl.gz") if shared else None
    try:
        found = load(HUMANEVAL, file=packed, offline=False)
    except SamplesError:
        return None
    dataset = folder / "dataset.jsonl"
    dataset.write_bytes(b"".join(problem.line + b"\n" for problem in found.problems.values()))
    samples = folder / "samples.jsonl"
    case = Path(shared, "cases", "Llama-3.1-8B-Instruct", "samples.jsonl") if shared else None
    if case is not None and case.is_file():
        samples.write_bytes(case.read_bytes())
        return samples, dataset, "164 samples of a published model"
    rows = ({"task_id": p.task_id, "solution": p.canonical} for p in found.problems.values())
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return samples, dataset, "the 164 canonical solutions"


def _same_verdicts(samples: Path, results: Path, env: dict[str, str]) -> str:
    command = [*FORGEKIT, "score", str(samples), "-b", "humaneval_plus", "--json"]
    done = subprocess.run(command, capture_output=True, env=env, check=False)
    ours = json.loads(done.stdout)["scores"]["evalplus-0.3.1"]["tasks"]
    theirs = json.loads(results.read_bytes())["eval"]
    same = sum(
        (rows[0]["base_status"], rows[0]["plus_status"]) == (ours[task][0]["base"], ours[task][0]["plus"])
        for task, rows in theirs.items()
    )
    return f"{same} of {len(theirs)}"


SECTIONS = {
    "plan": plan,
    "hash": hashing,
    "score": scoring,
    "prune": forging.prune,
    "profile": forging.profile,
    "probe": runtimes.probe,
    "preflight": runtimes.preflight,
    "store": store.store,
}
HEAD = "| what / peer | forgekit | peer | ratio | goal or note |\n| --- | --- | --- | --- | --- |"


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, {memory:.0f} GiB, Linux, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    parser.add_argument("--write", action="store_true", help="put the table on top of RESULTS.md")
    asked = parser.parse_args()
    lines = [f"## {dt.datetime.now(tz=dt.UTC).date()}: {machine()}", "", HEAD]
    print("\n".join(lines), flush=True)
    for name in asked.sections or SECTIONS:
        for line in SECTIONS[name]():
            lines.append(line)
            print(line, flush=True)
    if asked.write:
        path = HERE / "RESULTS.md"
        title, _, older = path.read_text().partition("\n\n")
        path.write_text(f"{title}\n\n" + "\n".join(lines) + (f"\n\n{older}" if older else "\n"))


if __name__ == "__main__":
    main()
