"""What make installs is pinned, and hashed where the lock fits."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def versions(name):
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            package, _, rest = line.partition("==")
            found[normal(package)] = rest
    return found


def test_every_pin_but_torch_has_a_hash():
    pins, locked = versions("constraints.txt"), versions("requirements.lock")
    # After a change of constraints.txt: python .ci/lock.py
    assert {n: v for n, v in pins.items() if n != "torch"} == {n: v.split()[0] for n, v in locked.items() if n in pins}
    assert all(re.fullmatch(r"\S+ --hash=sha256:[0-9a-f]{64}", v) for v in locked.values())
    assert "torch" not in locked


def test_everything_that_the_package_asks_for_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *(r for rs in extras.values() for r in rs)]
    names = {normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in asked}
    assert names - set(versions("constraints.txt")) == set()
    build = {normal(re.match(r"[A-Za-z0-9._-]+", requirement)[0]) for requirement in project["build-system"]["requires"]}
    assert build - set(versions("requirements.lock")) == set()


def test_the_base_install_stays_light():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {re.match(r"[A-Za-z0-9._-]+", r)[0] for r in project["project"]["dependencies"]}
    assert names == {"numpy", "pillow", "pyyaml", "rich", "scipy", "shtab"}
