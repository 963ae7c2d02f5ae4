# The two commands are `make demo` and `make test`; both set up what they need.
SHELL := /bin/bash
VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest
# Four folders at a time (tests/schedule.py) for two processors: tests wait for disks, Slurm and killed processes a
# third of their time. One thread each for arithmetic. Tests start many processes: without compiled files, each of
# them would compile the package. glibc keeps freed memory: else each tensor of a tiny model is new pages (a sixth of
# the time).
MALLOC := MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TOP_PAD_=16777216
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(MALLOC) $(PYTEST) -n 4 --dist loadscope
SNAKEMAKE := PATH="$$PWD/$(VENV):$$PATH" $(VENV)/snakemake --cores all --logger=contextgraft
HASHED := $(VENV)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement
PYTHON_CODE := src tests bench world scripts
export PYTHON

.PHONY: help setup demo demo-full demo-seeds real real-64k test test-all fuzz check fix docs world bench bench-training gpu-check version sync lock clean

help:
	@echo "make demo        the whole proof on a tiny trained world: 3 to 8 minutes after setup; page in results/demo/report/index.html"
	@echo "make test        setup and the tests"
	@echo "make demo-full   a longer evaluation of the demo: more kinds of needles, 16 times the context, all control rows: 25 minutes next to other programs"
	@echo "make demo-seeds  the demo with three seeds of the donor: about 14 minutes"
	@echo "make real        SmolLM2-135M from 8,192 to 16,384 tokens: about 140 minutes on two cores, next to other programs"
	@echo "make real-64k    the same weights to 65,536 tokens on one GPU of 80 GB; run on none yet"
	@echo "make test-all    the slow tests too"
	@echo "make fuzz        2,200 damaged files of each of 12 kinds: hours"
	@echo "make check       lint, types, layers and formats only"
	@echo "make fix         let ruff and snakefmt mend what they can; regenerate the schema"
	@echo "make docs        the documentation as a site that can be searched: site/index.html"
	@echo "make bench       speed and memory against mergekit, PEFT and cp, as ratios: 20 to 30 minutes"
	@echo "make bench-training  bytes and seconds of the ring's layouts on slow links, memory by ranks, packing, start of an 8B (root: network namespaces)"
	@echo "make gpu-check   every check of what runs on a GPU, at most five minutes; needs one (docs/gpu.md)"
	@echo "make version     after a run: results into DVC, and staged for git (docs/versions.md)"
	@echo "make sync        after \`dvc pull\`: marks the pulled files as up to date for Snakemake"
	@echo "make world       train the demo world's models again"
	@echo "make lock        bring the locks up to date with pyproject.toml; UPGRADE=1 takes the newest versions"

setup:
	@scripts/setup.sh

demo: setup
	$(SNAKEMAKE)

demo-full: setup
	$(SNAKEMAKE) --configfile config/studies/demo-full.yaml

demo-seeds: setup
	$(SNAKEMAKE) --configfile config/studies/demo-seeds.yaml

real: setup
	$(HASHED) envs/smollm2.lock
	$(SNAKEMAKE) --configfile config/studies/smollm2.yaml

real-64k: setup
	$(HASHED) envs/smollm2.lock
	$(SNAKEMAKE) --configfile config/studies/smollm2-64k.yaml

test: setup
	@scripts/browser.sh
	@scripts/axe.sh
	$(TESTS)

test-all: setup
	@scripts/browser.sh
	@scripts/axe.sh
	@scripts/consumers.sh
	$(HASHED) envs/smollm2.lock --requirement envs/docs.lock --requirement tests/dvc/requirements.lock
	$(TESTS) -m "not fuzz"

fuzz: setup
	$(TESTS) --dist load -m fuzz

check: setup
	$(PYTEST) tests/project tests/workflow/test_checks.py

fix: setup
	$(VENV)/ruff check --fix $(PYTHON_CODE)
	$(VENV)/ruff format $(PYTHON_CODE)
	$(VENV)/snakefmt Snakefile workflow
	$(VENV)/python -m contextgraft.config.json_schema

world: setup
	PATH="$$PWD/$(VENV):$$PATH" world/make.sh

docs: setup
	$(HASHED) envs/docs.lock
	$(VENV)/python scripts/reference.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/mkdocs build --strict --quiet
	@echo "the documentation is site/index.html"

bench: setup
	$(VENV)/python bench/run.py

bench-training: setup
	$(HASHED) envs/smollm2.lock
	$(VENV)/python bench/training.py --json results/bench-training.json

# Exit code 2 without a GPU: a check that did not run is not a check that passed.
gpu-check:
	@nvidia-smi >/dev/null 2>&1 || { echo "gpu-check: needs a GPU, and nvidia-smi does not answer; see docs/gpu.md" >&2; exit 2; }
	@$(MAKE) --no-print-directory setup
	$(VENV)/python bench/gpu/run.py

version:
	PATH="$$PWD/$(VENV):$$PATH" scripts/version.sh

sync:
	PATH="$$PWD/$(VENV):$$PATH" scripts/sync.sh

lock:
	scripts/lock.sh $(if $(UPGRADE),--upgrade)

clean:
	rm -rf results data/*/ .snakemake
