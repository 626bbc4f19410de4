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

# What the README asks for, and what changes are checked with; CONTRIBUTING.md says what each is for.
.PHONY: install demo test lint types unit docs docs-serve pictures screenshots release-check bench bench-install soak audit clean
.PHONY: reproduce vllm-install test-vllm

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
		$(PIP) -c constraints.txt -e ".[train,report,metrics,grading,datasets,segment,quantize,docs,dev]"; \
	fi
	touch $(STAMP)

demo: install
	$(BIN)/visurf demo --out demo-out

test: install lint types unit docs release-check
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || test -n "$$VISURF_CHROMIUM" || \
	  echo "The browser tests were skipped: they need Chromium (apt-get install chromium, or VISURF_CHROMIUM=PATH)."

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

# The documentation site, in build/site; a broken link or an unknown name ends it. Seconds.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-serve: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

pictures: install
	MPLBACKEND=agg $(BIN)/python docs/draw_pictures.py

# sdist and wheel, checked, and the wheel tried in an environment of its own, without torch. Under a minute.
release-check: install
	$(BIN)/python .ci/release.py

# The papers in miniature (docs/results/papers-in-miniature.md). Hours on 2 cores, and it goes on where it stood; with QUICK=1 one seed, half
# the steps and fewer questions, about 10 minutes (9 on one quiet core), good for directions only.
# Bases of other sizes and of another architecture, trained from the first where they are not there.
BASES := one_layer:--layers,1,--steps,1800 two_layers:--layers,2,--steps,1200 qwen2_vl:--older,--steps,1200
STUDIES := studies/table1/*.yaml studies/equal_compute/*.yaml studies/equal_updates/*.yaml studies/table2/*.yaml studies/abandoned/*.yaml studies/ablation/*.yaml studies/stages/*.yaml studies/rivals/*.yaml studies/visual_rft/*.yaml studies/reassessing/*.yaml studies/alarms/*.yaml
reproduce: install
ifdef QUICK
	OMP_NUM_THREADS=1 $(BIN)/python studies/run.py studies/table1/*.yaml studies/ablation/nonobject.yaml --quick --out runs/papers-quick --results runs/papers-quick/results
	$(BIN)/python studies/page.py --results runs/papers-quick/results --print
else
	OMP_NUM_THREADS=1 $(BIN)/python studies/run.py studies/tuning/*.yaml --out runs/papers --results docs/results/papers
	for base in $(BASES); do test -d studies/bases/$${base%%:*} || OMP_NUM_THREADS=1 \
	  $(BIN)/python -m visurf.mini.study_base --start studies/base $$(echo $${base#*:} | tr , ' ') \
	  --out runs/bases/$${base%%:*} --export studies/bases/$${base%%:*} || exit 1; done
	OMP_NUM_THREADS=1 $(BIN)/python studies/run.py $(STUDIES) --out runs/papers --results docs/results/papers
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

# The screenshots of docs/report.md, of a fresh demo with two seeds (about ten minutes on 2 quiet cores).
screenshots: install
	$(BIN)/visurf demo --paradigm visurf --paradigm rlvr --seeds 2 --out demo-out steps=60 evaluation.every=5
	VISURF_PICTURES=docs/pictures VISURF_PICTURE_RUNS=demo-out $(BIN)/pytest -q -m browser -k screenshots tests/test_browser.py

# A vLLM server on the CPU, in an environment of its own (its transformers is older than ours): about 3.5 GB. Only for tests on
# Linux and Python 3.11; on a GPU install vLLM as its own documentation says.
VLLM := .venv-vllm
vllm-install: $(VLLM)/.installed

$(VLLM)/.installed: environments/vllm/requirements.txt environments/vllm/constraints.txt environments/vllm/sitecustomize.py
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -c environments/vllm/constraints.txt -r environments/vllm/requirements.txt
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	cp environments/vllm/sitecustomize.py "$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	touch $@

# Against a real server: 20 steps, greedy agreement, one encoding a group, adapters, a killed server; then exports, loaded by vLLM.
test-vllm: install vllm-install
	OMP_NUM_THREADS=1 VISURF_VLLM_PYTHON=$(abspath $(VLLM)/bin/python) $(BIN)/pytest -q -s -m vllm tests/test_servers_vllm.py tests/test_publishing.py

# Hours: a run killed thirty times, 2,000 steps whose memory must not grow, hostile input by the million. The last, interrupted, goes
# on where it was; delete build/soak-fuzz.json to begin again.
soak: install
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/kill.py --json build/soak-kill.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/steps.py --json build/soak-steps.json
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "atheris>=3,<4" || echo "atheris is not to be had here: without it"
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/fuzz.py --cases 1000000 --state build/soak-fuzz.json \
	  $$($(BIN)/python -c "import atheris" 2>/dev/null && echo --atheris 600)

# Known weaknesses of what is pinned. Needs a network; without one it fails, and does not call what it could not look up clean.
audit: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.9"
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r constraints.txt

clean:
	rm -rf $(VENV) $(VLLM) demo-out runs build dist
