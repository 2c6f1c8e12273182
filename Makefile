# The two commands: `make report` and `make test`. Each sets up .venv by itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CORES ?= all

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: report test test-slow test-slurm test-kubernetes test-faults audit-dependencies check-harness check-export check-repairs bench lint format lock schema reference screenshot clean

report: $(INSTALLED)
	$(BIN)/snakemake --cores $(CORES) reports/tables.html

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" -n $(shell nproc) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGUMENTS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGUMENTS)

# A real Slurm of one node, started and stopped by the tests; needs root and Debian's packages.
test-slurm: $(INSTALLED)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .[slurm]
	$(BIN)/python -m pytest tests/slurm $(PYTEST_ARGUMENTS)

# Snakemake's executor for Kubernetes and its S3 plugin, with pods and a store on this machine.
test-kubernetes: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .[kubernetes] "moto[server]>=5"
	$(BIN)/python -m pytest tests/kubernetes $(PYTEST_ARGUMENTS)

# Kills, full disks, damaged files, a failing hub... on the tiny project; the table of outcomes goes
# to docs/reliability.md.
test-faults: $(INSTALLED)
	OMP_NUM_THREADS=1 LPSTEPS_THREADS=1 $(BIN)/python -m tests.faults.campaign --page docs/reliability.md

# Known weaknesses of the locked packages and dubious calls in the code. Needs network access.
audit-dependencies: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit bandit
	$(BIN)/pip-audit --requirement requirements.lock --no-deps --disable-pip
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive lpsteps --severity-level medium

# Scores of the dense model beside those of lm-eval's own command line, question by question, and
# perplexities beside plain transformers, on the files in DATA_ROOT. NAME=LIMIT takes
# some of a benchmark, NAME=START:STOP those documents.
CHECK_MODEL := smollm2-135m
CHECKS := arc_challenge arc_easy boolq copa hellaswag piqa race winogrande wsc273 wikitext2 ptb
check-harness: $(INSTALLED)
	$(if $(DATA_ROOT),,$(error DATA_ROOT: name the folder with the benchmarks' files: make check-harness DATA_ROOT=FOLDER))
	$(BIN)/snakemake --cores $(CORES) resources/models/$(CHECK_MODEL)/manifest.json
	$(BIN)/python -m tests.check_harness --model $(CHECK_MODEL) --data-root $(DATA_ROOT) $(CHECKS)

# Exports of the default's model, scored by lm-eval's command line and plain transformers, beside the
# report in float32.
EXPORTS := llm-streamline/n5/linearpatch shortgpt/n5/none
check-export: $(INSTALLED)
	$(BIN)/python -m tests.check_export --model $(CHECK_MODEL) $(EXPORTS)

# The page of all repairs with 3, 5 and 7 layers removed, and whether the best one closes at least 3
# times LinearPatch's share of the gap and 1.2 times that of least squares. In a clone of its own: the
# page takes the place of another profile's.
check-repairs: $(INSTALLED)
	$(BIN)/snakemake --cores $(CORES) --configfile config/repairs.yaml -- reports/tables.html
	$(BIN)/python -m tests.check_repairs reports/tables.json

# Ratios measured side by side on this machine, into benchmarks/results, and the page that shows
# them. `make bench-NAME` measures one; BENCH_ARGUMENTS are options of its program.
BENCHMARKS := calibration perplexity question_answering distillation least_squares hadamard \
	patch_application pipeline
# Measured in the number type of the machine, and in float32 as well.
IN_FLOAT32 := calibration perplexity distillation
bench: $(BENCHMARKS:%=bench-%)

.NOTPARALLEL: bench
.PHONY: $(BENCHMARKS:%=bench-%)
$(BENCHMARKS:%=bench-%): bench-%: report
	$(BIN)/python -m benchmarks.$* $(BENCH_ARGUMENTS)
	$(if $(filter $*,$(IN_FLOAT32)),$(BIN)/python -m benchmarks.$* --dtype float32 $(BENCH_ARGUMENTS))
	$(BIN)/python -m benchmarks.page

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

# The picture in the README, of the page that `make report` has built.
screenshot: reports/tables.html
	chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1760 \
		--user-data-dir=$$(mktemp -d) --screenshot=docs/report.png file://$(CURDIR)/$<

# Config schema for editors, generated from lpsteps/config/.
schema: $(INSTALLED)
	$(BIN)/python -m lpsteps.config_schema config/schema.json

# The parts of docs/ that are generated: every key of the config, the graph of the rules.
reference: $(INSTALLED)
	$(BIN)/python -m lpsteps.config_reference docs/config.md
	$(BIN)/python -m lpsteps.rule_graph docs/architecture.md config/config.yaml config/full.yaml

# Resolve the ranges of pyproject.toml anew and pin the result.
lock:
	rm -rf $(VENV)/lock
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet ".[export,lora,width,test,lint]"
	echo '# Exact versions that `make` and CI install. Update: make lock' > requirements.lock
	$(VENV)/lock/bin/python -m pip freeze --exclude lpsteps | sed 's/+cpu//' >> requirements.lock

clean:
	rm -rf results logs reports/tables.html reports/tables.json reports/tables/*.csv reports/figures/*.csv
	find reports -name '*.record.json' -delete

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) and "error: Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# pip would compile one file after the other. Some files of libraries are templates, not Python.
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@
