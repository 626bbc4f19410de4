"""Run folders made without training, through the code that training uses: for the tests of the report."""

import json

import yaml

from visurf.config import Config, DataConfig, RecordingConfig, to_dict
from visurf.control import Controls
from visurf.geometry import Frame
from visurf.groups import form_group, with_advantages
from visurf.mini import world
from visurf.paradigms import PARADIGMS
from visurf.provenance import note_invocation
from visurf.recording import Recorder
from visurf.scoring import Scorer, label_completion
from visurf.tasks import TASKS, RewardSettings
from visurf.types import Completion

HOSTILE = (
    "<think><script>window.broken = 1; alert(1)</script></think><answer>[]</answer>",
    "</textarea></script></div><img src=x onerror='window.broken = 2'><!--<script>-->\u2028\u2029",
    "\x1b[31mred\x1b[0m \u202eright to left\u202c \u200fmark\x07\x00",
    "<think>" + "long " * 2000 + "</think><answer>[",
)
TASK = TASKS["referring"]


def scorer():
    return Scorer(TASK, TASK.parts(RewardSettings("sound", (256.0, 256.0))))


def boxes(*found):
    answer = json.dumps([{"bbox_2d": list(b), "point_2d": [(b[0] + b[2]) // 2, (b[1] + b[3]) // 2]} for b in found])
    return f"<think>here</think><answer>{answer}</answer>"


def group(sample, texts, paradigm="visurf"):
    """A group of these rollouts and the label, scored and controlled as in training."""
    found, frame = scorer(), Frame((64.0, 64.0), sample.size)
    read = [found.read(Completion(t, tuple(range(9)), None, None, truncated=not t.endswith(">")), sample, frame) for t in texts]
    label = found.read(label_completion(TASK, sample, frame, Controls()), sample, frame)
    formed = form_group(sample, read, label, found, Controls())
    return with_advantages([formed], PARADIGMS[paradigm])[0]


def write_run(folder, groups, *, steps=0, seed=0, paradigm="visurf", metrics=None, recording=None, **changes):
    """A run folder with one recorded group a step; `metrics` is step -> row."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = steps or max(len(groups), 1)
    config = Config(paradigm=paradigm, seed=seed, steps=steps, out=str(folder), data=DataConfig(train="world:shifted"), **changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
    note_invocation(folder, step=0, processes=1, device="cpu")
    recorder = Recorder(folder, recording or RecordingConfig(), steps)
    with (folder / "rollouts.jsonl").open("w") as rollouts:
        for step, found in enumerate(groups, 1):
            for row in recorder.rows(step, [found], scorer(), Controls()):
                rollouts.write(json.dumps(row, ensure_ascii=False) + "\n")
    rows = [{"step": step, **(metrics(step) if metrics else {"reward/total": float(step)})} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def present(count, seed=5):
    """Scenes in which the object is there."""
    return [s for s in world.referring_samples(world.SHIFTED, 4 * count, seed) if s.target.boxes][:count]


def absent(count, seed=5):
    """Scenes in which it is not."""
    return [s for s in world.referring_samples(world.SHIFTED, 8 * count, seed) if not s.target.boxes][:count]
