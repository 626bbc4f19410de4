"""Settings that pages name are there, and what they say of them is what the code does."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from visurf.config import Config, load_config, parse_overrides
from visurf.continuing import _FREE, _FREE_WITHIN

DOCS = Path(__file__).parents[1] / "docs"
COMING = (DOCS / "coming-from.md").read_text()
# Of the second column: what stands behind a name in brackets, such as `optimizer.lr` (1e-6), is its default.
ROWS = [row.strip("| ").split(" | ", 1)[1] for row in COMING.partition("## Epochs")[0].splitlines() if row.startswith("| `")]


def value(name):
    found = Config()
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(
    "name", sorted({n for row in ROWS for n in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", row)} - {"metrics.jsonl"})
)
def test_every_setting_of_the_page_is_one(name):
    value(name)


def test_the_defaults_of_the_page_are_those_of_the_code():
    said = {name: default for row in ROWS for name, default in re.findall(r"`([a-z_.]+)` \(`?([\w.-]+)`?[):]", row)}
    assert len(said) > 12
    for name, default in said.items():
        assert str(value(name)) == default or float(default) == value(name), (name, default)


def test_every_value_of_the_page_is_allowed():
    given = {setting for row in ROWS for setting in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+: [\w.]+)`", row)}
    assert len(given) > 8
    for setting in given - {"model.offload: true", "model.lora.quantize: 4bit"}:  # these need others beside them
        load_config(None, parse_overrides([setting.replace(": ", "=")]))


def test_the_page_names_all_that_may_change_when_a_run_goes_on():
    page = (DOCS / "troubleshooting.md").read_text()
    table = page.partition("| may change | |")[2].partition("\n\n")[0]
    sections = {field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(value(field.name))}
    expected = {f"{name}.*" if name in sections else name for name in _FREE}
    expected |= {f"{section}.{name}" + ".*" * (name == "servers") for section, name in _FREE_WITHIN}
    assert set(re.findall(r"`([a-z_.*]+)`", table)) == expected


def test_the_site_asks_nobody_and_copies_commands_only():
    """The search's shim would come from a server of somebody else's if none of the site's own were named."""
    text = (DOCS.parent / "mkdocs.yml").read_text()
    settings = yaml.safe_load(text)
    assert "offline" in settings["plugins"]
    assert settings["extra"]["polyfills"] == ["iframe-worker.js"]
    assert "IFrameWorker" in (DOCS / "iframe-worker.js").read_text()
    assert re.search(r"\[data-md-copying\] \.gp, .*\{ display: none; \}", (DOCS / "site.css").read_text())
