# Two commands do everything on a machine with Python 3.11+ and git: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Whether a lock was written for this Python and platform.
define FITS
import platform, sys
here = f"# For CPython {sys.version_info[0]}.{sys.version_info[1]} on {platform.system()} {platform.machine()}"
sys.exit(open(sys.argv[1]).readline().strip() != here)
endef
export FITS

.PHONY: install demo reproduce test lint types unit bench bench-install soak audit clean

install: $(STAMP)

# Where the lock fits, every file but torch's is checked against its hash, and a wrong one ends the installation; on other platforms
# and versions of Python the same versions are installed without hashes.
$(STAMP): pyproject.toml constraints.txt requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if $(BIN)/python -c "$$FITS" requirements.lock; then \
		$(PIP) --require-hashes --no-deps -r requirements.lock && \
		$(PIP) -c constraints.txt torch && \
		$(PIP) --no-deps --no-build-isolation -e .; \
	else \
		$(PIP) --upgrade "pip>=24" && \
		$(PIP) -c constraints.txt torch && \
		$(PIP) -c constraints.txt -e ".[train,report,metrics,grading,datasets,segment,dev]"; \
	fi
	touch $(STAMP)

demo: install
	$(BIN)/visurf demo --out demo-out

test: install lint types unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

# The papers in miniature (docs/results/papers-in-miniature.md). Hours on 2 cores, and it goes on where it stood; with QUICK=1 one seed, half
# the steps and fewer questions, about 10 minutes, good for directions only.
STUDIES := studies/table1/*.yaml studies/abandoned/*.yaml studies/ablation/*.yaml studies/stages/*.yaml studies/rivals/*.yaml studies/visual_rft/*.yaml studies/reassessing/*.yaml
reproduce: install
ifdef QUICK
	OMP_NUM_THREADS=1 $(BIN)/python studies/run.py studies/table1/*.yaml studies/ablation/nonobject.yaml --quick --out runs/papers-quick --results runs/papers-quick/results
	$(BIN)/python studies/page.py --results runs/papers-quick/results --print
else
	OMP_NUM_THREADS=1 $(BIN)/python studies/run.py studies/tuning/*.yaml --out runs/papers --results docs/results/papers
	test -d studies/weak_base || OMP_NUM_THREADS=1 $(BIN)/python -m visurf.mini.study_base --out runs/weak_base --steps 600 --export studies/weak_base
	OMP_NUM_THREADS=1 $(BIN)/python studies/run.py $(STUDIES) --out runs/papers --results docs/results/papers
	$(BIN)/python studies/false_alarms.py runs/papers docs/results/papers-alarms.json
	$(BIN)/python studies/curves.py docs/results/papers/ablation-nonobject.json docs/results/papers-curves.png
	$(BIN)/python studies/page.py
endif

# The rival of the speed measurements, and the measurements themselves (about half an hour on 2 quiet cores).
bench-install: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r bench/requirements.txt

bench: bench-install
	for model in tiny mid; do \
	  $(BIN)/visurf bench step --model $$model --against naive,trl --json bench/results/step-$$model.json && \
	  $(BIN)/visurf bench rollout --model $$model --json bench/results/rollout-$$model.json && \
	  $(BIN)/visurf bench memory --model $$model --against naive,trl --json bench/results/memory-$$model.json || exit 1; \
	done

# Hours: hostile input by the million. Interrupted, it goes on where it was; delete build/soak-fuzz.json to begin again.
soak: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/fuzz.py --cases 1000000 --state build/soak-fuzz.json

# Known weaknesses of what is pinned. Needs a network; without one it fails, and does not call what it could not look up clean.
audit: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9"
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r constraints.txt

clean:
	rm -rf $(VENV) demo-out runs build dist
