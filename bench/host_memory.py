"""Host memory and speed of data loading beside training: JPEG files of 4000 x 3000 pixels, read ahead by threads.

Run: ``python bench/host_memory.py --json bench/results/host-memory.json``. The pictures (48 files, 12 megapixels each) are drawn
first, into ``--images``. Every step reads its pictures anew: the vision tower is trained, so no features are kept, and decoded ones
never are. It may be interrupted; the JSON file is written every 100 steps and says how many there were.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from visurf.cli.runs import quiet_libraries
from visurf.config import Config, load_config
from visurf.data import load_data
from visurf.mini.demo import RECIPE
from visurf.models import VisionLanguageModel, load_model
from visurf.tasks import TASKS
from visurf.training import train
from visurf.types import Sample

SIZE, FILES, WARM = (4000, 3000), 48, 100


def resident_mib() -> float:
    """Memory that this process holds now, threads included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def draw_pictures(folder: Path) -> Path:
    """JPEG files of smooth shapes and grain, about as large as a camera writes them, and their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(FILES):
        path = folder / f"{index}.jpg"
        if not path.exists():
            rng = np.random.default_rng(index)
            coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
            grain = rng.normal(0, 6, (SIZE[1], SIZE[0], 1)).astype(np.float32)
            pixels = np.clip(np.asarray(coarse, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path.with_suffix(".partial"), format="JPEG", quality=90)
            path.with_suffix(".partial").replace(path)
        box = [100 + 10 * index, 200, 1500 + 10 * index, 1700]
        rows.append({"id": str(index), "image": path.name, "question": "red circle", "target": [box]})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


class Watch:
    """Times every picture that is read, in whichever thread, and keeps a row of memory every few steps."""

    def __init__(self) -> None:
        self.lock, self.count, self.seconds, self.processor = threading.Lock(), 0, 0.0, 0.0
        self.rows: list[dict[str, float]] = []
        self.waited: list[float] = []
        self.steps: list[float] = []
        self.began = time.monotonic()

    def install(self) -> None:
        """Measure around the model's own reading of images."""
        read = VisionLanguageModel._read

        def timed(model: VisionLanguageModel, sample: Sample) -> Any:
            began, processor = time.perf_counter(), time.thread_time()
            found = read(model, sample)
            with self.lock:
                self.count += len(sample.images)
                self.seconds += time.perf_counter() - began
                self.processor += time.thread_time() - processor
            return found

        VisionLanguageModel._read = timed  # type: ignore[method-assign]

    def step(self, event: dict[str, Any]) -> bool:
        """Take note of a step; whether it is one that is shown."""
        self.waited.append(event["metrics"]["time/encode"])
        self.steps.append(event["metrics"]["time/step"])
        if event["step"] % 20:
            return False
        row = {"step": event["step"], "resident_mib": round(resident_mib(), 1), "images": self.count}
        self.rows.append({**row, "seconds": round(time.monotonic() - self.began, 1)})
        return event["step"] % WARM == 0


def alone(config: Config, images: int = 12) -> float:
    """Images per second of one thread that does nothing else."""
    model = load_model(config.model.path, max_pixels=config.model.max_pixels)
    samples = load_data(config.data.train, config.data, TASKS["referring"]).samples[:images]
    model._read(samples[0])
    began = time.perf_counter()
    for sample in samples:
        model._read(sample)
    return len(samples) / (time.perf_counter() - began)


def summary(watch: Watch, config: Config, single: float, command: str) -> dict[str, Any]:
    """What the JSON file holds."""
    warm = [row for row in watch.rows if row["step"] >= min(WARM, watch.rows[-1]["step"])]
    held = [row["resident_mib"] for row in warm]
    total = sum(watch.steps)
    return {
        "command": command,
        "machine": f"{platform.machine()}, one thread for the model, torch {torch.__version__}, Python {platform.python_version()}",
        "image_size": SIZE,
        "max_pixels": config.model.max_pixels,
        "workers": config.data.workers,
        "steps": len(watch.steps),
        "images_read": watch.count,
        "resident_mib": {"first": held[0], "last": held[-1], "least": min(held), "most": max(held), "from_step": warm[0]["step"]},
        "images_per_second": {
            "one thread alone": round(single, 2),
            "threads beside the step, while reading": round(config.data.workers * watch.count / watch.seconds, 2),
            "used by training": round(watch.count / total, 2),
        },
        "processor_seconds_per_image": round(watch.processor / watch.count, 3),
        "share_of_the_step_that_waits_for_images": round(sum(watch.waited) / total, 4),
        "seconds_per_step": round(total / len(watch.steps), 3),
        "rows": watch.rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=2, help="of a step, each with a picture of its own")
    parser.add_argument("--images", type=Path, default=Path("build/host-memory/images"))
    parser.add_argument("--out", type=Path, default=Path("build/host-memory/run"), help="run folder; an earlier one is deleted")
    parser.add_argument("--json", type=Path, default=Path("build/host-memory.json"))
    options = parser.parse_args()
    quiet_libraries()
    shutil.rmtree(options.out, ignore_errors=True)
    values = {
        "model": {"max_pixels": 128 * 128},
        "data": {"train": str(draw_pictures(options.images)), "validation": "", "workers": options.workers},
        "rollout": {"group_size": 4, "max_tokens": 40},
        "reward": {"frame": [4000, 3000]},
        "prompts_per_step": options.prompts,
        "steps": options.steps,
        "threads": 1,
        "out": str(options.out),
    }
    config = load_config(RECIPE, values)
    single = alone(config)
    watch = Watch()
    watch.install()
    command = f"python bench/host_memory.py --steps {options.steps} --workers {options.workers} --prompts {options.prompts}"
    options.json.parent.mkdir(parents=True, exist_ok=True)

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step" and watch.step(event):
            found = summary(watch, config, single, command)
            options.json.write_text(json.dumps(found, indent=1) + "\n")
            print({k: v for k, v in found.items() if k in ("steps", "resident_mib", "images_per_second")}, flush=True)

    train(config, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
