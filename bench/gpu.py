"""All measurements of the large models on one CUDA device, within a time limit; `bench/gpu.sh` runs it.

Each model is built once. Measurements run in order of importance, and what no longer fits into the model's share of the time is
left out and said so. A file is written after each of its measurements, so that what is killed leaves what it has.
"""

import argparse
import gc
import sys
import time
from dataclasses import replace
from pathlib import Path

from visurf.cli.runs import quiet_libraries


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="3b,7b", help="default 3b,7b; smoke tries the script on a CPU")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--seconds", type=float, default=480, help="for everything (default 480)")
    options = parser.parse_args()
    quiet_libraries()
    models = options.models.split(",")
    began, failures = time.monotonic(), 0
    for index, model in enumerate(models):
        end = began + options.seconds * (index + 1) / len(models)
        failures += measure_model(model, end, options.out)
        gc.collect()  # the model before it must be gone when the next is built
    return 1 if failures else 0


def measure_model(model: str, end: float, out: Path) -> int:
    """Run one model's measurements until `end` (monotonic seconds); returns how many failed."""
    import torch

    from visurf.speed.benches import Bench, Plan
    from visurf.speed.workloads import workload_for

    command = f"bench/gpu.sh ({' '.join(sys.argv)})"
    began = time.monotonic()
    bench = Bench(Plan(model, ("naive",), repeats=5, warmup=1, command=command))
    print(f"{model}: built in {time.monotonic() - began:.0f} s", flush=True)

    # (what, longest completion, share of the model's remaining time its rounds may take)
    todo = [("step", 128, 0.3), ("rollout", 128, 0.25), ("step", 512, 0.5), ("memory", 512, 1.0), ("rollout", 512, 0.6)]
    failures = 0
    for what, length, share in todo:
        left = end - time.monotonic()
        if left < 20:
            print(f"{model}, {what} at {length} tokens: left out, {left:.0f} s are left", flush=True)
            continue
        # A step measures twice, whole steps and training alone; a rollout once more for the first token.
        bench.plan = replace(bench.plan, length=length, limit=left * share / 2)
        bench.use(workload_for(model, length))
        path = out / f"{what}-{model}-{length}.json"
        bench.keep = lambda report, path=path: report.write(path)
        try:
            report = bench.peaks() if what == "memory" else getattr(bench, what)()
        except torch.OutOfMemoryError as error:
            failures += 1
            print(f"{model}, {what} at {length} tokens: out of memory ({error})", flush=True)
            torch.cuda.empty_cache()
            continue
        print(report.table(), flush=True)
        report.write(path)
    return failures


if __name__ == "__main__":
    sys.exit(main())
