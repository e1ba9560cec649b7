# make demo                convert, run and verify the trained example
# make test                lint, types and tests, in some minutes
# make test-slow           the tests of whole programs, of every page's snippets, of clusters
# make quick               the tests that a change most likely breaks, in under a minute
# make docs                the site of docs/: site/, of its own files alone
# make mutate              small faults in the core rooms, one at a time: which does no test notice?
# make wheels              the wheel of every platform, built on this one and checked: dist/
# make test-native-oldest  the native kernel on the oldest ONNX Runtime that is supported
# make honest              the checker on 300 random models that are right, of which test takes 20
# make soak                ten minutes of all that servers are asked, honest and hostile, at once
# make fuzz                10,000 damaged and hostile files: what gets through?
# make test-cuda-stub      what the CUDA provider does with exported files, counted without a GPU
# make launches            count it anew: tests/cuda_stub/launches.json, docs/gpu.md, tools/placement/measured.json
# make test-kernels        the kernels for GPUs in Triton's interpreter
# make kernels             compile them for every architecture, without a GPU, and build them in
# make test-gpu            the CUDA provider's numbers, captured and not; needs a GPU
# make tune                which of its kernels are faster on this GPU: bnlstm_deploy/native/cuda/tuned.json
# make test-triton         exported files on a real tritonserver
# make clean               remove the environments and the demo's files

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Triton alone, a gigabyte, beside the environments: neither users nor most tests need it.
KERNELS := .kernels
# An environment of its own: onnxruntime and onnxruntime-gpu are the same module.
STUB := .venv-cuda-stub
ON_STUB := BNLSTM_CUDA_STUB=1 PYTHONPATH=$(KERNELS) LD_LIBRARY_PATH=$(CURDIR)/$(STUB)/cuda_stub $(STUB)/bin

GPU := .venv-gpu
TRITON := .venv-triton
OLDEST := .venv-oldest
# Installing compiles these.
NATIVE := hatch_build.py bnlstm_deploy/native/build.py $(wildcard bnlstm_deploy/native/src/*) \
	bnlstm_deploy/native/cuda/kernels.zip bnlstm_deploy/native/cuda/tuned.json

QUICK := tests/nn tests/folding tests/checkpoint/test_own_format.py tests/test_package.py \
	tests/exporting/test_forms.py tests/exporting/test_scan.py tests/runtime/test_session.py \
	tests/runtime/test_device.py tests/verification/judging/test_report.py tests/serve/test_merger.py

.PHONY: demo test test-slow quick docs mutate wheels test-native-oldest honest soak fuzz test-cuda-stub test-kernels kernels test-gpu tune test-triton launches clean

demo: .venv/installed
	$(BIN)/python -m tools.demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses=auto --dist=worksteal -m "not slow"

test-slow: .venv/installed
	$(BIN)/pytest --numprocesses=auto --dist=worksteal -m slow

quick: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/pytest --numprocesses=auto --dist=worksteal $(QUICK)

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheels: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[release]'
	$(BIN)/python -m tools.wheels

MUTATE ?= bnlstm_deploy/folding
MUTANTS ?= 50
mutate: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt cosmic-ray==8.7.0 pytest-cov==7.1.0
	$(BIN)/python -m tools.mutate $(MUTATE) --mutants $(MUTANTS)

test-native-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/pytest --confcutdir=tests/native/oldest tests/native/oldest

honest: .venv/installed
	HONEST_MODELS=300 $(BIN)/pytest --numprocesses=auto tests/verification/test_honest.py

soak: .venv/installed
	$(BIN)/python -m tools.soak --minutes 10

fuzz: .venv/installed
	$(BIN)/python -m tools.fuzz --cases 10000

test-cuda-stub: $(STUB)/installed $(KERNELS)/installed
	$(STUB)/bin/python -m tests.cuda_stub.build $(STUB)/cuda_stub
	$(ON_STUB)/pytest --numprocesses=auto tests/cuda_stub tests/runtime/test_cuda_graphs.py

test-kernels: .venv/installed $(KERNELS)/installed
	PYTHONPATH=$(KERNELS) $(BIN)/pytest --numprocesses=auto tests/native/cuda

kernels: .venv/installed $(KERNELS)/installed
	PYTHONPATH=$(KERNELS) $(BIN)/python -m tools.cuda_kernels
	$(BIN)/python -m bnlstm_deploy.native.build
	$(BIN)/python -m tools.cuda_facts

# Gigabytes are to be installed for it, so look for a GPU first.
test-gpu:
	@if nvidia-smi --list-gpus > /dev/null 2>&1; then $(MAKE) $(GPU)/installed && $(GPU)/bin/pytest tests/gpu; \
	else echo "make test-gpu: skipped, nvidia-smi finds no GPU on this machine"; fi

tune:
	@if nvidia-smi --list-gpus > /dev/null 2>&1; then $(MAKE) $(GPU)/installed && \
	$(GPU)/bin/python -m tools.cuda_tune && $(GPU)/bin/python -m bnlstm_deploy.native.build; \
	else echo "make tune: skipped, nvidia-smi finds no GPU on this machine"; fi

test-triton: .venv/installed $(TRITON)/installed
	$(BIN)/python -m tests.triton.make $(TRITON)/models
	$(TRITON)/bin/pytest --confcutdir=tests/triton tests/triton

launches: $(STUB)/installed
	$(STUB)/bin/python -m tests.cuda_stub.build $(STUB)/cuda_stub
	$(ON_STUB)/python -m tests.cuda_stub.launches
	$(ON_STUB)/python -m tests.cuda_stub.kernels

clean:
	rm -rf .venv $(KERNELS) $(STUB) $(GPU) $(TRITON) $(OLDEST) demo dist

.venv/installed: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt \
		--editable '.[cpu,convert,serve,client,ray,native,dev,interop,study,hub,docs,release]'
	touch $@

# Without the extras [cuda,cudnn], gigabytes in whose place the stubs are. The other two are headers.
$(STUB)/installed: pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -m venv $(STUB)
	$(STUB)/bin/pip install --quiet --constraint constraints.txt --editable '.[convert,dev]' \
		onnxruntime-gpu nvidia-cuda-crt nvidia-cuda-runtime
	touch $@

# The server is in the wheel of nvidia-pytriton, which needs another numpy.
$(TRITON)/installed: tests/triton/requirements.txt
	$(PYTHON) -m venv $(TRITON)
	$(TRITON)/bin/pip install --quiet --requirement $<
	touch $@

$(KERNELS)/installed: constraints.txt
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --target $(KERNELS) --no-deps triton
	touch $@

# The oldest that pyproject.toml admits.
$(OLDEST)/installed: pyproject.toml $(NATIVE)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints.txt --editable . pytest
	$(OLDEST)/bin/pip install --quiet onnxruntime==1.23.0
	touch $@

# torch's CUDA build is what PyPI has for Linux.
$(GPU)/installed: pyproject.toml
	$(PYTHON) -m venv $(GPU)
	$(GPU)/bin/pip install --quiet --editable '.[gpu,convert,dev]'
	touch $@
