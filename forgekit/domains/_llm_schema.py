"""What an alloy of a language model holds beside the core document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from forgekit.alloy.node import Node, Number, Whole
from forgekit.alloy.schema import Results
from forgekit.domains._acceptance import AcceptanceCriteria

Real = Annotated[float, Number()]
Positive = Annotated[float, Number(ge=0)]
Count = Annotated[int, Whole(ge=0)]

RuntimeName = Literal["transformers", "vllm", "llama_cpp", "mlx", "tensorrt_llm", "coreml", "triton"]


class AlloySource(Node):
    """The model that was forged from."""

    base_model: str
    architecture: str
    revision: str | None = None
    is_moe: bool = Field(default=False, alias="isMoE")
    total_experts: Count | None = None
    total_params_b: Positive | None = None  # billions
    active_params_b: Positive | None = None  # billions used per token
    num_layers: Count | None = None
    num_experts_per_layer: Count | None = None
    num_activated_experts: Count | None = None
    context_length: Count | None = None
    license: str | None = None


class AlloyTarget(Node):
    """What the forging is for."""

    context_length: Count | None = None
    modalities: list[str] | None = None
    domain: str | None = None
    prune_ratio: Annotated[float, Number(ge=0, le=1)] | None = None
    experts: Count | None = None
    output_formats: list[str] | None = None
    quant_types: list[str] | None = None
    target_devices: list[str] | None = None
    deploy_to: str | None = None
    benchmarks: list[str] | None = None
    publish: bool | None = None
    runtimes: list[RuntimeName] | None = None


class AlloyHardware(Node):
    """What forging, and running, needs. Sizes in GB of 10**9 bytes."""

    min_vram_gb: Positive | None = None
    recommended_vram_gb: Positive | None = None
    estimated_duration_minutes: Positive | None = None
    supports_cpu: bool = Field(default=False, alias="supportsCPU")
    tested_on: list[str] = []
    device_targets: list[str] = []


class OutputArtifact(Node):
    """One thing the recipe promises to make."""

    type: str
    description: str = ""


class AlloyOutputs(Node):
    """Everything the recipe promises to make."""

    produces: list[OutputArtifact] = []


class SearchStrategy(Node):
    """How a recipe with open parameters looks for their values."""

    method: Literal["manual", "binary", "ransac", "bayesian", "exhaustive", "adaptive"] = "manual"
    quick_eval_chunks: Annotated[int, Whole(ge=1, le=50)] = 10
    max_candidates: Annotated[int, Whole(ge=1, le=20)] = 5
    confidence_threshold: Annotated[float, Number(ge=0.5, le=0.999)] = 0.95
    try_compensation_lora: bool = False
    lora_steps_if_needed: Annotated[int, Whole(ge=100, le=5000)] = 500
    coverage_threshold: Annotated[float, Number(ge=0.5, le=0.99)] = 0.85
    notes: str | None = None


class BenchmarkResult(Node):
    """One published score. Scores are percentages, ``delta`` percentage points."""

    name: str
    subset: str | None = None
    metric: str | None = None
    score: Real | None = None
    base_score: Real | None = None
    delta: Real | None = None
    calibrated: bool | None = None
    samples_path: str | None = None
    base_samples_path: str | None = None
    result_hash: str | None = None
    base_result_hash: str | None = None
    metrics: dict[str, Real | str | bool | None] = {}
    submitted_to_leaderboard: bool = False


class HardwareProfile(Node):
    """One machine the artifact was measured on."""

    device: str
    format: str | None = None
    vram_gb: Positive | None = None
    size_gb: Positive | None = None
    tokens_per_sec: Positive | None = None
    memory_usage_gb: Positive | None = None
    verified: bool = False


class GenerationSample(Node):
    """One prompt and what the model made of it."""

    label: str
    prompt: str
    completion: str
    baseline_completion: str | None = None


class LlmResults(Results):
    """Measured results."""

    duration_minutes: Positive | None = None
    baseline_perplexity: Positive | None = None
    final_perplexity: Positive | None = None
    improvement_pct: Real | None = None
    final_size_gb: Positive | None = None
    final_params: str | None = None
    forged_params_b: Positive | None = None
    active_params_b: Positive | None = None
    benchmarks: list[BenchmarkResult] = []
    hardware_verified: list[HardwareProfile] = []
    samples: list[GenerationSample] = []


class CalibrationCorpusRef(Node):
    """A corpus by path and content, as published alloys reference it."""

    id: str
    path: str
    name: str | None = None
    sha256: str | None = None
    examples: Count | None = None
    tokens: Count | None = None
    distribution_summary: str | None = None


class CorpusRef(Node):
    """A corpus pinned by a recipe; ``content_hash`` is ``sha256:<hex>``."""

    name: str
    content_hash: str
    size_bytes: Count | None = Field(default=None, alias="size_bytes")
    source_url: str | None = None


class QuantTier(Node):
    """Quantised variants that a recipe promises, for a set of devices."""

    format: str
    variants: list[str]
    target_devices: list[str] = []


class PriorMetricBaseline(Node):
    """An earlier measurement this one is compared against, pinned in the recipe."""

    id: str | None = None
    name: str | None = None
    metric: str | dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    prune: dict[str, Any] | None = None
    results: dict[str, Any] | None = None
    samples_path: str | None = None
    outcome: Literal["shipped", "negative_baseline", "superseded"] | None = None
    superseded_by: str | None = None
    methodology_anchor: str | None = None
    value: Real | None = None
    source: str | None = None
    measured_at: str | None = None
    measurement_method: str | None = None
    notes: str | None = None


class LlmRoot(Node):
    """The root fields of the domain."""

    source: AlloySource
    target: AlloyTarget | None = None
    hardware: AlloyHardware | None = None
    outputs: AlloyOutputs | None = None
    search: SearchStrategy | None = None
    results: LlmResults | None = None
    calibration_corpora: list[CalibrationCorpusRef] = []
    calibration_corpus: CorpusRef | None = None
    prior_metric_baselines: list[PriorMetricBaseline] = []
    quant_tiers: list[QuantTier] = []
    acceptance_criteria: AcceptanceCriteria | None = None
    forged_params_b: Positive | None = None
    active_params_b: Positive | None = None
    hardware_verified: list[HardwareProfile] = []
