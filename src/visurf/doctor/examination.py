"""All checks of a recipe, in the order in which one depends on another."""

from __future__ import annotations

import dataclasses
import platform
import time
import warnings
from collections.abc import Callable, Sequence

import torch

from visurf.config import Config, ConfigError
from visurf.config.limits import check_processes
from visurf.data import DataSet, load_data
from visurf.doctor.at_hand import AtHand, look
from visurf.doctor.data import check_data, check_question
from visurf.doctor.estimates import check_resources, machine_for
from visurf.doctor.findings import Diagnosis, Section
from visurf.doctor.labels import check_labels
from visurf.doctor.layouts import Layouts
from visurf.doctor.lengths import Lengths, check_lengths, measure
from visurf.doctor.rewards import check_rewards
from visurf.doctor.rollouts import MOST_ON_CPU, PROMPTS, check_rollouts, sample_groups
from visurf.models.loading import MINI
from visurf.naming import look_up
from visurf.preparation import make_scorer
from visurf.scoring import RewardError, Scorer
from visurf.stages import stages
from visurf.tasks import TASKS, Task
from visurf.types import DataError, Sample

Tell = Callable[[Section], None]
Progress = Callable[[int, int], None]
# Below this learning rate adapters are taken to have kept that of full training (1e-6 in the papers; theirs are near 1e-5).
LEAST_ADAPTER_RATE = 5e-6


@dataclasses.dataclass(frozen=True)
class Choices:
    """What a user may ask of the checks.

    Attributes:
        limit: Samples to check, evenly spread; 0 for all.
        prompts: Groups to sample; 0 samples none.
        force: Sample even where that takes long.
        gpu: The device to estimate for; empty for this machine's.
        processes: Devices that share the model out, where the recipe says `parallel: fsdp2`.
        memory: GB of the device to estimate for, where it is asked for without a name; else None.
    """

    limit: int = 0
    prompts: int = PROMPTS
    force: bool = False
    gpu: str = ""
    processes: int = 1
    memory: float | None = None


def examine(
    recipe: str, config: Config, choices: Choices | None = None, tell: Tell | None = None, progress: Progress | None = None
) -> Diagnosis:
    """Make every check that can be made.

    Args:
        recipe: Its name, for the report.
        config: What it says.
        choices: How much to check.
        tell: Called with every section as it is done.
        progress: Called with (done, total) while pictures are opened.

    Raises:
        ConfigError: The recipe itself cannot work, or not with so many processes.
    """
    choices = choices or Choices()
    began = time.perf_counter()
    if config.threads:
        torch.set_num_threads(config.threads)
    sections: list[Section] = []

    def done(*found: Section) -> None:
        for section in found:
            sections.append(section)
            if tell is not None:
                tell(section)

    task = look_up(config.task.name, TASKS, "task")
    listed = stages(config)
    check_processes(config, choices.processes)
    if not config.data.train:
        raise ConfigError("data.train is not set; name a JSONL file")
    _examine(config, task, choices, done, progress)
    about = {
        "model": config.model.path,
        "data": config.data.train,
        "task": f"{task.name}, reward {config.reward.variant}",
        "paradigm": ", then ".join(stage.paradigm.name for stage in listed),
        "machine": f"{platform.machine()}, torch {torch.__version__}, " + _device(),
    }
    return Diagnosis(recipe, tuple(sections), time.perf_counter() - began, about)


def _examine(config: Config, task: Task, choices: Choices, done: Callable[..., None], progress: Progress | None) -> None:
    at_hand = look(config.model)
    layouts = Layouts(at_hand, config.model.frame)
    deliberate = config.reward.variant != "sound"
    train, problem = _load(config, task, config.data.train)
    if train is None:
        section = Section("data", "Data")
        section.error(problem, "put the data where the recipe looks for them: data.root, data.train, data.images")
        done(section, *_not_made("the data cannot be read", _AFTER_DATA))
        done(_model_section(config, at_hand))
        done(_resources(config, at_hand, [], [], choices))
        return
    validation, problem = _load(config, task, config.data.validation)
    section = check_data(train, validation or DataSet(()), config.data.on_bad_sample, progress)
    check_question(section, train.samples, task, config.task.prompt)
    if validation is None and problem:
        section.error(f"data.validation: {problem}", "name a file that can be read, or leave data.validation out")
    done(section, _model_section(config, at_hand))
    samples = [s for s in _some(train.samples, choices.limit) if _opens(s)]
    if len(samples) < len(train.samples):
        section.not_made.append(f"labels and lengths of {len(train.samples) - len(samples):,} of {len(train.samples):,} samples")
    lengths, problems = measure(samples, layouts, at_hand.model, task, config)
    done(check_lengths(samples, lengths, problems, config, at_hand.context))
    scorer = _scorer(config, task, done)
    if scorer is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done(*check_labels(samples, layouts.frame_of, scorer, config.controls, deliberate=deliberate))
            done(_rewards(samples, layouts, scorer, at_hand, deliberate=deliberate))
    done(_rollouts(config, task, samples, at_hand, choices, ready=scorer is not None))
    done(_resources(config, at_hand, [n for n in lengths if n is not None], samples, choices))


_AFTER_DATA = {
    "lengths": "Lengths in tokens",
    "labels": "Labels, rendered and read back",
    "small": "Boxes and the model's frame",
    "rewards": "Reward, probed",
    "rollouts": "Rollouts of the model itself",
}


def _not_made(reason: str, names: dict[str, str]) -> list[Section]:
    return [Section(name, title, not_made=[reason]) for name, title in names.items()]


def _load(config: Config, task: Task, source: str) -> tuple[DataSet | None, str]:
    """A data set with its bad rows skipped, so that all are named; or why there is none."""
    if not source:
        return None, ""
    try:
        return load_data(source, dataclasses.replace(config.data, on_bad_sample="skip"), task), ""
    except (DataError, OSError) as error:
        return None, str(error)


def _some(samples: Sequence[Sample], limit: int) -> Sequence[Sample]:
    if not limit or len(samples) <= limit:
        return samples
    return [samples[int(i * len(samples) / limit)] for i in range(limit)]


def _opens(sample: Sample) -> bool:
    try:
        return all(min(image.size) > 0 for image in sample.images)
    except DataError:
        return False


def _model_section(config: Config, at_hand: AtHand) -> Section:
    section = Section("model", "Model")
    if at_hand.network is not None:
        section.facts["parameters"] = f"{at_hand.parameters:,}"
        section.facts["family"] = at_hand.family.name if at_hand.family else ""
    if config.model.path == MINI:
        section.facts["reads"] = "rendered scenes of 64 x 64 pixels and their questions, nothing else; it is for trying commands"
    low = min((stage.config.optimizer.lr for stage in stages(config)), default=LEAST_ADAPTER_RATE)
    if config.model.lora.rank and low < LEAST_ADAPTER_RATE:
        section.warn(
            f"adapters are trained with optimizer.lr={low:g}; published runs with adapters take about ten times the learning rate "
            "of full training",
            "set optimizer.lr=1e-5",
        )
    if at_hand.missing:
        section.not_made.append(at_hand.missing)
    return section


def _scorer(config: Config, task: Task, done: Callable[..., None]) -> Scorer | None:
    try:
        return make_scorer(config, task)
    except (ValueError, OSError, ImportError) as error:
        section = Section("rewards", "Reward, probed")
        section.error(f"the reward cannot be made: {error}", "mend reward.functions, reward.weights or reward.segmenter")
        done(*_not_made("the reward cannot be made", {n: t for n, t in _AFTER_DATA.items() if n in ("labels", "small")}), section)
        return None


def _rewards(samples: Sequence[Sample], layouts: Layouts, scorer: Scorer, at_hand: AtHand, *, deliberate: bool) -> Section:
    def tokens(text: str) -> Sequence[int]:
        if at_hand.model is None:
            return (0,) * max(len(text) // 4, 1)
        ids: list[int] = at_hand.model.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    try:
        return check_rewards(samples, layouts.frame_of, scorer, tokens, deliberate=deliberate)
    except RewardError as error:
        section = Section("rewards", "Reward, probed")
        section.error(f"the reward fails on a plain answer: {error}", "mend the function")
        return section


def _rollouts(config: Config, task: Task, samples: Sequence[Sample], at_hand: AtHand, choices: Choices, *, ready: bool) -> Section:
    section = Section("rollouts", "Rollouts of the model itself")
    parameters = at_hand.parameters
    if not ready:
        section.not_made.append("the reward cannot be made")
    elif not at_hand.weights:
        section.not_made.append(at_hand.missing or "the weights are not on this machine")
    elif not choices.prompts or not samples:
        section.not_made.append("none were asked for" if samples else "no sample can be used")
    elif parameters > MOST_ON_CPU and not torch.cuda.is_available() and not choices.force:
        section.not_made.append(
            f"{parameters / 1e9:.1f} billion parameters without a GPU would take long; --rollouts samples all the same"
        )
    else:
        try:
            return check_rollouts(sample_groups(config, task, samples, choices.prompts), config.rollout.group_size)
        except RewardError as error:
            section.error(f"the reward fails on a rollout: {error}", "mend the function, or set reward.on_error=abstain")
        except DataError as error:
            section.error(str(error), "mend or leave out this sample")
    return section


def _resources(config: Config, at_hand: AtHand, lengths: Sequence[Lengths], samples: Sequence[Sample], choices: Choices) -> Section:
    pictures = {image.name if not image.name.startswith("<") else id(image): image.size for s in samples for image in s.images}
    largest = max((w * h for w, h in pictures.values()), default=0)
    machine = machine_for(choices.gpu, at_hand.parameters, MOST_ON_CPU, choices.processes, choices.memory)
    return check_resources(config, at_hand, lengths, machine, (len(pictures), largest))


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
