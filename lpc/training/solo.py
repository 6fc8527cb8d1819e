"""Solo: one run trains alone, as fast as the device allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lpc.centres import moved_centres
from lpc.classifiers import build_classifier
from lpc.computing.numerics import measurement
from lpc.computing.precision import cudnn_trials, exact_float32
from lpc.computing.threads import by_work
from lpc.data import ImageSet
from lpc.heads import HeadOutput
from lpc.specs import METRIC_LEARNING, RunSpec
from lpc.training.compiling import compiles
from lpc.training.draws import Batch
from lpc.training.optimizers import of_run, restore, set_rates
from lpc.training.recording import RecordedStep, check_recordable
from lpc.training.trainers import Trainer, check_device, same_shapes


class Solo(Trainer):
    """A single run, for networks large enough to fill the device.

    Parameters
    ----------
    specs
        Spec of the run, in a list of one.
    images
        Train set, on the device to train on.
    compiled
        Whether to compile the backbone (``torch.compile``). None: on a GPU if that works; if not, a warning
        says why.
    graphed
        Whether to record a step as a CUDA graph and replay it. None: on a GPU, except for objectives of
        metric learning, whose library waits for the device to count pairs.

    Notes
    -----
    The backbone runs channels-last, under autocast where the spec's precision is bfloat16; head, penalty,
    loss, weights and optimizer stay in float32. gamma and the learning rates are tensors on the device, so
    that a recorded step stays valid when they change. A step of another batch size, the last one of an
    epoch, is taken as it is: neither recorded nor compiled, as a second size would make ``torch.compile``
    compile for any. Within an epoch nothing waits for the device, but for metric learning.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        images: ImageSet,
        *,
        compiled: bool | None = None,
        graphed: bool | None = None,
    ) -> None:
        (spec,) = specs
        self.device = images.images.device
        on_gpu = self.device.type == "cuda"
        self.compiled = on_gpu and compiles(self.device) if compiled is None else compiled
        objective = spec.train.objective
        metric_learning = objective in METRIC_LEARNING
        self.graphed = on_gpu and not metric_learning if graphed is None else graphed
        if self.graphed and metric_learning:
            raise ValueError(
                f"graphed is True, but a CUDA graph cannot hold a step of the objective {objective!r}, which "
                "waits for the device"
            )
        if self.graphed:
            check_recordable(self.device)
        model = build_classifier(
            spec.model, channels=images.channels, size=images.size, classes=images.classes, seed=spec.seed
        )
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__([spec], images, model=self.model)
        self.half = spec.train.precision == "bfloat16"
        backbone = self.model.backbone
        self.backbone = torch.compile(backbone, dynamic=False) if self.compiled else backbone
        self.optimizer = of_run(spec.train, self.model.named_parameters(), seed=spec.seed, on_gpu=on_gpu)
        weight = self.model.head.penultimate.weight if self.model.head.penultimate is not None else None
        self.penalised = weight if spec.train.penalty == "weight_l1" else None
        self.last_layer = self.model.get_submodule("head.classifier") if metric_learning else None
        moving = spec.train.penalty == "centre"
        shape = (images.classes, self.latent_width)
        self.centres = torch.zeros(shape, device=self.device) if moving else None
        self.factor, self.l1 = self._weights_of_penalties()
        self.totals = torch.zeros(2, 1, device=self.device)
        self._counted = by_work(self._step, size=lambda batch: len(batch.label))
        self.recording = RecordedStep(self._step, self.optimizer, self.device) if self.graphed else None

    def _train(self) -> Float[Tensor, "two runs"]:
        with exact_float32(), cudnn_trials("cudnn_trials" in self.choices):
            for _ in self.steps():
                pass
        return self.totals.clone()

    def steps(self) -> Iterator[None]:
        """Take the steps of an epoch, one per requested item; sums are in ``totals``."""
        self.model.train()
        self.factor.copy_(self._weights_of_penalties()[0])
        set_rates(self.optimizer, [rate for (rate,) in self.rates()])
        self.totals.zero_()
        for batch in self.draws[0].epoch():
            batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
            if self.recording is not None and len(batch.label) == self.specs[0].train.batch_size:
                self.recording(batch)
            else:
                self._counted(batch)
            yield

    def _step(self, batch: Batch) -> None:
        drawn, label = batch.drawn, batch.label
        masks = {"mask": drawn.pop("mask")} if "mask" in drawn else {}
        backbone = self.backbone if len(label) == self.specs[0].train.batch_size else self.model.backbone
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half, cache_enabled=False):
            features = backbone(batch.images, **masks)
        output = self.model.head(features, **drawn)
        losses = self.loss(
            output,
            label,
            gamma=self.factor[0],
            l1=self.l1[0],
            weight=self.penalised,
            classifier=self.last_layer,
            centres=self.centres,
        )
        self.optimizer.zero_grad(set_to_none=True)
        (losses[0] + losses[1]).backward()
        self.optimizer.step()
        if self.centres is not None:
            rate = self.specs[0].train.centre_rate
            moved = moved_centres(self.centres, output.latent.detach(), label, rate=rate, check=False)
            self.centres.copy_(moved)
        self.totals += torch.stack(losses).detach()[:, None] * label.shape[0]

    @measurement
    @torch.no_grad()
    def outputs(self, images: ImageSet, *, batch_size: int = 1024) -> HeadOutput:
        """Return the run's latents (1, points, width) and logits in evaluation mode, in float32."""
        return self._outputs(images, batch_size, half=False)

    @measurement
    @torch.no_grad()
    def glance(self, images: ImageSet, *, batch_size: int = 1024) -> HeadOutput:
        """Return :meth:`outputs`; where ``glances``, with the backbone in bfloat16."""
        return self._outputs(images, batch_size, half=self.glances)

    @property
    def glances(self) -> bool:
        """Whether the run trains in bfloat16 and accuracies are to be measured in it too."""
        return self.half and "half_accuracies" in self.choices

    def _outputs(self, images: ImageSet, batch_size: int, *, half: bool) -> HeadOutput:
        self.model.eval()
        network = by_work(self.model)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            parts = [
                network(
                    images.normalised(slice(start, start + batch_size)).contiguous(
                        memory_format=torch.channels_last
                    )
                )
                for start in range(0, len(images), batch_size)
            ]
        return HeadOutput(*(torch.cat(pieces)[None] for pieces in list(zip(*parts, strict=True))[:2]))

    def _stacked(self) -> dict[str, Tensor]:
        """Return all weights and buffers, runs first; writing into them changes the run."""
        return {name: value[None] for name, value in self.model.state_dict().items()}

    def member_state(self, member: int) -> dict[str, Tensor]:
        """Return the run's weights and buffers, as its classifier's ``state_dict``; ``member`` is 0."""
        if member != 0:
            raise ValueError(f"member is {member}; expected 0 for a single run")
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to continue, to the same bits on a CPU.

        On a GPU not always: compiled again in another process, the backbone may get other kernels, which
        round otherwise.
        """
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": [self.draws[0].generator.get_state()],
            "losses": self.losses,
            **({} if self.centres is None else {"centres": self.centres}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`, whose tensors may be on any device.

        A state of other shapes, or of another kind of device, is a ValueError and changes nothing.
        """
        check_device(self, state)
        if not same_shapes(self.model.state_dict(), state["model"]):
            raise ValueError("the checkpoint's weights do not have the shapes of this run's")
        self.model.load_state_dict(state["model"])
        if self.centres is not None:
            self.centres.copy_(state["centres"])
        restore(self.optimizer, state["optimizer"])
        self.draws[0].generator.set_state(state["generators"][0].cpu())
        self.losses, self.epoch = state["losses"], state["epoch"]
        if self.recording is not None:
            self.recording.forget()
