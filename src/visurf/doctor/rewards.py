"""Which probes beat an honest wrong answer, and whether the right answer does. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from visurf.doctor.attempts import Setting, deserved, right, wrong
from visurf.doctor.findings import Section, Table, many
from visurf.doctor.labels import NO_MAXIMUM, FrameOf, is_coarse, own_frame
from visurf.doctor.probes import PROBES, Probe
from visurf.geometry import Frame
from visurf.scoring import RewardError, Scorer
from visurf.tasks import answers
from visurf.types import Completion, Sample, Text

# Samples that are probed: those with something to find, and those without.
WITH, WITHOUT = 24, 8
# Beating means by more than this share of what accuracy pays.
MARGIN = 0.05
Tokens = Callable[[str], Sequence[int]]


@dataclass
class Outcome:
    """What one probe earned.

    Attributes:
        probe: Which.
        fits: Whether any sample has the kind of target it makes sense for.
        tried: Samples it was tried on.
        beats: Of those, where it earned more than an honest wrong answer by more than it deserves.
        fails: Where the reward raised or gave no number.
        totals: What it, the honest wrong and the right answer earned, sample by sample.
        example: The first completion that beats or fails, and of which sample.
        problem: What the reward said where it failed.
    """

    probe: Probe
    fits: bool = False
    tried: int = 0
    beats: int = 0
    fails: int = 0
    totals: list[tuple[float, float, float]] = field(default_factory=list)
    example: str = ""
    problem: str = ""


def check_rewards(samples: Sequence[Sample], frame_of: FrameOf, scorer: Scorer, tokens: Tokens, *, deliberate: bool) -> Section:
    """Try every probe on some samples.

    Args:
        samples: Those with pictures that open.
        frame_of: The model's frame; 0-1000 is taken where it is not known, since a reward works in pixels.
        scorer: Of the recipe; the part that segments pictures is left out.
        tokens: A text as token ids.
        deliberate: The reward is a published or paper variant, whose holes are known.
    """
    section = Section("rewards", "Reward, probed")
    rated = {name: part for name, part in scorer.parts.items() if name not in NO_MAXIMUM}
    if len(rated) < len(scorer.parts):
        section.not_made.append("probes of the part mask_iou, which segments every answer")
    strict = Scorer(scorer.task, rated, {n: w for n, w in scorer.weights.items() if n in rated})
    chosen = choose(samples, frame_of, scorer)
    # Where rounding decides what an answer earns, even the right one may earn nothing, and the reward is not to blame.
    settings = [s for s in chosen if not is_coarse(s.sample.target, own_frame(s.task, s.frame))]
    if len(settings) < len(chosen):
        left_out = many(len(chosen) - len(settings), "sample")
        section.not_made.append(f"probes on {left_out} with boxes too small for the model's frame")
    outcomes = [Outcome(probe) for probe in PROBES]
    upside: list[str] = []
    for setting in settings:
        _probe(setting, strict, tokens, outcomes, upside)
    section.facts["samples probed"] = len(settings)
    section.tables.append(_table(outcomes))
    if upside:
        add = section.warn if deliberate else section.error
        remedy = "reward.variant=sound pays them" if deliberate else "mend the reward: it teaches what is wrong"
        add(f"the right answer earns no more than an honest wrong one on {many(len(upside), 'sample')}", remedy, upside)
    _report(section, outcomes, deliberate=deliberate, stops=scorer.on_error == "stop")
    return section


def choose(samples: Sequence[Sample], frame_of: FrameOf, scorer: Scorer) -> list[Setting]:
    """Samples evenly spread over the data, some with an empty truth where there are any."""
    names = tuple(dict.fromkeys(s.target.text for s in samples if isinstance(s.target, Text)))
    words = not any(answers.normalise(n) in ("yes", "no") for n in names)

    def setting(sample: Sample) -> Setting:
        size = sample.size if sample.images else (1000, 1000)
        frame = frame_of(sample) or Frame((1000.0, 1000.0), size)
        return Setting(scorer.task, sample, frame, names if words else ())

    empty = [s for s in samples if _is_empty(s)]
    full = [s for s in samples if not _is_empty(s)]
    return [setting(s) for s in (*_spread(full, WITH), *_spread(empty, WITHOUT))]


def _is_empty(sample: Sample) -> bool:
    target = sample.target
    if hasattr(target, "boxes") and not hasattr(target, "points"):
        return not target.boxes
    return getattr(target, "boxes", None) == () or getattr(target, "masks", None) == ()


def _spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    step = max(len(samples) / count, 1.0)
    return [samples[int(i * step)] for i in range(min(count, len(samples)))]


def _probe(setting: Setting, scorer: Scorer, tokens: Tokens, outcomes: Sequence[Outcome], upside: list[str]) -> None:
    """Every probe on one sample."""

    def rate(text: str) -> tuple[float, float]:
        raw = Completion(text, tuple(tokens(text)), None, None)
        read = scorer.read(raw, setting.sample, setting.frame)
        return scorer.score(read, setting.sample).total, deserved(setting, read.answer)

    try:
        texts = right(setting), wrong(setting)
    except ValueError:  # a target that the task cannot render; the labels' check names it
        return
    (best, _), (miss, _) = map(rate, texts)
    margin = MARGIN * max(abs(best - miss), _accuracy(scorer))
    if best <= miss + 1e-9:
        upside.append(f"{setting.sample.id}: right {best:g}, wrong {miss:g}")
    for outcome in outcomes:
        if not isinstance(setting.sample.target, outcome.probe.targets):
            continue
        outcome.fits = True
        text = outcome.probe.write(setting)
        if text is None:
            continue
        outcome.tried += 1
        try:
            total, share = rate(text)
        except RewardError as error:
            outcome.fails += 1
            outcome.problem = outcome.problem or str(error.__cause__ or error).split(" on sample")[0]
            outcome.example = outcome.example or f"{setting.sample.id}: {text}"
            continue
        outcome.totals.append((total, miss, best))
        bar = best - margin if outcome.probe.whole else miss + share * max(best - miss, 0.0) + margin
        if total > bar:
            outcome.beats += 1
            outcome.example = outcome.example or f"{setting.sample.id}: {text}"


def _accuracy(scorer: Scorer) -> float:
    bounded = [(n, p) for n, p in scorer.parts.items() if p.about == "accuracy" and math.isfinite(p.maximum)]
    return sum(abs(scorer.weights.get(n, 1.0)) * p.maximum for n, p in bounded)


def _table(outcomes: Sequence[Outcome]) -> Table:
    rows: list[tuple[str, ...]] = []
    for outcome in outcomes:
        if not outcome.tried:
            reason = "no sample for it" if outcome.fits else outcome.probe.otherwise
            rows.append((outcome.probe.name, "does not apply", "", "", "", reason))
            continue
        means = [f"{sum(t[i] for t in outcome.totals) / len(outcome.totals):.2f}" if outcome.totals else "-" for i in range(3)]
        verdict = "stops the run" if outcome.fails else ("yes" if outcome.beats else "no")
        seen = f"{outcome.beats + outcome.fails} of {outcome.tried}"
        rows.append((outcome.probe.name, verdict, *means, seen))
    head = ("probe", "beats a wrong answer", "earns", "wrong earns", "right earns", "samples")
    return Table("Mean totals", head, tuple(rows))


def _report(section: Section, outcomes: Sequence[Outcome], *, deliberate: bool, stops: bool) -> None:
    for outcome in outcomes:
        named = (_shortened(outcome.example),) if outcome.example else ()
        if outcome.fails:
            add = section.error if stops else section.warn
            remedy = "reward.variant=sound reads strictly" if deliberate else "mend the function, or set reward.on_error=abstain"
            add(f"{outcome.probe.name}: the reward fails on {many(outcome.fails, 'sample')} ({outcome.problem})", remedy, named)
        elif outcome.beats:
            remedy = "reward.variant=sound closes it" if deliberate else "mend the reward before a policy finds this"
            what = "earns what the whole answer does" if outcome.probe.whole else "beats an honest wrong answer"
            message = f"{outcome.probe.name}: {what} on {outcome.beats} of {many(outcome.tried, 'sample')}"
            section.warn(message, remedy, named)


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
