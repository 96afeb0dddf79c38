# make demo   three sites and a server on this machine: train together, segment what none of them has seen
# make test   format, lint, types, import contracts, all tests
# Both set themselves up in .venv, and touch none that somebody else made. PYTHON chooses the interpreter (3.11 or later).

PYTHON ?= python3
OUT ?= demo-output
DATA ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=
# Tests run in two processes; more threads than cores slow each other down.
TEST_PROCESSES ?= 2

# Threads that wait spin by default, which on a shared machine costs more than the work itself.
export OMP_WAIT_POLICY := PASSIVE

BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements-dev.lock

.PHONY: demo test check bench bench-accuracy bench-cost bench-slicer bench-imaging bench-speed bench-privacy bench-methods bench-membership bench-service screenshots clean

demo: .venv/.demo
	$(BIN)/python -m demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)" $(DEMO_ARGS)

# pytest ends with 5 where PYTEST_ARGS, or the version of Python, leave no test.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# In the folders' order, the long files come first, so that no process is left with one at the end.
# A process for each of the files ALONE: one trains for minutes, and what a headless Slicer leaves behind in its process
# must not reach the next. The longest begin first; those that start no Slicer are with all the others.
MODULE := Testing/slicer_module
NO_SLICER := $(addprefix $(MODULE)/test_,extension_files.py forms.py slicer_names.py)
LONGEST := Testing/accuracy/test_accuracy.py $(addprefix $(MODULE)/test_,privacy_check.py site_training.py scene_training.py segment_panel.py export_failures.py)
ALONE := $(LONGEST) $(filter-out $(LONGEST) $(NO_SLICER),$(wildcard $(MODULE)/test_*.py))
test: check .venv/.system
	$(PYTEST) -n $(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder $(addprefix --ignore=,$(ALONE)) $(PYTEST_ARGS) || [ $$? -eq 5 ]
	$(MAKE) --jobs=$(TEST_PROCESSES) $(if $(filter output-sync,$(.FEATURES)),--output-sync) $(ALONE)

.PHONY: $(ALONE)
$(ALONE):
	$(PYTEST) $@ $(PYTEST_ARGS) || [ $$? -eq 5 ]

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# All systems on both data sets, for a GPU; BENCH_ARGS=--quick takes about half an hour of two cores.
bench: .venv/.dev .venv/.system
	@test -n "$(DATA)" || { echo "Say where the images are: make bench DATA=folder"; exit 2; }
	$(BIN)/python -m benchmarks.bench "$(DATA)" $(BENCH_ARGS)

bench-accuracy: .venv/.dev
	@test -n "$(DATA)" || { echo "Say where the images are: make bench-accuracy DATA=folder"; exit 2; }
	for labels in "" "--labelled 5" "--labelled 20"; do for rows in "" --minimized --together --comparisons; do \
	  $(BIN)/python -m benchmarks.accuracy "$(DATA)" $$labels $$rows || exit; done; done
	for rows in "" --together; do $(BIN)/python -m benchmarks.accuracy "$(DATA)" --shifted $$rows || exit; done
	$(BIN)/python -m benchmarks.training_time "$(DATA)"

bench-cost: .venv/.dev
	$(BIN)/python -m benchmarks.cost

bench-slicer: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.slicer_numbers

bench-imaging: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.imaging

bench-privacy: .venv/.dev
	@test -n "$(DATA)" || { echo "Say where the images are: make bench-privacy DATA=folder"; exit 2; }
	$(BIN)/python -m benchmarks.privacy "$(DATA)" $(BENCH_ARGS)

bench-methods: .venv/.dev
	@test -n "$(DATA)" || { echo "Say where the images are: make bench-methods DATA=.../hippocampus_mr"; exit 2; }
	$(BIN)/python -m benchmarks.methods "$(DATA)"

bench-membership: .venv/.dev
	@test -n "$(DATA)" || { echo "Say where the images are: make bench-membership DATA=.../hippocampus_mr"; exit 2; }
	$(BIN)/python -m benchmarks.membership "$(DATA)"

bench-speed: .venv/.dev
	$(BIN)/python -m benchmarks.speed

# Hours: kills, gigabytes, fuzzing, load, and spoilt data of real images.
bench-service: .venv/.dev .venv/.system
	@test -n "$(DATA)" || { echo "Say where the images are: make bench-service DATA=.../hippocampus_mr"; exit 2; }
	for what in kills large large_training fuzz load "poisoning $(DATA)"; do \
	  $(BIN)/python -m benchmarks.service_$$what || exit; done

screenshots: .venv/.dev .venv/.system
	$(BIN)/python -m screenshots $(if $(DATA),--data "$(DATA)")
	$(BIN)/python -m screenshots.dashboard

# The demo and the benchmarks are no part of the packages; a .pth file makes them importable in this environment.
# .by-make comes first: an environment that was cut off half-way has it, and is gone on with; one that a user made has not.
.venv/.made:
	@test ! -e .venv/bin || test -e .venv/.by-make || { echo "Make did not make the folder .venv here, and leaves it as it is: rename or remove it, and make sets up its own."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one with PYTHON=...")'
	@mkdir -p .venv
	@touch .venv/.by-make
	$(PYTHON) -m venv .venv
	$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "ppcmi-testing.pth").write_text(str(pathlib.Path("Testing").resolve()))'
	@touch $@

.venv/.demo: .venv/.made pyproject.toml requirements-dev.lock
	$(INSTALL) --editable ".[demo]"
	@touch $@

.venv/.dev: .venv/.made pyproject.toml requirements-dev.lock
	$(INSTALL) --editable ".[dev]"
	@touch $@ .venv/.demo

# Libraries of the system that Qt and VTK need for the headless Slicer, and programs that tests talk to; the demo needs none.
.venv/.system: .venv/.made Testing/slicer_host/system_packages.py Testing/support/system_packages.py
	$(BIN)/python Testing/slicer_host/system_packages.py
	$(BIN)/python Testing/support/system_packages.py
	@touch $@

clean:
	if test -e .venv/.by-make || test -e .venv/.made; then rm -rf .venv; fi
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
