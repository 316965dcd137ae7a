"""TensorRT-LLM: engines built for one GPU, and checkpoints through its PyTorch backend. Needs an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit.alloy.pointer import find
from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._invariants import COMMON, TEXT, whole_heads


class Driver:
    """One model through the LLM API."""

    @staticmethod
    def warm() -> None:
        import tensorrt_llm  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        from tensorrt_llm import LLM

        self.llm = LLM(**arguments(asked))
        return {}

    def describe(self) -> dict[str, str]:
        import tensorrt_llm
        import torch

        return {"engine": "tensorrt_llm", "version": tensorrt_llm.__version__, "device": torch.cuda.get_device_name()}

    def encode(self, text: str) -> list[int] | None:  # noqa: ARG002 - it was told to bring no tokenizer
        return None

    def _ask(self, ids: list[int], count: int, *, logits: bool = False) -> Any:
        from tensorrt_llm import SamplingParams

        settings = SamplingParams(max_tokens=count, top_k=1, end_id=-1, detokenize=False, return_context_logits=logits)
        return self.llm.generate(ids, settings, use_tqdm=False)

    def generate(self, ids: list[int], count: int) -> list[int]:
        return list(self._ask(ids, count).outputs[0].token_ids)

    def logits(self, ids: list[int]) -> Any:
        found = self._ask(ids, 1, logits=True).context_logits
        return None if found is None else found.float().cpu().numpy()


def arguments(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine is made with: short sequences, no tokenizer, no code of the artifact's."""
    made: dict[str, Any] = {
        "model": str(asked["path"]),
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "max_seq_len": 64,
        "max_batch_size": 1,
    }
    if not any(Path(asked["path"]).glob("*.engine")):
        made |= {"backend": "pytorch", "dtype": "auto"}
    return made


def whole_engines(form: Form) -> Iterator[Obstacle]:
    """An engine folder holds one engine per rank that it was built for."""
    if form.kind != "tensorrt":
        return
    world = find(form.config, "/pretrained_config/mapping/world_size")
    ranks = sorted(name for name in form.sizes if name.startswith("rank") and name.endswith(".engine"))
    where = f"{form.where}/config.json"
    if not isinstance(world, int):
        yield Obstacle(
            invariant="whole-engines",
            effect="refuse",
            text="the config does not say how many ranks the engine was built for",
            where=f"{where}#/pretrained_config/mapping/world_size",
            fix="publish the config.json that trtllm-build wrote",
        )
    elif ranks != sorted(f"rank{rank}.engine" for rank in range(world)):
        yield Obstacle(
            invariant="whole-engines",
            effect="refuse",
            text=f"the engine was built for {world} ranks and {len(ranks)} engines are there",
            where=where,
            fix="publish rank0.engine and all that follow",
        )
    length = find(form.config, "/build_config/max_seq_len")
    if isinstance(length, int) and length < 64:
        yield Obstacle(
            invariant="engine-limits",
            effect="refuse",
            text=f"the engine was built for {length} tokens, fewer than a probe asks for",
            where=f"{where}#/build_config/max_seq_len",
            fix="build it for longer sequences",
        )


def elsewhere() -> str:
    gpu = any(Path("/dev").glob("nvidia[0-9]*"))
    return "" if gpu else "TensorRT-LLM runs on NVIDIA GPUs only, and there is none here"


RUNTIME = Runtime(
    name="tensorrt_llm",
    title="TensorRT-LLM",
    reads=("tensorrt", "safetensors"),
    modules=("tensorrt_llm",),
    install="a Python of its own with tensorrt-llm in FORGEKIT_RUNTIME_TENSORRT_LLM_PYTHON",
    invariants=(*COMMON, *TEXT, whole_heads, whole_engines),
    driver=Driver,
    forks=False,
    elsewhere=elsewhere,
)
