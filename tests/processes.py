"""Real processes for tests: everything heavy is imported once, then forked into one world of processes after the other.

Run as ``python processes.py JOBS.json``. A job names a function of this module, its keyword arguments and a file for what the first
process got back; jobs of a world run in the same processes, one after the other.
"""

import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

import visurf
from replay import make_loop
from tiny import MIN_PIXELS, load_random, make_tokens, picture
from visurf import parallel
from visurf.cli import main
from visurf.config import AdvantageConfig, Config, ModelConfig, ObjectiveConfig, OptimizerConfig, load_config, merge
from visurf.loop import Loop
from visurf.mini.demo import RECIPE
from visurf.models import load_model
from visurf.paradigms import PARADIGMS
from visurf.policy import Policy
from visurf.preparation import add_adapters, make_placement
from visurf.scoring import Scorer
from visurf.sharding import Shards
from visurf.tasks import TASKS
from visurf.tasks.task import Part
from visurf.training import train
from visurf.types import Completion, Objects, Sample

# Prompts of each step: as many as fit two and three processes badly, then fewer than processes. The second step's groups are flat.
STEPS = ((0, 1, 2, 3, 5), (9, 10), (4,))
SETTINGS = {
    "plain": {},
    "checkpointed": {"gradient_checkpointing": True},
    "frozen": {"freeze_vision": True},
    "adapters": {"lora": {"rank": 3, "alpha": 6}},
}


def make_sample(number):
    """Some samples have no image, some two, some no object."""
    images = tuple(picture(number + 50 * i, 16 * (1 + number % 2), 32) for i in range((1, 2, 0, 1)[number % 4]))
    boxes = ((2.0, 3.0, 9.0, 17.0),) if images and number % 3 else ()
    return Sample(str(number), images, " ".join(["find", "red", "circle"][: 1 + number % 3]), Objects(boxes))


class Replayed(Loop):
    """The loop on given completions, which do not depend on the weights."""

    def sample(self, prompts, labels, number, moment):
        if not self.paradigm.rollouts:
            return [[] for _ in prompts]
        groups = []
        for prompt in prompts:
            seed = int(prompt.sample.id)
            lengths = [1 + (3 * seed + 5 * i + number) % 9 for i in range(4)]
            groups.append([Completion("", make_tokens(self.model, n, 7 * seed + i), None, None) for i, n in enumerate(lengths)])
        return groups


def reward(completion, sample):
    """Spread in most groups, none where the sample's number is above 8."""
    return 0.0 if int(sample.id) > 8 else float(len(completion.token_ids) % 4)


def replay(
    checkpoint,
    mode,
    paradigm,
    settings="plain",
    inner_steps=1,
    objective=None,
    clip=1e12,
    autocast="off",
    min_pixels=MIN_PIXELS,
    offload=False,
):
    """Gradients of every step and the final parameters of plain SGD on replayed rollouts."""
    model = load_model(checkpoint, min_pixels=min_pixels)
    config = Config(
        model=dataclasses.replace(ModelConfig(), autocast=autocast, offload=offload),
        parallel=mode,
        inner_steps=inner_steps,
        objective=ObjectiveConfig(**(objective or {})),
        optimizer=OptimizerConfig(max_grad_norm=clip),
        advantage=AdvantageConfig(scale="batch" if settings == "checkpointed" else "group"),
        tokens_per_microbatch=200,
    )
    chosen, network = SETTINGS[settings], model.network
    torch.manual_seed(1)
    if "gradient_checkpointing" in chosen:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    if "freeze_vision" in chosen:
        network.get_submodule(model.family.vision_module).requires_grad_(False)
    if "lora" in chosen:
        lora = load_config(None, {"model": {"lora": chosen["lora"]}}).model.lora
        network = add_adapters(network, lora, model.family.vision_module)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
    policy = Policy(network, temperature=1.0, banned=model.banned_ids)
    policy.train()
    placement = make_placement(config, policy, model)
    reference = None
    if config.objective.kl and "lora" not in chosen:
        frozen = load_model(checkpoint)
        frozen.network.requires_grad_(False)
        with torch.no_grad():
            for parameter in frozen.network.parameters():
                parameter.mul_(0.9)
        reference = Policy(frozen.network, temperature=1.0, banned=model.banned_ids)
        placement.place(reference)
    before = {n: whole(p.detach()) for n, p in policy.named_parameters()}
    scorer = Scorer(TASKS["referring"], {"length": Part(reward, 3.0, "accuracy")})
    gradients, losses, rates = [], [], []
    for stage in PARADIGMS[paradigm].stages or (paradigm,):
        trained = [p for p in policy.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.05)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, len(STEPS))
        loop = Replayed(config, PARADIGMS[stage], model, policy, scorer, reference, placement=placement)
        for number, ids in enumerate(STEPS):
            metrics = loop.step(parallel.share([make_sample(i) for i in ids]), number, optimizer, schedule)
            assert all(p.grad is not None for p in trained)
            assert all(hasattr(p, "full_tensor") == isinstance(placement, Shards) for p in policy.parameters() if p.requires_grad)
            gradients.append({n: whole(p.grad) for n, p in policy.named_parameters() if p.requires_grad})
            losses.append({n: v for n, v in metrics.items() if not n.startswith(("time/", "rate/"))})
            rates.append(schedule.get_last_lr()[0])
    moved = {n: whole(p.detach()) - before[n] for n, p in policy.named_parameters() if p.requires_grad}
    return {"gradients": gradients, "metrics": losses, "rates": rates, "moved": moved, "before": before}


def whole(tensor):
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()


def sent_early(checkpoint):
    """How many sums of gradients set off before the step's last backward pass was over, of how many; and how many bytes."""
    from visurf import replicas

    replicas.BUCKET_BYTES = 40_000
    model = load_random(Path(checkpoint))
    loop = make_loop(model, PARADIGMS["sft"])
    before, sizes = [], []
    finish, send = loop.placement.finish, torch.distributed.all_reduce

    def count(tensor, **settings):
        if settings:
            sizes.append(tensor.numel() * tensor.element_size())
        return send(tensor, **settings)

    def then():
        before.append(len(sizes))
        finish()

    loop.placement.finish = then
    torch.distributed.all_reduce = count
    optimizer = torch.optim.SGD(loop.policy.parameters(), lr=0.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0, 1)
    loop.step(parallel.share([make_sample(i) for i in (0, 1, 3)]), 0, optimizer, schedule)
    torch.distributed.all_reduce = send
    trained = sum(p.numel() * p.element_size() for p in loop.policy.parameters())
    return {"early": before[0], "sent": len(sizes), "bytes": sum(sizes), "trained": trained}


def spoilt(checkpoint, mode, how):
    """A good step, then one in which something goes wrong on the second process alone, then a good one.

    `how` is `nan` for a log-prob that is not finite, `memory` for rows that do not fit into its memory.
    """
    model = load_model(checkpoint, min_pixels=MIN_PIXELS)
    config = Config(parallel=mode, tokens_per_microbatch=400, optimizer=OptimizerConfig(max_grad_norm=1e12))
    policy = Policy(model.network, temperature=1.0, banned=model.banned_ids)
    policy.train()
    placement = make_placement(config, policy, model)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, 9)
    scorer = Scorer(TASKS["referring"], {"length": Part(reward, 3.0, "accuracy")})
    loop = Replayed(config, PARADIGMS["rlvr"], model, policy, scorer, placement=placement)
    # What a prompt with one completion takes does fit.
    most = max(len(p.token_ids) for p in loop.prompting.encode([make_sample(i) for i in STEPS[0]]).prompts) + 9
    forward = Policy.forward

    def wrong(self, row, **settings):
        if how == "memory" and row.length > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        found = forward(self, row, **settings)
        return found * float("nan") if how == "nan" and torch.is_grad_enabled() else found

    steps = []
    for number, ids in enumerate(STEPS[:1] * 3):
        if number == 1 and parallel.rank() == 1:
            Policy.forward = wrong
        metrics = loop.step(parallel.share([make_sample(i) for i in ids]), number, optimizer, schedule)
        Policy.forward = forward
        weights = {n: whole(p.detach()) for n, p in policy.named_parameters()}
        budgets, kinds = parallel.gather([loop.learner.budget.tokens]), parallel.gather([sorted(loop.learner.findings.kinds)])
        steps.append(
            {"metrics": metrics, "weights": weights, "rate": schedule.get_last_lr()[0], "budgets": budgets, "kinds": kinds}
        )
    # All processes still hold the same policy.
    sums = parallel.gather([sum(float(v.double().sum()) for v in weights.values())])
    return {"steps": steps, "sums": sums}


def run(out, resume="", harm="", **changes):
    """A whole run of the demo's recipe, cut short, or one that goes on from a copy of another; what each process ended with."""
    settings = {
        "out": out,
        "data": {"train": "world:shifted?count=40&seed=5", "validation": "world:shifted?count=7&seed=6"},
        "rollout": {"group_size": 3, "max_tokens": 40},
        "prompts_per_step": 4,
        "steps": 4,
        "checkpoint": {"every": 2, "keep": 0},
        "evaluation": {"every": 2},
        "threads": 1,
    }
    if resume and parallel.rank() == 0:
        shutil.copytree(resume, out)
        if harm:
            data = bytearray(Path(out, harm).read_bytes())
            data[len(data) // 2] ^= 1
            Path(out, harm).write_bytes(data)
    parallel.barrier()
    problem = None
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train(load_config(RECIPE, merge(settings, changes)))
        if harm:
            problem = [str(warning.message) for warning in said if "damaged" in str(warning.message)]
    except Exception as error:  # noqa: BLE001 - what is tested
        problem = f"{type(error).__name__}: {error}"
    return parallel.gather([problem])


def command(arguments):
    """Exit code, output and errors of a command on each process."""
    out, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = main(arguments)
    return parallel.gather([(code, out.getvalue(), errors.getvalue())])


def helpers():
    """Numbers, items and failures brought together."""
    items = list(parallel.share(list(range(7))))
    said = None
    try:
        with parallel.agreed():
            if parallel.rank() == 1:
                raise KeyError("the second process alone")
    except Exception as error:  # noqa: BLE001 - what is tested
        said = repr(error)
    return {
        "shares": parallel.gather([items]),
        "rejoined": parallel.rejoin(items),
        "total": parallel.total([1.0, parallel.rank()]),
        "said": parallel.gather([said]),
    }


def _work(rank, processes, port, jobs):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    parallel.start(timeout=1.0)
    for job in jobs:
        torch.manual_seed(0)
        with redirect_stderr(io.StringIO()):
            found = globals()[job["function"]](**job["arguments"])
        if rank == 0:
            torch.save(found, job["result"])
        parallel.barrier()
    parallel.stop()


def _main(path):
    fork = multiprocessing.get_context("fork")
    for world in json.loads(Path(path).read_text()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        count = world["processes"]
        workers = [fork.Process(target=_work, args=(rank, count, port, world["jobs"])) for rank in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            return 1
    return 0


def run_worlds(folder, worlds, timeout=560):
    """Run jobs in worlds of processes.

    Args:
        folder: For the results.
        worlds: (number of processes, {name: (function, keyword arguments)}), in order.
        timeout: Seconds for all.

    Returns:
        (number of processes, name) -> what the first process got back.
    """
    plan, results = [], {}
    for processes, jobs in worlds:
        listed = []
        for name, (function, arguments) in jobs.items():
            results[processes, name] = folder / f"{len(results)}.pt"
            listed.append({"function": function, "arguments": arguments, "result": str(results[processes, name])})
        plan.append({"processes": processes, "jobs": listed})
    (folder / "jobs.json").write_text(json.dumps(plan))
    paths = [Path(visurf.__file__).parents[1], Path(__file__).parent]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, __file__, str(folder / "jobs.json")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert ran.returncode == 0, ran.stderr
    return {key: torch.load(path, weights_only=False) for key, path in results.items()}


if __name__ == "__main__":
    raise SystemExit(_main(sys.argv[1]))
