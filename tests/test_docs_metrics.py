"""The table of docs/why-better.md has every key that a line of metrics.jsonl can have."""

import json
import re
from pathlib import Path

from visurf.config import load_config
from visurf.mini.demo import RECIPE
from visurf.training import train

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "why-better.md").read_text().partition("## Every key")[2]
# As the source writes them; a key that is put together of parts is found by the run below.
WRITTEN = re.compile(r'"((?:train|group|label|policy|rollout|rate|flops|data)/[a-z_]+)"')


def test_every_key_of_the_source_is_in_the_table():
    found = {key for path in (ROOT / "src").rglob("*.py") for key in WRITTEN.findall(path.read_text())}
    assert len(found) > 30
    assert [key for key in sorted(found) if f"`{key}`" not in TABLE] == []


def test_every_key_of_a_run_is_in_the_table(tmp_path):
    small = {
        "data": {"train": "world:shifted?count=4&seed=1", "validation": "world:shifted?count=2&seed=2"},
        "rollout": {"group_size": 2, "max_tokens": 8},
        "evaluation": {"every": 1},
    }
    train(load_config(RECIPE, {**small, "steps": 1, "prompts_per_step": 2, "threads": 1, "out": str(tmp_path / "run")}))
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert {"label/reward", "train/lr", "reward/answer_format", "before/giou", "time/other"} <= set(row)
    families = {"parse": "parse/REASON", "before": "before/METRIC", "validation": "validation/METRIC", "alarm": "alarm/KIND"}
    for key in row:
        assert f"`{families.get(key.partition('/')[0], key)}`" in TABLE, key
