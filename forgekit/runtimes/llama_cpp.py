"""llama.cpp, through the C interface that llama-cpp-python binds.

The high-level class of those bindings renders the model's chat template when
it is made, and cannot switch off the weight repacking that crashes on some
AMX machines; so the C functions are called here.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from forgekit.errors import CheckpointError, MachineError
from forgekit.forms import TOKENIZER, Form, folder_forms
from forgekit.runtimes import LACKS, Ask, Obstacle, Runtime
from forgekit.runtimes._blocks import BlockCheck
from forgekit.runtimes._invariants import COMMON, TEXT, gguf_rows, square_heads, unfused_names, whole_heads


class Driver:
    """One GGUF file in one context."""

    @staticmethod
    def warm() -> None:
        import llama_cpp

        llama_cpp.llama_backend_init()

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import ctypes

        import llama_cpp

        llama_cpp.llama_backend_init()
        self.path, self.device = str(asked["path"]), asked["device"]
        self.blocks = _blocks(Path(self.path))
        self.model = self._open(checked=self.blocks is None)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 256
        settings.n_threads = settings.n_threads_batch = asked["threads"]
        settings.type_k = settings.type_v = 0  # F32
        settings.flash_attn_type = 0
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context for the model")
        self.words = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(self.words)
        text = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self.model, text, 256)
        return {"description": text.value.decode("utf-8", "replace")}

    def _open(self, *, checked: bool) -> Any:
        """The model.

        Args:
            checked: llama.cpp looks for what is no number in all of it first, and everything else waits.

        Raises:
            RuntimeError: llama.cpp does not load it.
        """
        import llama_cpp

        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = -1 if self.device == "cuda" else 0
        params.check_tensors = checked
        if hasattr(params, "use_extra_bufts"):
            params.use_extra_bufts = False  # AMX repacking ends in SIGILL where tiles are not permitted
        model = llama_cpp.llama_model_load_from_file(self.path.encode(), params)
        if not model:
            raise RuntimeError("llama.cpp does not load the file")
        return model

    def check(self) -> None:
        """Raises RuntimeError: a tensor holds what is no number."""
        wrong = self.blocks.result() if self.blocks is not None else ""
        if wrong is None:  # llama.cpp can walk what we cannot
            self._open(checked=True)
        if wrong:
            raise RuntimeError(f"{wrong} holds NaN, infinity or a block that cannot be")

    def describe(self) -> dict[str, str]:
        import llama_cpp

        return {"engine": "llama-cpp-python", "version": llama_cpp.__version__, "device": self.device}

    def encode(self, text: str) -> list[int] | None:
        import llama_cpp

        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.words, data, len(data), room, len(room), False, False)  # noqa: FBT003
        return list(room[:count]) if count > 0 else None

    def generate(self, ids: list[int], count: int) -> list[int]:
        self._forget()
        made = [int(self._run(ids, 0, last=True)[0].argmax())]
        while len(made) < count:
            made.append(int(self._run(made[-1:], len(ids) + len(made) - 1)[0].argmax()))
        return made

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        self._forget()
        return np.stack(self._run(ids, 0))

    def _forget(self) -> None:
        import llama_cpp

        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)  # noqa: FBT003

    def _run(self, ids: list[int], start: int, *, last: bool = False) -> list[Any]:
        """Logits float32[vocabulary] after each of ``ids`` or the last, which stand from position ``start``."""
        import llama_cpp
        import numpy as np

        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for index, token in enumerate(ids):
                batch.token[index] = token
                batch.pos[index] = start + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = 0
                batch.logits[index] = int(not last or index == len(ids) - 1)
            status = llama_cpp.llama_decode(self.context, batch)
            if status:
                raise RuntimeError(f"llama_decode gave {status}")
            asked = [index for index in range(len(ids)) if batch.logits[index]]
            rows = [llama_cpp.llama_get_logits_ith(self.context, index) for index in asked]
            return [np.ctypeslib.as_array(row, shape=(self.vocabulary,)).copy() for row in rows]
        finally:
            llama_cpp.llama_batch_free(batch)


def _blocks(file: Path) -> BlockCheck | None:
    """None where this build keeps its check to itself: llama.cpp checks while it loads then."""
    import llama_cpp

    library = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
    try:
        return BlockCheck(library, file)
    except (OSError, AttributeError):
        return None


@cache
def converted_architectures() -> frozenset[str]:
    """Class names the converter on this machine knows, read from its source; empty where it is not here."""
    from forgekit.models.llama_cpp import sources

    try:
        text = (sources() / "conversion" / "__init__.py").read_text("utf-8")
    except (MachineError, OSError):
        return frozenset()
    table = text.split("TEXT_MODEL_MAP", 1)[-1].split("}", 1)[0]
    return frozenset(re.findall(r'"(\w+)"\s*:', table))


def converter_knows(form: Form) -> Iterator[Obstacle]:
    """A checkpoint has to be converted, and the converter goes by the class name."""
    known = converted_architectures()
    named = form.architectures[:1]
    if form.kind != "safetensors" or not known or not named or named[0] in known:
        return
    alike = next((name for name in known if name.lower() == named[0].lower()), "")
    yield Obstacle(
        invariant="known-architecture",
        effect="refuse",
        text=f"llama.cpp's converter does not know {named[0]!r}",
        where="config.json#/architectures/0",
        fix=f"it is spelt {alike!r} there" if alike else "publish for another runtime",
    )


def converter_needs(form: Form) -> Iterator[Obstacle]:
    """Keys without which the converter stops, or without which it guesses."""
    if form.kind != "safetensors":
        return
    config, where = form.config, f"{form.where}/config.json"
    scaling = config.get("rope_scaling")
    if form.model_type == "phimoe" and not (
        isinstance(scaling, Mapping) and "original_max_position_embeddings" in {*scaling, *config}
    ):
        yield Obstacle(
            invariant="stated-fields",
            effect="refuse",
            text="the converter wants rope_scaling with original_max_position_embeddings of a Phi-MoE",
            where=f"{where}#/rope_scaling",
            fix="keep the long-context scaling of the base's config",
        )
    if form.model_type == "deepseek_v3" and "scoring_func" not in config:
        yield Obstacle(
            invariant="stated-gating",
            effect="wrong",
            text="the config does not state scoring_func, and llama.cpp then gates by softmax: wrong tokens, silently",
            where=f"{where}#/scoring_func",
            fix='state "scoring_func": "sigmoid", as the base does',
        )


def grouped_routing(form: Form) -> Iterator[Obstacle]:
    """DeepSeek-V2 ranks groups of experts by their best, DeepSeek-V3 by their best two; llama.cpp has the second."""
    config = form.config
    groups, used = config.get("n_group"), config.get("topk_group")
    if (
        form.model_type == "deepseek_v2"
        and form.kind == "safetensors"
        and config.get("topk_method") == "group_limited_greedy"
        and isinstance(groups, int)
        and isinstance(used, int)
        and used < groups
    ):
        yield Obstacle(
            invariant="grouped-routing",
            effect="wrong",
            text=f"{used} of {groups} expert groups are used, ranked as DeepSeek-V2 does; llama.cpp ranks them "
            "otherwise, and other experts answer, silently",
            where=f"{form.where}/config.json#/topk_method",
            fix="publish for another runtime",
        )


def hub_experts(form: Form) -> Iterator[Obstacle]:
    """Fused experts of Qwen3-VL-MoE are stored transposed on the Hub, and the converter goes by that."""
    if form.model_type != "qwen3_vl_moe" or form.kind != "safetensors":
        return
    hidden = form.text_config.get("hidden_size")
    for name, placed in form.checkpoint.tensors.items():
        if name.endswith("experts.gate_up_proj") and placed.tensor.shape[1] != hidden:
            yield Obstacle(
                invariant="hub-layout",
                effect="refuse",
                text=f"{name} is {list(placed.tensor.shape)}, as transformers saves it; the converter takes the Hub's "
                f"[experts, {hidden}, …] for granted",
                where=name,
                fix="store the experts in the layout of the base",
            )
            return


def whole_norms(form: Form) -> Iterator[Obstacle]:
    """OLMoE normalises keys over all heads, and llama.cpp takes their width for that of the queries."""
    inner = form.text_config
    heads, kv_heads = inner.get("num_attention_heads"), inner.get("num_key_value_heads")
    if form.model_type == "olmoe" and kv_heads is not None and heads != kv_heads and form.kind == "safetensors":
        yield Obstacle(
            invariant="whole-norms",
            effect="refuse",
            text=f"llama.cpp loads OLMoE with as many key heads as query heads, and there are {kv_heads} and {heads}",
            where=f"{form.where}/config.json#/num_key_value_heads",
            fix="publish for another runtime",
        )


def deepstack_depth(form: Form) -> Iterator[Obstacle]:
    """Qwen3-VL adds what it sees after its first layers; llama.cpp drops all rows but the last one in its last."""
    if form.kind == "gguf":
        stated = {key.rpartition(".")[2]: value for key, value in form.header.metadata.items()}
        layers, levels = stated.get("block_count"), stated.get("n_deepstack_layers")
    else:
        vision = form.config.get("vision_config")
        indexes = vision.get("deepstack_visual_indexes") if isinstance(vision, Mapping) else None
        layers, levels = form.text_config.get("num_hidden_layers"), len(indexes) if isinstance(indexes, list) else 0
    if isinstance(layers, int) and isinstance(levels, int) and 0 < layers <= levels:
        yield Obstacle(
            invariant="deepstack-depth",
            effect="refuse",
            text=f"the text model has {layers} layers and takes {levels} levels of vision in: llama.cpp aborts where "
            "only the last token's logits are asked for, as every generation does",
            where=form.where,
            fix="keep more layers than the vision tower has deepstack levels",
        )


def known_pre_tokenizer(form: Form) -> Iterator[Obstacle]:
    """The converter must know how the tokenizer splits text: by its recipe, its pattern, or a hash it has listed."""
    from forgekit.models.llama_cpp import likely_pre_tokenizer

    if form.kind != "safetensors" or form.pre_tokenizer:
        return
    text = form.text(TOKENIZER)
    if not text or '"BPE"' not in text or likely_pre_tokenizer(text):
        return
    found, listed = _vocabulary_hash(text), _spellings()[1]
    if found and listed and found not in listed:
        yield Obstacle(
            invariant="stated-pre-tokenizer",
            effect="refuse",
            text=f"the converter lists no tokenizer of hash {found[:16]}, and its pattern is unknown too",
            where=f"{form.where}/{TOKENIZER}#/pre_tokenizer",
            fix="state preTokenizer in the quant stage",
        )


HASH = """\
import hashlib, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from tokenizers import Tokenizer
text = sys.stdin.read()
ids = Tokenizer.from_file(sys.argv[1]).encode(text).ids
print(hashlib.sha256(str(ids).encode()).hexdigest())
"""


def _vocabulary_hash(text: str) -> str:
    """What the converter would compute of a ``tokenizer.json``; empty where that cannot be done here.

    In a process of its own, for a tokenizer is somebody's text and holds regular expressions.
    """
    from forgekit.models.llama_cpp import sources

    try:
        tree = ast.parse((sources() / "conversion" / "base.py").read_text("utf-8"))
    except (MachineError, OSError, SyntaxError):
        return ""
    asked = next(
        (
            node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "chktxt"
            and isinstance(node.value, ast.Constant)
        ),
        None,
    )
    if not isinstance(asked, str):
        return ""
    with tempfile.TemporaryDirectory(prefix="forgekit-") as folder:
        file = Path(folder) / TOKENIZER
        file.write_text(text, "utf-8")
        try:
            ran = subprocess.run(  # noqa: S603 - this interpreter, a script of ours
                [sys.executable, "-P", "-s", "-c", HASH, str(file)],
                input=asked.encode(),
                capture_output=True,
                check=False,
                timeout=20,
            )
        except subprocess.TimeoutExpired:
            return ""
    return ran.stdout.decode("ascii", "replace").strip() if ran.returncode == 0 else ""


@cache
def _spellings() -> tuple[frozenset[str], frozenset[str]]:
    """(architecture strings of GGUF, hashes of vocabularies) that llama.cpp's sources list; empty without them."""
    from forgekit.models.llama_cpp import sources

    try:
        folder = sources()
        names = (folder / "gguf-py" / "gguf" / "constants.py").read_text("utf-8")
        hashes = (folder / "conversion" / "base.py").read_text("utf-8")
    except (MachineError, OSError):
        return frozenset(), frozenset()
    table = names.split("MODEL_ARCH_NAMES", 1)[-1].split("\n}", 1)[0]
    return frozenset(re.findall(r':\s*"([\w.-]+)"', table)), frozenset(
        re.findall(r'chkhsh == "([0-9a-f]{64})"', hashes)
    )


def known_gguf(form: Form) -> Iterator[Obstacle]:
    """A GGUF file names an architecture llama.cpp has, and how its text is split before merging."""
    if form.kind != "gguf":
        return
    metadata = form.header.metadata
    name, known = metadata.get("general.architecture"), _spellings()[0]
    if known and name not in known:
        yield Obstacle(
            invariant="known-architecture",
            effect="refuse",
            text=f"llama.cpp knows no architecture {name!r}",
            where=f"{form.where}#general.architecture",
            fix="convert with llama.cpp's own converter",
        )
    if metadata.get("tokenizer.ggml.model") == "gpt2" and not metadata.get("tokenizer.ggml.pre"):
        yield Obstacle(
            invariant="stated-pre-tokenizer",
            effect="wrong",
            text="the file does not say how text is split before merging, and llama.cpp then guesses",
            where=f"{form.where}#tokenizer.ggml.pre",
            fix="convert again, naming the pre-tokenizer",
        )


class Converter:
    """llama.cpp's converter, in a process as confined as an engine's: it reads somebody's tokenizer and weights."""

    @staticmethod
    def warm() -> None:
        import torch  # noqa: F401
        import transformers  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        from forgekit.models.llama_cpp import CONVERT

        sys.argv = ["convert", *asked["arguments"], "--outfile", str(Path(asked["scratch"], MADE))]
        exec(CONVERT, {"__name__": "__main__"})  # noqa: S102 - our own few lines around llama.cpp's
        return {}

    def describe(self) -> dict[str, str]:
        return {"engine": "convert_hf_to_gguf"}


MADE = "model-f32.gguf"
CONVERTER = Runtime(
    name="llama_cpp_converter",
    title="llama.cpp's converter",
    reads=("safetensors",),
    modules=("torch", "transformers"),
    install='pip install "forgekit[runtimes]"',
    driver=Converter,  # type: ignore[arg-type]
    interpreter="llama_cpp",
)


def make(form: Form, folder: Path, ask: Ask) -> Form:
    """The checkpoint as GGUF in float32, by llama.cpp's own converter.

    In float32 because llama.cpp rounds activations to the type of the weights they meet: in a 16-bit file a
    difference from the reference can be the rounding or the mapping of the tensors, and here it is the mapping.

    Raises:
        MachineError: the converter or torch is missing.
        CheckpointError: the converter refuses the model.
    """
    from forgekit.models.llama_cpp import conversion

    assert form.path is not None
    arguments = conversion(form.path.resolve(), "f32", name="model", pre_tokenizer=form.pre_tokenizer or None)
    answer = ask(CONVERTER, {"arguments": arguments})
    if answer.outcome in ("missing", "memory", "time") or answer.said.startswith(LACKS):
        raise MachineError(f"{CONVERTER.title}: {answer.said}")
    if answer.outcome != "answered":
        raise CheckpointError(f"{CONVERTER.title} fails: {answer.said}", where=form.where)
    target = folder / MADE
    shutil.move(Path(answer.found["scratch"], MADE), target)
    return next(made for made in folder_forms(target) if made.kind == "gguf")


RUNTIME = Runtime(
    name="llama_cpp",
    title="llama.cpp",
    reads=("gguf",),
    modules=("llama_cpp",),
    install='pip install "forgekit[runtimes]" (llama-cpp-python compiles for about ten minutes)',
    invariants=(
        *COMMON,
        *TEXT,
        converter_knows,
        converter_needs,
        known_pre_tokenizer,
        grouped_routing,
        hub_experts,
        whole_norms,
        deepstack_depth,
        whole_heads,
        square_heads("llama_cpp"),
        unfused_names("llama_cpp", "qwen3_moe"),
        known_gguf,
        gguf_rows,
    ),
    driver=Driver,
    makes=make,
)
