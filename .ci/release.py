"""Build sdist and wheel, check them, and use the wheel as somebody without torch would: ``python .ci/release.py``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASE = ("numpy", "pillow", "pyyaml", "rich", "scipy", "shtab")
ROW = {"id": "a", "completion": "<think>I see</think><answer>[]</answer>", "target": "[]"}


def run(*command: str | Path, where: Path = ROOT) -> str:
    """The output of a command; its failure ends everything."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([str(c) for c in command], cwd=where, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def build(out: Path) -> tuple[Path, Path]:
    """sdist, and the wheel made of it."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (wheel,), (source,) = out.glob("*.whl"), out.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    return wheel, source


def check_contents(wheel: Path, source: Path) -> None:
    """What must and must not be in them."""
    inside = zipfile.ZipFile(wheel).namelist()
    needed = (
        "visurf/py.typed",
        "visurf/mini/checkpoint/model.safetensors",
        "visurf/recipes/_lora_1gpu.yaml",
        "visurf/mini/demo.yaml",
    )
    missing = [name for name in needed if name not in inside]
    foreign = [name for name in inside if not name.startswith(("visurf/", "visurf-"))]
    if missing or foreign:
        raise SystemExit(f"{wheel.name}: missing {missing}, foreign {foreign[:5]}")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [
        name for name in ("pyproject.toml", "README.md", "LICENSE", "docs/index.md", "tests/test_loop.py") if name not in names
    ]
    if missing:
        raise SystemExit(f"{source.name}: missing {missing}")


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel with the base dependencies alone, and run it."""
    home = folder / "venv"
    venv.create(home, with_pip=True)
    python, command = home / "bin" / "python", home / "bin" / "visurf"
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    (folder / "pins.txt").write_text("\n".join(pins))
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", folder / "pins.txt", wheel, where=folder)
    installed = {p["name"].lower() for p in json.loads(run(python, "-m", "pip", "list", "--format", "json", where=folder))}
    if "torch" in installed or not set(BASE) <= installed:
        raise SystemExit(f"the base installation holds {sorted(installed)}")
    shown = run(command, "--help", where=folder)
    version = run(command, "--version", where=folder).strip()
    if "export" not in shown or not wheel.name.startswith(f"visurf-{version}-"):
        raise SystemExit(f"{wheel.name} says version {version}")
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    scored = json.loads(run(command, "score", "--reward", "visionreasoner", "--in", "rows.jsonl", where=folder).splitlines()[0])
    if scored["total"] != 7.0:
        raise SystemExit(f"visurf score gave {scored}")
    run(command, "recipes", where=folder)
    run(command, "env", where=folder)
    run(python, "-c", "import sys, visurf; visurf.group_advantages([1, 2]); sys.exit('torch' in sys.modules)", where=folder)
    print(f"{wheel.name}: built, checked and used without torch")


def main() -> None:
    """All of it, in a folder that goes away."""
    folder = Path(tempfile.mkdtemp(prefix="visurf-release-"))
    try:
        wheel, source = build(folder / "dist")
        check_contents(wheel, source)
        use(wheel, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
