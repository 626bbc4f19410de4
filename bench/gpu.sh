#!/usr/bin/env bash
# The large models on one CUDA device, in one call of under 9 minutes: 3b with all parameters and 7b with adapters, whole steps,
# rollouts and memory against padded rows and generate. Needs torch, transformers >= 5.17 and peft, no installation of visurf and
# no TRL. Writes JSON files and a log into $OUT (default bench/results).
set -euo pipefail
cd "$(dirname "$0")/.."
out="${OUT:-bench/results}"
mkdir -p "$out"
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
timeout --kill-after=5 530 "${PYTHON:-python3}" bench/gpu.py --out "$out" "$@" 2>&1 | tee "$out/gpu.log"
