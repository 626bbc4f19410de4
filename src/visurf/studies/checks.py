"""What would only show after hours of tuning, found before the first run: names of metrics, sources of data, tests. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from visurf.benchmarks import get_benchmark
from visurf.config import Config, ConfigError, DataConfig
from visurf.data import benchmark_options, load_data
from visurf.judging import COMMON_METRICS, check_metric
from visurf.naming import look_up, suggestion
from visurf.stages import stages
from visurf.studies.grid import Job, unseeded
from visurf.studies.plan import Study
from visurf.studies.running import test_config
from visurf.tasks import TASKS, Task
from visurf.types import DataError


def check_jobs(study: Study, jobs: Sequence[Job]) -> None:
    """Refuse settings, tests, sources and metrics that cannot work; no data set is read.

    Raises:
        ConfigError: Names the run or the test, and what is wrong.
    """
    tested: dict[str, Task] = {}
    seen = set()
    for job in jobs:
        # Seeds ask the same; every choice of a tuning grid is a run of its own.
        kind = (job.role, unseeded(job.axes), repr(job.chosen))
        if kind in seen:
            continue
        seen.add(kind)
        try:
            config = job.config
            stages(config)
            task = _task(config)
            check_metric(task, config.evaluation.metric)
            for where, source in _sources(config):
                _check_source(where, source, config.data, task if where.startswith("data.") else None)
        except ValueError as error:
            raise ConfigError(f"{job.folder}: {error}") from error
        for name, asked in job.tests.items():
            where = "tuning.validation" if job.role == "tuning" else f"tests.{name}"
            try:
                own = test_config(job.values, config.model.path, asked, where)
                judged = _task(own)
                _check_source(where, asked.data, own.data, judged)
                if job.role == "tuning" and study.tuning is not None:
                    check_metric(judged, study.tuning.metric, "tuning.metric")
                else:
                    tested[judged.name] = judged
            except ValueError as error:
                raise ConfigError(f"{job.folder}: {error}") from error
    _check_metrics(study, list(tested.values()))


def _task(config: Config) -> Task:
    return look_up(config.task.name, TASKS, "task")


def _check_metrics(study: Study, tested: Sequence[Task]) -> None:
    """Files that share their metrics may list those of other tasks, whose columns a table leaves out; not what no task has."""
    shown = dict.fromkeys([*(name for task in tested for name in task.metrics), *COMMON_METRICS])
    known = {*shown, *(name for task in TASKS.values() for name in task.metrics)}
    for name in study.metrics:
        if name not in known:
            raise ConfigError(f"metrics: no task has {name!r}{suggestion(name, shown)}")


def _sources(config: Config) -> Iterator[tuple[str, str]]:
    if not config.data.train:
        raise ConfigError("data.train is not set; name a JSONL file")
    yield "data.train", config.data.train
    if config.data.validation:
        yield "data.validation", config.data.validation
    for name, given in config.evaluation.side.items():
        # What else is wrong with an entry the run says when it reads it.
        source = given.get("data") if isinstance(given, dict) else given
        if isinstance(source, str):
            yield f"evaluation.side.{name}", source


def _check_source(where: str, source: str, config: DataConfig, task: Task | None) -> None:
    """Refuse a source that is not there, as far as that can be known without reading it.

    Args:
        where: The key that names it.
        source: As `load_data` takes it.
        config: The folder that paths are relative to, and the format.
        task: What asks it, where that is known.

    Raises:
        ConfigError: No such world, benchmark or file, or an option that a world does not have.
    """
    try:
        if source.startswith("world:"):
            _check_world(source, config, task)
        elif source.startswith("benchmark:"):
            name, options = benchmark_options(source)
            get_benchmark(name)
            folder = Path(config.root, str(options["root"]))
            if not folder.exists():
                raise DataError(f"{source}: no such folder {folder}")
        elif config.format == "jsonl" and not Path(config.root, source).is_file():
            raise DataError(f"{Path(config.root, source)}: no such file; expected a JSONL file, world:... or benchmark:...")
    except DataError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_world(source: str, config: DataConfig, task: Task | None) -> None:
    """A world without scenes reads its options and renders nothing."""
    from visurf.mini import questions, world
    from visurf.mini.worlds import WORLDS

    place, _, query = source.partition("?")
    kinds = (*world.DOMAINS, *WORLDS, *questions.KINDS)
    kind = place.removeprefix("world:")
    if kind not in kinds:
        raise DataError(f"{source}: no world {kind!r}{suggestion(kind, list(kinds))}")
    options = dict(parse_qsl(query))
    if not options.get("count", "1").isdecimal():
        raise DataError(f"{source}: count: expected a whole number, got {options['count']!r}")
    if task is None:
        return
    empty = f"{place}?{urlencode({**options, 'count': 0})}"
    try:
        load_data(empty, config, task)
    except DataError as error:
        raise DataError(str(error).replace(empty, source)) from error
