"""A million hostile inputs: nothing undocumented is raised, no call takes over 50 ms for 100 kB, memory does not grow.

Run with ``make soak``, or ``python tests/soak/fuzz.py --cases 1000000 --state FILE``. Interrupted, the same command goes on behind
the last whole block. ``--atheris SECONDS`` then lets atheris steer texts by coverage, where it is installed (Linux).

The exit status is 1 for any finding. Times are CPU times of the thread, the best of five, so that other programs do not
count; PyYAML is slower than the bound by itself, so the bound does not hold for files that are YAML.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzzing import KINDS, TEXTS, Function, long_answer, long_text, run

# Inputs of each kind in one block, and how many of its texts are long.
BLOCK = {"texts": 120, "documents": 60, "recipes": 150, "bytes": 300}
LONG = 12
BOUND_S, BOUND_AT = 0.050, 100_000
# Caches of modules and of hypothesis fill in the first blocks.
WARM_BLOCKS, GROWTH_MIB = 3, 64
NOT_TIMED = {"recipe file", "overrides", "yolo names"}


def resident_mib() -> float:
    """Memory that is held now; the highest so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Soak:
    """Blocks of cases, their tally in a file, and what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        fresh = {"blocks": 0, "cases": 0, "seconds": 0.0, "slowest": {}, "found": []}
        self.state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else fresh

    def case(self, name: str, function: Function, data: Any) -> None:
        """One call; an undocumented error or a call over the bound is a finding."""
        self.state["cases"] += 1
        best = self.timed(name, function, data)
        # A JSON line, a picture or a text: the bound is for 100 kB, and not lower for less.
        if name in NOT_TIMED:
            return
        for _ in range(4):
            if best < BOUND_S:
                break
            best = min(best, self.timed(name, function, data))
        if best >= BOUND_S and len(data) <= BOUND_AT:
            self.found(name, f"{best * 1000:.0f} ms", data)
        slowest = self.state["slowest"]
        if best > slowest.get(name, 0):
            slowest[name] = round(best, 5)

    def timed(self, name: str, function: Function, data: Any) -> float:
        started = time.thread_time()
        try:
            run(function, data)
        except Exception as error:  # noqa: BLE001 - what is looked for
            self.found(name, repr(error)[:200], data)
        return time.thread_time() - started

    def found(self, name: str, what: str, data: Any) -> None:
        entry = {"function": name, "what": what, "input": repr(data)[:2000]}
        if sum(f["function"] == name for f in self.state["found"]) < 5:
            self.state["found"].append(entry)
            print(f"FOUND {name}: {what} on {entry['input'][:200]}", flush=True)

    def block(self, number: int) -> None:
        """The same cases for the same number."""
        for index, (kind, (functions, strategy)) in enumerate(KINDS.items()):
            self.inputs(strategy, BLOCK[kind], functions, 10 * number + index)
        self.inputs(long_text | long_answer, LONG, TEXTS, 10 * number + 9)

    def inputs(self, strategy: Any, count: int, functions: dict[str, Function], number: int) -> None:
        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @seed(number)
        @given(strategy)
        def every_function(data: Any) -> None:
            for name, function in functions.items():
                self.case(name, function, data)

        every_function()

    def run(self, cases: int) -> None:
        start = None
        while self.state["cases"] < cases:
            began = time.perf_counter()
            self.block(self.state["blocks"])
            self.state["blocks"] += 1
            self.state["seconds"] += time.perf_counter() - began
            held = resident_mib()
            if self.state["blocks"] >= WARM_BLOCKS and start is None:
                start = held
            if start is not None and held - start > GROWTH_MIB:
                self.found("memory", f"{start:.0f} to {held:.0f} MiB", "")
                start = held
            partial = self.path.with_name(f".{self.path.name}.partial")
            partial.write_text(json.dumps(self.state))
            partial.replace(self.path)
            rate = self.state["cases"] / max(self.state["seconds"], 1e-9)
            print(f"{self.state['cases']:>9} cases  {rate:7.0f} /s  {held:5.0f} MiB  {len(self.state['found'])} found", flush=True)


def steer_by_coverage(soak: Soak, seconds: int) -> None:
    """Atheris chooses texts that reach new code; it ends the process itself."""
    import atheris

    # What was imported before is instrumented in place.
    atheris.instrument_all()

    def one(data: bytes) -> None:
        found = len(soak.state["found"])
        written = atheris.FuzzedDataProvider(data).ConsumeUnicode(4096)
        for name, function in TEXTS.items():
            soak.case(name, function, written)
        if len(soak.state["found"]) > found:
            raise RuntimeError(soak.state["found"][-1]["what"])

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096"], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--state", type=Path, default=Path("build/soak-fuzz.json"))
    parser.add_argument("--atheris", type=int, default=0, metavar="SECONDS")
    options = parser.parse_args()
    options.state.parent.mkdir(parents=True, exist_ok=True)
    soak = Soak(options.state)
    soak.run(options.cases)
    slowest = sorted(soak.state["slowest"].items(), key=lambda item: -item[1])[:5]
    print(f"{soak.state['cases']} cases in {soak.state['seconds']:.0f} s; slowest calls: {slowest}")
    if options.atheris and not soak.state["found"]:
        steer_by_coverage(soak, options.atheris)
    return bool(soak.state["found"])


if __name__ == "__main__":
    sys.exit(main())
