"""The memory estimate of `visurf check` against measured peaks: python bench/memory_estimate.py [--only NAME] [--json FILE].

Every case runs in a process of its own: a model with random weights is built and takes two whole steps (sampling, rewards, packed
rows, AdamW) as `visurf train` does. The peak is resident memory above what the process held before the model was built, with
imports and kernels warmed up by a smaller one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "memory-estimate.json"
STEPS = 2
WIDE_TEXT = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
WIDE_TOWER = {"intermediate_size": 512, "depth": 4, "num_hidden_layers": 4, "mlp_ratio": 4}
# name: (shape, family, changes of the workload and the recipe)
CASES: dict[str, dict[str, Any]] = {
    "tiny, rows of 1024": {"shape": "tiny", "budget": 1024},
    "mid": {"shape": "mid"},
    "internvl": {"family": "internvl"},
    "qwen3_vl": {"family": "qwen3_vl"},
    "tiny": {"shape": "tiny"},
    "tiny, checkpointing": {"shape": "tiny", "checkpointing": True},
    "tiny, frozen vision": {"shape": "tiny", "freeze": True},
    "tiny, adapters of rank 16": {"shape": "tiny", "rank": 16},
    "mid, checkpointing": {"shape": "mid", "checkpointing": True},
    "mid, adapters of rank 16": {"shape": "mid", "rank": 16},
    "mid, adapters, checkpointing": {"shape": "mid", "rank": 16, "checkpointing": True},
    "qwen2_vl": {"family": "qwen2_vl"},
    "smolvlm": {"family": "smolvlm"},
    "smolvlm, checkpointing": {"family": "smolvlm", "checkpointing": True},
}


def in_child(name: str) -> dict[str, Any]:
    """Measure and estimate one case in a process of its own."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    # oneDNN keeps the kernels of every length of row that it has met: they grow with the variety of rows, not with a step.
    environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "0"
    command = [sys.executable, "-W", "ignore", __file__, "--child", name]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise RuntimeError(f"measuring {name} failed:\n{ran.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def build(shape: str, family: str) -> Any:
    """A model with random weights: a shape of `visurf bench`, or a family's tiny architecture made wider and deeper."""
    import torch

    from visurf.linear import use_onednn
    from visurf.models import FAMILIES, VisionLanguageModel
    from visurf.models.loading import use_shared_attention
    from visurf.models.random_architectures import ARCHITECTURES
    from visurf.models.random_checkpoint import byte_level_tokenizer
    from visurf.speed.shapes import SHAPES, build_model

    if shape:
        return build_model(SHAPES[shape], torch.device("cpu"))
    import importlib

    from transformers import AutoConfig, AutoModelForImageTextToText

    architecture = ARCHITECTURES[family]
    tokenizer = byte_level_tokenizer(architecture)
    values = architecture.config(tokenizer.convert_tokens_to_ids)
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    values["text_config"] = {**values["text_config"], "vocab_size": len(tokenizer), **special, **WIDE_TEXT}
    tower = dict(values["vision_config"])
    tower |= {k: v for k, v in WIDE_TOWER.items() if k in tower}
    # What the tower hands over is as wide as the language model; Qwen2-VL calls that its hidden size.
    handed = "hidden_size" if "embed_dim" in tower else "out_hidden_size"
    if handed in tower:
        tower[handed] = WIDE_TEXT["hidden_size"]
    values["vision_config"] = tower
    torch.manual_seed(0)
    network: Any = AutoModelForImageTextToText.from_config(AutoConfig.for_model(architecture.model_type, **values))
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    use_shared_attention(network, FAMILIES[family])
    use_onednn(network)
    network.eval()
    module, name, settings = architecture.image_processor
    processor = getattr(importlib.import_module(f"transformers.models.{module}"), name)(**settings)
    return VisionLanguageModel(network, tokenizer, processor, FAMILIES[family], f"random {family}")


class Run:
    """Whole training steps of one case."""

    def __init__(self, case: dict[str, Any]) -> None:
        """Build model, adapters, optimiser and loop as `visurf.training` does."""
        from visurf.config import Config, LoraConfig, ModelConfig, RolloutConfig, TaskConfig
        from visurf.loop import Loop
        from visurf.paradigms import VISURF
        from visurf.policy import Policy
        from visurf.preparation import add_adapters, make_optimizer
        from visurf.scoring import Scorer
        from visurf.speed.workloads import TASK, workload_for
        from visurf.tasks import RewardSettings

        shape, family = case.get("shape", ""), case.get("family", "")
        self.workload = workload_for(shape or "tiny")
        lora = LoraConfig(rank=case.get("rank", 0))
        frozen, checkpointing = case.get("freeze", False), case.get("checkpointing", False)
        self.config = Config(
            model=ModelConfig(lora=lora, freeze_vision=frozen, gradient_checkpointing=checkpointing, feature_cache_mb=0),
            task=TaskConfig(TASK.name),
            rollout=RolloutConfig(group_size=self.workload.members, max_tokens=self.workload.max_tokens),
            tokens_per_microbatch=case.get("budget", 16384),
        )
        self.model = build(shape, family)
        self.hollow = self.model.network
        network = self.model.network
        if checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        if frozen:
            network.get_submodule(self.model.family.vision_module).requires_grad_(False)
        if lora.rank:
            network = add_adapters(network, lora, self.model.family.vision_module)
        self.policy = Policy(network, temperature=1.0, banned=self.model.banned_ids)
        self.policy.train()
        self.optimizer, self.schedule = make_optimizer(self.config, self.policy, 100)
        self.loop = Loop(self.config, VISURF, self.model, self.policy, Scorer(TASK, TASK.parts(RewardSettings())))

    def steps(self, count: int) -> None:
        """Take so many."""
        for number in range(count):
            self.loop.step(self.workload.samples(number, 1024), number, self.optimizer, self.schedule)


def child(name: str) -> dict[str, Any]:
    """Measure and estimate one case here."""
    import torch

    from visurf.doctor.memory import MIB, estimate
    from visurf.doctor.shape import shape_of
    from visurf.doctor.work import Precision, Work
    from visurf.speed.measure import peak_memory

    torch.set_num_threads(1)
    case = CASES[name]
    Run({"shape": "smoke", **{k: v for k, v in case.items() if k in ("rank", "checkpointing")}}).steps(1)
    runs: list[Run] = []

    def measured() -> None:
        runs.append(Run(case))
        runs[0].steps(STEPS)

    peak = peak_memory(measured, torch.device("cpu"))
    (run,) = runs
    groups = run.loop.groups
    prompts = [run.model.encode_prompt(g.sample, g.sample.question) for g in groups]
    rollouts = [len(c.token_ids) for g in groups for c in g.completions if c.source == "policy"]
    labels = [len(c.token_ids) for g in groups for c in g.completions if c.source == "label"]

    def mean(values: list[int]) -> int:
        return round(sum(values) / len(values))

    from visurf.doctor.layouts import rows_of_tower

    work = Work(
        prompts=len(prompts),
        prompt=mean([len(p.token_ids) for p in prompts]),
        patches=mean([rows_of_tower(p.tensors, run.hollow) for p in prompts]),
        completion=mean(rollouts),
        label=mean(labels),
        rollouts=run.config.rollout.group_size,
        pixel_bytes=mean([sum(t.numel() * t.element_size() for t in p.tensors.values()) for p in prompts]),
    )
    base = build(case.get("shape", ""), case.get("family", "")).network
    shape = shape_of(base, run.model.family.vision_module, run.config.model.lora)
    found = estimate(shape, work, run.config, Precision())
    return {
        "case": name,
        "measured": peak,
        "estimated": found.peak / MIB,
        "error": found.peak / MIB / peak - 1,
        "moment": found.moment,
        "parameters": shape.parameters,
        "row": found.row,
        "training": {k: v / MIB for k, v in found.training.items()},
        "sampling": {k: v / MIB for k, v in found.sampling.items()},
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", action="append", choices=tuple(CASES), help="only this case (repeatable)")
    parser.add_argument("--json", type=Path, help=f"where to write everything, such as {RESULTS}")
    parser.add_argument("--child", choices=tuple(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.stdout.write(json.dumps(child(options.child)) + "\n")
        return
    rows = []
    for name in options.only or CASES:
        row = in_child(name)
        rows.append(row)
        sys.stdout.write(
            f"{name:<32} measured {row['measured']:8.1f} MiB  estimated {row['estimated']:8.1f}  {row['error']:+.1%}\n"
        )
        sys.stdout.flush()
        if options.json:
            import torch

            from visurf.speed.report import machine, versions

            about = {"command": "python bench/memory_estimate.py", **machine(torch.device("cpu")), "versions": versions()}
            options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
