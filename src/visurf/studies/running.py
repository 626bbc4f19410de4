"""Jobs as processes: each from its frozen settings, several at a time, done ones not again, failed ones with their error."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from visurf.config import Config, ConfigError, differences, merge, nested, to_dict
from visurf.plain_yaml import read_yaml
from visurf.studies.grid import Job
from visurf.studies.plan import Questions, configuration

# Settings that say how fast a run is, not what it learns.
_FREE = ("out", "threads", "trackers", "process_timeout")
_ERROR_LINES = 12
_OTHER_OUT = "choose another --out, or delete"


@dataclass
class Workers:
    """Processes at work; they end with the study.

    Attributes:
        count: Jobs at a time.
        devices: CUDA devices by number, shared out in turn; empty for CPU, one thread each.
        lock: Descriptor of the study's lock, which processes hold too; None for none.
        live: Processes that run now.
        stopping: Set when no further process may start.
    """

    count: int
    devices: Sequence[str] = ()
    lock: int | None = None
    live: set[subprocess.Popen[str]] = field(default_factory=set)
    stopping: threading.Event = field(default_factory=threading.Event)

    def environment(self, place: int) -> dict[str, str]:
        """What a process of a worker finds in its environment."""
        if self.devices:
            return {**os.environ, "CUDA_VISIBLE_DEVICES": self.devices[place % len(self.devices)]}
        return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

    def stop(self) -> None:
        """Ask all processes to end and wait for them; training saves a checkpoint first."""
        self.stopping.set()
        for process in list(self.live):
            process.terminate()
        for process in list(self.live):
            process.wait()


def cuda_devices() -> list[str]:
    """The CUDA devices that jobs may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and torch.cuda.is_available():
        return [part for part in named.split(",") if part]
    return [str(i) for i in range(torch.cuda.device_count())]


def run_all(jobs: Sequence[Job], out: Path, workers: Workers, report: Callable[[Job, str], None]) -> None:
    """Run jobs to their end, in order, several at a time; a failed one does not stop the others.

    Args:
        jobs: What to run.
        out: The study's folder.
        workers: How many at a time, where.
        report: Called with a job and `started`, `done`, `failed` or `done before`.

    Raises:
        ConfigError: A folder holds a run with other settings, or answers to another test.
        KeyboardInterrupt: The study was interrupted; processes have ended.
    """
    for job in jobs:
        if not job.error:
            freeze(job, out, threads=0 if workers.devices else 1)
    places: queue.Queue[int] = queue.Queue()
    for place in range(workers.count):
        places.put(place)

    def work(job: Job) -> None:
        place = places.get()
        try:
            run_job(job, out, workers, place, report)
        finally:
            places.put(place)

    with ThreadPoolExecutor(workers.count) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            workers.stop()
            raise


def freeze(job: Job, out: Path, threads: int) -> None:
    """Write a job's settings and those of its tests into its folder.

    Raises:
        ConfigError: The folder holds a run with other settings, answers to a test or a probe with others, or a setting cannot work.
    """
    folder = out / job.folder
    path = folder / "run.yaml"
    values = to_dict(configuration(merge(job.values, {"out": str(folder / "train"), "threads": threads}), job.folder))
    _check_same(path, values, f"{folder} holds a run", f"{_OTHER_OUT} the folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(yaml.safe_dump(values, sort_keys=False))
    (folder / "tests").mkdir(exist_ok=True)
    model = values["model"]["path"] if job.role == "start" else str(folder / "train" / "model")
    for name, asked in job.tests.items():
        test, wanted = folder / "tests" / name, to_dict(test_config(values, model, asked, f"tests.{name}"))
        place, remedy = test.with_name(f"{name}.yaml"), f"{_OTHER_OUT} tests/{name} in the folder of every run"
        if (test / "summary.json").exists() or (test / "probe.json").exists():
            _check_same(place, wanted, f"{test} holds answers", remedy, trained=job.role != "start")
        if job.probe and (test / "probe.json").exists():
            before = json.loads((test / "probe.json").read_text())["rollouts"]
            if before != job.probe:
                raise ConfigError(f"{test} holds answers with probe: {before}, the study asks for {job.probe}; {remedy}")
        place.write_text(yaml.safe_dump(wanted, sort_keys=False))


def test_config(values: Mapping[str, Any], model: str, asked: Questions, what: str) -> Config:
    """How a test is asked: a run's settings, the model and the questions, and the settings that the test has of its own.

    Raises:
        ConfigError: They cannot work; the message begins with `what`.
    """
    own = {"model": {"path": model}, "data": {"validation": asked.data}, "evaluation": {"limit": 0}}
    return configuration(merge(merge(values, own), nested(asked.settings)), what)


def _check_same(path: Path, values: Mapping[str, Any], what: str, remedy: str, *, trained: bool = False) -> None:
    """Refuse other settings than those that a file holds, if it is there.

    Args:
        path: The file.
        values: The settings that are asked for.
        what: What holds them, for the message.
        remedy: What to do, for the message.
        trained: Whether the model is the one trained beside it, whose path another name of the study's folder changes.
    """
    if not path.exists():
        return
    before = to_dict(configuration(read_yaml(path.read_text()), str(path)))
    if trained:
        before["model"]["path"] = values["model"]["path"]
    apart = [d for name in values if name not in _FREE for d in differences(before[name], values[name], name)]
    if apart:
        told = "; with ".join(f"{name}: {was!r}, the study asks for {asked!r}" for name, was, asked in apart)
        raise ConfigError(f"{what} with {told}; {remedy}")


def run_job(job: Job, out: Path, workers: Workers, place: int, report: Callable[[Job, str], None]) -> None:
    """Train and measure one job, in a process of its own; its end is in status.json."""
    folder = out / job.folder
    if job.error:
        return
    training = job.role != "start" and not is_trained(folder)
    promised = ["summary.json", *(["probe.json"] if job.probe else [])]
    if not training and all((folder / "tests" / name / file).exists() for name in job.tests for file in promised):
        _write_status(folder, {"status": "done"})
        report(job, "done before")
        return
    report(job, "started")
    command = [sys.executable, "-m", "visurf.studies.measure", str(folder)]
    command += ["--train"] if training else ["--probe", str(job.probe)] if job.probe else []
    code, message = _run(command, folder / "log.txt", workers, place)
    if code is None:
        return
    if code != 0:
        stage = "train" if job.role != "start" and not is_trained(folder) else "eval"
        _write_status(folder, {"status": "failed", "stage": stage, "code": code, "error": message})
        report(job, "failed")
        return
    _write_status(folder, {"status": "done"})
    report(job, "done")


def is_trained(folder: Path) -> bool:
    """Whether a job's training has come to its end."""
    return (folder / "train" / "summary.json").exists() and (folder / "train" / "model").is_dir()


def _run(command: list[str], log: Path, workers: Workers, place: int) -> tuple[int | None, str]:
    """Exit code and last lines of a process; the code is None where the study was stopped."""
    if workers.stopping.is_set():
        return None, ""
    with log.open("w") as file:
        # A group of its own: an interruption is passed on by the study, once.
        process = subprocess.Popen(
            command,
            env=workers.environment(place),
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            pass_fds=() if workers.lock is None else (workers.lock,),
        )
        workers.live.add(process)
        try:
            code = process.wait()
        finally:
            workers.live.discard(process)
    if workers.stopping.is_set():
        return None, ""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return code, "\n".join(lines[-_ERROR_LINES:])


def _write_status(folder: Path, status: dict[str, Any]) -> None:
    (folder / "status.partial").write_text(json.dumps(status))
    (folder / "status.partial").replace(folder / "status.json")
