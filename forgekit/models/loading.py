"""A checkpoint loaded with stock transformers, and what the loader said about it."""

from __future__ import annotations

import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError, MachineError
from forgekit.families import Family, Towers
from forgekit.models.strategy import Strategy, choose, memory, quantisable_bytes

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        whole: the model as its class loads it.
        text: the part of it that takes ``input_ids`` and gives ``logits``.
        strategy: how it was loaded.
        faults: keys the loader found missing, unexpected or mismatched; empty for a sound checkpoint.
    """

    whole: Any
    text: Any
    family: Family
    strategy: Strategy
    faults: Mapping[str, tuple[str, ...]]

    def require_sound(self, where: Path) -> Loaded:
        """This model, if every tensor went where it belongs.

        Raises:
            CheckpointError: naming the tensors.
        """
        if self.faults:
            said = "; ".join(f"{kind}: {', '.join(names[:3])}" for kind, names in self.faults.items())
            raise CheckpointError(f"transformers loads the checkpoint with {said}", where=str(where))
        return self

    def modules(self, suffix: str) -> dict[int, tuple[str, nn.Module]]:
        """The module at ``suffix`` of each decoder layer, with its name in ``text``, by layer."""
        return find(self.text, self.family, suffix)


def need(*libraries: str) -> None:
    """Say plainly which libraries are missing, before anything is begun.

    Raises:
        MachineError: one of them is not installed.
    """
    import importlib.util

    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise MachineError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed",
            hint='pip install torch, then pip install "forgekit[forge]"',
        )


def load(
    folder: Path,
    family: Family,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    strategy: Strategy | None = None,
    attention: str | None = None,
    experts: str | None = None,
    four_bit: str = "nf4",
) -> Loaded:
    """Load a checkpoint with the class its config names. Remote code is never run, pickles are never read.

    Args:
        dtype: of the arithmetic; float32 on a processor and the checkpoint's own on a GPU where None.
        strategy: how to load; chosen from sizes where None.
        attention: implementation, as transformers names it.
        experts: implementation, as transformers names it.
        four_bit: kind of 4-bit number, ``nf4`` or ``fp4``.

    Raises:
        MachineError: a library or device is missing.
        CheckpointError: transformers cannot load it.
    """
    need("torch", "transformers")
    import torch
    import transformers

    checkpoint = open_folder(folder)
    scratch = ""
    if strategy is None:
        strategy = choose(checkpoint.total, memory(device), quantisable=quantisable_bytes(checkpoint))
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype or ("float32" if strategy.device == "cpu" else "bfloat16"))
    }
    if attention:
        options["attn_implementation"] = attention
    if strategy.kind in ("4-bit", "8-bit"):
        need("bitsandbytes", "accelerate")
        precise = (
            {"bnb_4bit_quant_type": four_bit, "bnb_4bit_use_double_quant": True} if strategy.kind == "4-bit" else {}
        )
        if precise:
            precise["bnb_4bit_compute_dtype"] = options["dtype"]
        options["quantization_config"] = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=strategy.kind == "4-bit", load_in_8bit=strategy.kind == "8-bit", **precise
        )
        options["device_map"] = "auto" if strategy.device == "cuda" else {"": "cpu"}
    elif strategy.kind != "full":
        need("accelerate")
        on_device, on_host = strategy.budget or (0, 0)
        options["device_map"] = "auto"
        options["max_memory"] = ({0: on_device} if on_device else {}) | {"cpu": on_host}
        scratch = tempfile.mkdtemp(prefix="forgekit-offload-")
        options["offload_folder"] = scratch
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        kind = model_class(config)
        # Qwen2.5-Omni's own from_pretrained unpickles voices and loses the loader's report; the base class's does not
        plain = transformers.PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
        whole, said = plain(
            kind,
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"transformers cannot load the checkpoint: {first}", where=str(folder)) from error
    if strategy.kind == "full" and getattr(whole, "hf_quantizer", None) is None:  # packed weights cannot be cast
        whole = whole.to(device=strategy.device, dtype=options["dtype"])
    if experts and hasattr(whole, "set_experts_implementation"):
        whole.set_experts_implementation(experts)
    whole.eval()
    faults = {
        kind_: tuple(sorted(map(_name, found)))
        for kind_, found in (
            (kind_, said.get(kind_) or ()) for kind_ in ("missing_keys", "unexpected_keys", "mismatched_keys")
        )
        if found
    }
    if scratch:
        weakref.finalize(whole, shutil.rmtree, scratch, ignore_errors=True)
    text = getattr(whole, family.text_module) if family.text_module else whole
    return Loaded(whole=whole, text=text, family=family, strategy=strategy, faults=faults)


def model_class(config: Any) -> Any:
    """The transformers class of a config: the one it names, else the one registered for its type.

    Raises:
        CheckpointError: transformers has none.
    """
    import transformers

    named = (config.architectures or [""])[0]
    found = getattr(transformers, named, None)
    if found is not None and hasattr(found, "from_pretrained"):
        return found
    for auto in (transformers.AutoModelForImageTextToText, transformers.AutoModelForCausalLM):
        found = auto._model_mapping.get(type(config), None)  # noqa: SLF001 - the only table there is
        if found is not None:
            return found
    raise CheckpointError(f"transformers {transformers.__version__} has no model class {named!r}")


def find(model: Any, family: Family, suffix: str) -> dict[int, tuple[str, nn.Module]]:
    """The module at ``suffix`` of each decoder layer, by layer; towers beside the text model are passed over."""
    towers = family.fact(Towers)
    apart = {prefix.rstrip(".").rpartition(".")[2] for prefix in towers.untouchable} if towers else set()
    wanted = re.compile(rf"(?:^|\.)layers\.(\d+){re.escape('.' + suffix if suffix else '')}\Z")
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules():
        match = wanted.search(name)
        if match and apart.isdisjoint(name.split(".")):
            found[int(match[1])] = (name, module)
    return dict(sorted(found.items()))


def tokenizer(folder: Path) -> Any:
    """The tokenizer beside the weights.

    Raises:
        CheckpointError: there is none that can be read.
    """
    need("transformers")
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"the tokenizer cannot be read: {first}", where=str(folder)) from error


def _name(found: Any) -> str:
    return str(found[0] if isinstance(found, tuple) else found)
