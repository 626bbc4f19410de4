"""Run several studies seed by seed, in forked processes that share their imports, and stop in time.

    python studies/run.py studies/table1/*.yaml --out runs/papers [--minutes 30] [--results docs/results/papers]

It does what ``visurf study FILE --out OUT/NAME`` does for each file, with the same folders, frozen settings and results; only
the order differs: the first seed of all studies comes first, so that a table that is not complete is balanced. A run is a fork
of one process, which spares it the seconds in which the libraries are imported. Runs that are done are not run again: those in
OUT, and with --results those whose numbers are in the results already, so that the studies go on from a fresh clone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from visurf.studies.grid import Job, run_jobs, start_jobs
from visurf.studies.plan import SEED
from visurf.studies.running import Workers, freeze, is_trained
from visurf.studies.study import Progress, plan, results_of, write_results


def prepare(path: Path, out: Path) -> tuple[Progress, list[Job]]:
    """A study and its jobs, the starting models first."""
    study, base, tuned, pilots, _ = plan(path)
    if tuned or pilots:
        raise SystemExit(f"{path}: has tuning or measured matching; run it with visurf study")
    progress = Progress(study, base, out, Workers(1), print)
    progress.runs = run_jobs(study, base, {}, {})
    progress.starts = start_jobs(study, progress.runs)
    return progress, [*progress.starts, *progress.runs]


def quick(path: Path, folder: Path) -> Path:
    """A smaller copy of a study: its first seed, half the steps, at most 100 questions a test. Good for directions only."""
    values = yaml.safe_load(path.read_text())
    base = path.parent / values["base"]
    values["base"] = str(base.resolve())
    steps = {**yaml.safe_load(base.read_text()), **values.get("settings", {})}["steps"]
    values["axes"] = halved(values["axes"])
    values["settings"] = {**halved(values.get("settings", {})), "steps": steps // 2}
    values["axes"]["seed"] = values["axes"]["seed"][:1]
    text = re.sub(r"count=(\d+)&seed=9", lambda m: f"count={min(int(m[1]), 100)}&seed=9", yaml.safe_dump(values, sort_keys=False))
    found = folder / path.parent.name / path.name
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_text(text)
    return found


def halved(values: Any) -> Any:
    """Settings in which every `steps` is half of what it was, those of stages and of single values of an axis too.

    >>> halved({"paradigm": {"long": {"steps": 376, "stages": [{"paradigm": "sft", "steps": 100}]}}})
    {'paradigm': {'long': {'steps': 188, 'stages': [{'paradigm': 'sft', 'steps': 50}]}}}
    """
    if isinstance(values, Mapping):
        return {name: each // 2 if name == "steps" else halved(each) for name, each in values.items()}
    return [halved(each) for each in values] if isinstance(values, list) else values


def digest(progress: Progress, job: Job) -> str:
    """What a run's numbers come from: the settings its study gives it, its questions and metrics, the weights it begins with."""
    tests = {name: [asked.data, dict(asked.settings)] for name, asked in sorted(job.tests.items())}
    # A model as it was depends on nothing of the training.
    values = {name: job.values.get(name) for name in ("model", "task")} if job.role == "start" else job.values
    weights = Path(job.values["model"]["path"]) / "model.safetensors"
    content = hashlib.blake2b(weights.read_bytes()).hexdigest() if weights.exists() else ""
    text = json.dumps([job.role, values, tests, list(progress.study.metrics), content], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """Runs that results hold already, by the digest of what they come from."""
    found = [json.loads(path.read_text())["runs"] for path in sorted(folder.glob("*.json"))]
    return {run["settings"]: run for runs in found for run in runs if run["status"] == "done" and "settings" in run}


def with_recorded(results: dict[str, Any], digests: Mapping[tuple[str, str], str], before: Mapping[str, Any]) -> dict[str, Any]:
    """Results in which runs without a folder here have the numbers recorded before, and all have their digest."""
    own = ("role", "name", "axes", "chosen", "matching")
    runs = []
    for run in results["runs"]:
        known = digests[run["role"], run["name"]]
        if run["status"] == "not run" and known in before:
            run = {**before[known], **{name: run[name] for name in own}}
        runs.append({**run, "settings": known})
    return {**results, "runs": runs}


def take_over(folder: Path, done: Path) -> None:
    """Copy a finished run of another study that is this one's too: weights, log and answers, without checkpoints."""
    shutil.copytree(done, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints", "run.yaml", "*.yaml"))


def finished(job: Job, folder: Path) -> bool:
    """Whether a job has been trained and measured."""
    trained = job.role == "start" or is_trained(folder)
    return trained and all((folder / "tests" / name / "summary.json").exists() for name in job.tests)


def in_time(job: Job, planned: Sequence[str], seeds: int) -> bool:
    """Whether a job's turn is now, when only the first `seeds` of the planned ones are run."""
    return job.role == "start" or not seeds or job.axes.get(SEED) in (None, *planned[:seeds])


def work(job: Job, folder: Path) -> None:
    """Train and measure in this process."""
    import torch

    from visurf.config import load_config
    from visurf.studies.measure import measure
    from visurf.training import train

    torch.set_num_threads(1)
    if job.role != "start" and not is_trained(folder):
        train(load_config(folder / "run.yaml"))
    measure(folder)


def forked(job: Job, folder: Path, do: Callable[[Job, Path], None]) -> int:
    """Do it in a fork; output goes to run.log, the last lines of a failure into status.json."""
    child = os.fork()
    if child == 0:
        log = os.open(folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            do(job, folder)
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the parent is told and the other runs go on
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    found = {"status": "done"}
    if code:
        lines = (folder / "run.log").read_text(errors="replace").splitlines()
        found = {"status": "failed", "stage": "run", "code": code, "error": "\n".join(lines[-12:])}
    (folder / "status.partial").write_text(json.dumps(found))
    (folder / "status.partial").replace(folder / "status.json")
    return code


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", metavar="STUDY.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/papers"))
    parser.add_argument("--minutes", type=float, default=0, help="start no run after so many minutes; 0: no limit")
    parser.add_argument("--seeds", type=int, default=0, help="only so many seeds now, from the first; 0: all")
    parser.add_argument("--quick", action="store_true", help="one seed, half the steps, fewer questions")
    parser.add_argument("--results", type=Path, help="also write NAME.json here, without indentation")
    options = parser.parse_args()
    began = time.monotonic()
    files = [quick(path, options.out / "studies") if options.quick else path for path in options.studies]
    studies = [prepare(path, options.out / f"{path.parent.name}-{path.stem}") for path in files]
    before = recorded(options.results) if options.results else {}
    digests = {progress.out: {(job.role, job.name): digest(progress, job) for job in jobs} for progress, jobs in studies}
    seeds = {progress.out: list(dict.fromkeys(job.axes[SEED] for job in jobs if SEED in job.axes)) for progress, jobs in studies}
    queue = [(progress, job) for progress, jobs in studies for job in jobs if in_time(job, seeds[progress.out], options.seeds)]
    queue = [(progress, job) for progress, job in queue if digests[progress.out][job.role, job.name] not in before]
    queue.sort(key=lambda item: (item[1].role != "start", int(item[1].axes.get(SEED, 0))))
    # What every fork needs, imported once.
    import visurf.studies.measure
    import visurf.training  # noqa: F401

    done = [(digests[progress.out][job.role, job.name], job, progress.out / job.folder) for progress, job in queue]
    known = {came_from: folder for came_from, job, folder in done if finished(job, folder)}
    for number, (progress, job) in enumerate(queue, 1):
        folder, came_from = progress.out / job.folder, digests[progress.out][job.role, job.name]
        freeze(job, progress.out, threads=1)
        if finished(job, folder):
            continue
        if came_from in known:
            take_over(folder, known[came_from])
            continue
        if options.minutes and time.monotonic() - began > 60 * options.minutes:
            break
        start = time.monotonic()
        code = forked(job, folder, work)
        if not code:
            known[came_from] = folder
        said = "failed, see run.log" if code else f"{time.monotonic() - start:.0f} s"
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {number}/{len(queue)} {progress.out.name} {job.name}: {said}\n")
    for (progress, _), path in zip(studies, files, strict=True):
        results = with_recorded(results_of(progress, path, {}), digests[progress.out], before)
        if options.results:
            options.results.mkdir(parents=True, exist_ok=True)
            (options.results / f"{progress.out.name}.json").write_text(json.dumps(results, separators=(",", ":")) + "\n")
        write_results(results, progress.out, print)


if __name__ == "__main__":
    main()
