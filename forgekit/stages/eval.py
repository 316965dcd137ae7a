"""Score the model on benchmarks: samples it writes here, or samples the recipe brings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from forgekit.alloy.node import Node, Number, Whole
from forgekit.benchmarks import Benchmark, ScoreSettings, Scoring, find_benchmark
from forgekit.checkpoint.writing import write_bytes
from forgekit.digest import sha256
from forgekit.errors import SamplesError
from forgekit.figures import show
from forgekit.stages import Count, Given, Outcome, Stage, StageParams, Work


class BenchmarkDef(Node):
    """One benchmark to run."""

    name: str
    subset: str | None = None
    n_shot: Annotated[int, Whole(ge=0)] | None = None
    submit_to_leaderboard: bool = False
    samples_path: str | None = None
    base_samples_path: str | None = None
    calibration_anchor: dict[str, Any] | None = None
    notes: str | None = None


class Params(StageParams):
    benchmarks: list[BenchmarkDef]
    passing_threshold: Annotated[float, Number()] | None = None
    compare_to_base: bool = True
    calibration_anchor: dict[str, Any] | None = None
    max_new_tokens: Count = 512


def problems(given: Given) -> Iterator[str]:
    for definition in given.params.benchmarks:
        if definition.n_shot:
            yield f"{definition.name} asks for nShot {definition.n_shot}; problems are asked as they stand"
        if definition.subset is not None:
            yield f"{definition.name} asks for subset {definition.subset!r}; benchmarks are scored whole"
        found = find_benchmark(definition.name)
        if found is not None and found.prompts is None and definition.samples_path is None:
            yield f"{definition.name} has no prompts to ask with: give samplesPath"


def run(work: Work) -> Outcome:
    """Write a sample per problem, greedily, and score them; samples the recipe brings are scored as they are.

    Raises:
        SamplesError: the data set, the samples or a package are missing.
        SandboxError: code cannot be isolated here.
    """
    params: Params = work.params
    model: Any = None
    rows = []
    for definition in params.benchmarks:
        benchmark = find_benchmark(definition.name)
        if benchmark is None:
            raise SamplesError(f"no benchmark is named {definition.name!r}")
        path = definition.samples_path or f"eval/{benchmark.name}/samples.jsonl"
        if definition.samples_path:
            data = work.corpus(definition.samples_path).read_bytes()
        else:
            model = model or _loaded(work)
            data = _samples(work, model, benchmark)
        (work.out / path).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(work.out / path, data)
        scoring = benchmark.score(data, ScoreSettings(offline=True))
        if scoring.problems:
            raise SamplesError(f"the samples cannot be scored: {scoring.problems[0]}", where=path)
        rows.append(_row(benchmark, scoring, path, data))
    below = [
        row["name"] for row in rows if params.passing_threshold is not None and row["score"] < params.passing_threshold
    ]
    return Outcome(weights=False, notes={"benchmarks": rows, "belowThreshold": below})


def _row(benchmark: Benchmark, scoring: Scoring, path: str, data: bytes) -> dict[str, Any]:
    score = scoring.scores[benchmark.oracles[0]]
    return {
        "name": benchmark.name,
        "metric": benchmark.metric,
        "score": float(show(score.rate * 100, 1)),
        "samplesPath": path,
        "resultHash": str(sha256(data)),
        "oracle": score.oracle,
        "passed": score.passed,
        "total": score.total,
    }


def _loaded(work: Work) -> Any:
    from forgekit.models.loading import load

    return load(work.source, work.family, device=work.device).require_sound(work.source)


def _samples(work: Work, model: Any, benchmark: Benchmark) -> bytes:
    """One greedy completion per problem, as JSON lines."""
    from forgekit.models.generating import complete
    from forgekit.models.loading import tokenizer

    assert benchmark.prompts is not None
    prompts: Mapping[str, str] = benchmark.prompts(ScoreSettings(offline=True))
    words = tokenizer(work.source)
    lines = []
    for number, (task, prompt) in enumerate(prompts.items(), 1):
        text = complete(model, words, prompt, work.params.max_new_tokens)
        lines.append(json.dumps({"task_id": task, "completion": text}) + "\n")
        work.progress(number, len(prompts))
    return "".join(lines).encode()


def names(params: Params) -> Iterator[tuple[str, str]]:
    for benchmark in params.benchmarks:
        yield "benchmark", benchmark.name


STAGE = Stage(
    name="eval",
    params=Params,
    purpose="measure",
    repeats=False,
    produces=frozenset({"scores"}),
    reproducibility="statistical",
    problems=problems,
    names=names,
    run=run,
)
