"""The policy shared out: every process holds a part of each parameter, of its gradient and of its optimiser state (FSDP2).

A layer is gathered when it runs. Hence all processes must run the same modules equally often: a process with fewer rows than
another runs idle ones, a row without an image gets an idle prompt with one, and sampling happens on gathered layers. None of this
changes a gradient: nothing is predicted from an idle prompt.
Source: Zhao et al., "PyTorch FSDP", arXiv 2304.11277; torch's `fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from visurf import parallel
from visurf.models.family import VisionLanguageModel
from visurf.packing import Bundle, PackedRow, build_row
from visurf.policy import Policy
from visurf.types import ImageRef, Objects, Sample


class Shards:
    """The policy in parts; a `visurf.placement.Placement`."""

    # Processes meet in every layer: one that failed inside cannot catch up with the others.
    repeats = False
    # Layer by layer, processes meet in every step, and a recorded step would leave that out; on the whole model it is untried.
    records = False

    def __init__(self, policy: Policy, model: VisionLanguageModel, *, half: bool, whole_model: bool, offload: bool = False) -> None:
        """Shard a policy in place.

        Args:
            policy: Its parameters may still be on the CPU; their parts land on this process's device.
            model: Brings the family, and the idle prompt.
            half: Gather parameters as bfloat16 (gradients are summed in float32).
            whole_model: Gather the whole model for the time of sampling, not one layer at a time.
            offload: Keep the parts in host memory, with gradients and optimiser states; they come to the device to be gathered.
        """
        self.policy, self.model, self.half, self.whole_model, self.offload = policy, model, half, whole_model, offload
        blank = ImageRef(Image.new("RGB", (64, 64)))
        self.prompt = model.encode_prompt(Sample("idle", (blank,), "", Objects()), "")
        self.device = parallel.device()
        self.tower = policy.base().get_submodule(model.family.vision_module)
        # A frozen tower stays whole: it is small beside the language model, and then takes part in no collective.
        self.whole_tower = not any(p.requires_grad for p in self.tower.parameters())
        # It computes in the type of the layers that its features meet; what is written is what was loaded.
        self.unrounded: dict[str, Tensor] = {}
        if self.whole_tower and half and parallel.rank() == 0:
            name = model.family.vision_module
            self.unrounded = {
                f"{name}.{n}": p.detach().to("cpu", copy=True)
                for n, p in self.tower.named_parameters()
                if p.dtype != torch.bfloat16
            }
        # Adapters stand on the language model alone, which every row uses.
        self.adapted = hasattr(policy.network, "peft_config")
        self.place(policy)
        self.trained = [p for p in policy.parameters() if p.requires_grad]
        self.missing = 0

    def place(self, policy: nn.Module) -> None:
        """See `visurf.placement.Placement.place`."""
        assert isinstance(policy, Policy)
        base = policy.base()
        tower = base.get_submodule(self.model.family.vision_module)
        whole = set(tower.modules()) if self.whole_tower else set()
        layers = [m for m in base.modules() if type(m).__name__ in (base._no_split_modules or ()) and m not in whole]
        if not layers:
            raise RuntimeError(f"{type(base).__name__} names no layers (_no_split_modules) to shard; use parallel=ddp")
        mesh = init_device_mesh(self.device.type, (torch.distributed.get_world_size(),))
        # Inputs are cast by autocast: the packed layout must reach every layer as the one object it is.
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        # Pinned memory is copied to a GPU while it computes.
        host = CPUOffloadPolicy(pin_memory=self.device.type == "cuda") if self.offload else OffloadPolicy()
        settings: dict[str, Any] = {
            "mesh": mesh,
            "mp_policy": half if self.half else MixedPrecisionPolicy(),
            "offload_policy": host,
        }
        for layer in layers:
            fully_shard(layer, **settings)
        fully_shard(policy, ignored_params={p for m in whole for p in m.parameters()}, **settings)
        if self.whole_tower:
            for parameter in tower.parameters():
                parameter.data = parameter.data.to(self.device, torch.bfloat16 if self.half else None)
            tower.to(self.device)
        for module in sharded(policy):
            # Sums, not means: the loss carries the scale of the whole step.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        # The first forward decides which module is the outermost one.
        with torch.no_grad():
            self._idle(policy)
        sharded(policy)[0].reshard()

    def begin(self, rows: int) -> None:
        """See `visurf.placement.Placement.begin`."""
        self.missing = self._missing(rows)
        for parameter in self.trained:
            parameter.grad = None

    def complete(self, bundles: Sequence[Bundle]) -> Sequence[Bundle]:
        """See `visurf.placement.Placement.complete`."""
        if self.adapted or any(b.prompt.tensors for b in bundles):
            return bundles
        if unshared := self.model.family.unshared:
            raise RuntimeError(
                f"with parallel=fsdp2 every prompt of family {self.model.family.name!r} needs an image, because it cannot share "
                f"rows ({unshared}); use parallel=ddp, or adapters (model.lora.rank)"
            )
        return [*bundles, Bundle(self.prompt, ())]

    def backward(self, loss: Tensor) -> None:
        """See `visurf.placement.Placement.backward`."""
        loss.backward()

    def finish(self) -> None:
        """See `visurf.placement.Placement.finish`."""
        for _ in range(self.missing):
            self._idle(self.policy).sum().backward()
        # Passes without gradient leave the outermost part gathered; the optimiser's step would not reach it.
        sharded(self.policy)[0].reshard()
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def abandon(self) -> None:
        """See `visurf.placement.Placement.abandon`; there is no way to."""

    def clip(self, limit: float) -> Tensor:
        """See `visurf.placement.Placement.clip`."""
        norm: Any = nn.utils.clip_grad_norm_(self.trained, limit)
        whole: Tensor = norm.full_tensor()
        return whole.to(self.device)

    @contextmanager
    def passes(self, policy: nn.Module, rows: int) -> Iterator[None]:
        """See `visurf.placement.Placement.passes`."""
        missing = self._missing(rows)
        yield
        for _ in range(missing):
            self._idle(policy)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """See `visurf.placement.Placement.sampling`."""
        modules = sharded(self.policy)
        if not self.whole_model:
            # The language model's layers are left out: they are many, and together nearly all of the model.
            tower = set(self.tower.modules())
            modules = [m for m in modules if m is self.policy or m in tower]
        inner = [m for m in modules if m is not self.policy]
        for module in inner:
            module.set_reshard_after_forward(False, recurse=False)
        for module in modules:
            module.unshard()
        try:
            if self.whole_model:
                yield
            else:
                with self._in_step():
                    yield
        finally:
            for module in inner:
                module.set_reshard_after_forward(True, recurse=False)
            for module in modules:
                module.reshard()

    def weights(self, network: nn.Module) -> dict[str, Tensor] | None:
        """See `visurf.placement.Placement.weights`."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=hasattr(network, "peft_config"))
        # Tied parameters are gathered under both their names; one is enough.
        names = {n for n, _ in network.named_parameters()} | {n for n, _ in network.named_buffers()}
        found: dict[str, Any] = get_model_state_dict(network, options=options)
        return {name: self.unrounded.get(name, tensor) for name, tensor in found.items() if name in names}

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Before each pass through the backbone all processes meet; one that has no more runs idle passes until all are done."""
        backbone = self.policy.base().model

        def meet(*_: Any) -> None:
            parallel.total([1.0])

        handle = backbone.register_forward_pre_hook(meet)
        try:
            yield
        finally:
            handle.remove()
            with torch.no_grad(), self._autocast():
                while parallel.total([0.0])[0] > 0:
                    backbone(**self._row().inputs)

    def _missing(self, rows: int) -> int:
        """How many rows more than this one another process has; to be asked before the first of them runs."""
        return max(parallel.gather([rows])) - rows

    def _idle(self, policy: nn.Module) -> Tensor:
        """A row from which nothing is predicted through a policy: (0,), in the arithmetic of other rows."""
        with self._autocast():
            found: Tensor = policy(self._row())
        return found

    def _autocast(self) -> torch.autocast:
        """What other rows run under, where layers are gathered as bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def _row(self) -> PackedRow:
        """A row from which nothing is predicted."""
        return build_row([Bundle(self.prompt, ())], self.model.family, self.device)


def sharded(policy: nn.Module) -> list[Any]:
    """The modules of a policy that are gathered as one each, the policy itself first."""
    return [m for m in policy.modules() if isinstance(m, FSDPModule)]
