"""Times epochs in turn: of a plain loop, of the library, and with each of the choices in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.plain_training import PlainTraining, best_workers
from experiments.benchmarks.sizes import Size
from experiments.benchmarks.timing import Comparison, interleave, steady, usable_cores
from experiments.benchmarks.training_agreement import batches_to_compare, loss_difference
from experiments.benchmarks.training_crew import in_precision
from experiments.studies.image_shapes import random_images, shape_of_data
from experiments.studies.profiles import profile, specs
from lpc.data import ImageSet
from lpc.specs import Precision, RunSpec
from lpc.training import trainer
from lpc.training.cohorts import shape_of
from lpc.training.draws import Draws

PLAIN = "plain loop"
PATIENCE = {"cpu": 1, "cuda": 4}
"""Factor on the usual time limit on a GPU, where networks are larger."""
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Timed:
    """Epochs of runs of one shape, timed in turn with different programs.

    Attributes
    ----------
    specs
        Specs of the trained runs.
    images
        Images of an epoch.
    workers
        Number of the plain loop's DataLoader workers.
    seconds
        Seconds of an epoch of all runs, one value per turn, by program.
    difference
        Difference of the losses (:func:`loss_difference`).
    target
        Smallest ratio to reach; None: there is no target.
    cold
        Whether the only affordable turn is also the first call.
    """

    specs: Sequence[RunSpec]
    images: int
    workers: int
    seconds: Mapping[str, np.ndarray]
    difference: float
    target: float | None
    cold: bool

    @property
    def name(self) -> str:
        """Name of the runs in the tables."""
        return name_of(self.specs)

    @property
    def ours(self) -> str:
        """Name of the program that is the library with the specs' settings."""
        return _ours(self.specs[0])

    def rate(self, program: str) -> float:
        """Return images per second, over all runs, in the median epoch."""
        return self.images * len(self.specs) / float(np.median(self.seconds[program]))

    def runs_an_hour(self, program: str) -> float:
        """Return how many complete runs of these specs a program trains per hour, without measurements."""
        spec = self.specs[0]
        return 3600 * self.rate(program) / (spec.train.epochs * shape_of_data(spec.data).train)

    def against(self, program: str, other: str = PLAIN) -> Comparison:
        """Return the comparison, turn by turn, of a program (ours) with another (theirs)."""
        ours, theirs = self.seconds[program], self.seconds[other]
        low, middle, high = np.quantile(theirs / ours, [0.25, 0.5, 0.75]).tolist()
        own, their = float(np.median(ours)), float(np.median(theirs))
        return Comparison(own, their, middle, low, high, len(ours), self.cold, self.difference)


def network(spec: RunSpec) -> str:
    """Return a run's backbone and its width, as the tables call them."""
    return f"{spec.model.backbone} ({spec.model.backbone_width})"


def name_of(together: Sequence[RunSpec]) -> str:
    """Return the name in the tables of runs that train together, or of a single one."""
    spec, runs = together[0], f", {len(together)} runs together" if len(together) > 1 else ""
    return f"{network(spec)}, {spec.train.precision}{runs}"


def first_run(name: str, size: Size, *, precision: Precision | None = None) -> RunSpec:
    """Return the first IB run of a profile, with the batch size that is timed.

    Parameters
    ----------
    name
        Name of the profile; ``fashion-cpu`` is the one for a small ResNet.
    size
        Sizes of the timed work.
    precision
        Precision of the run; None: the profile's own.
    """
    spec = _timed_spec(specs(profile(name), only=("IB",))[0], size)
    return spec if precision is None else in_precision(spec, precision)


def digits_cohort(size: Size) -> list[RunSpec]:
    """Return runs of profile ``laptop`` that train together."""
    declared = specs(profile("laptop"))
    alike = [spec for spec in declared if shape_of(spec) == shape_of(declared[0])][: size.cohort]
    return [_timed_spec(spec, size) for spec in alike]


def _timed_spec(spec: RunSpec, size: Size) -> RunSpec:
    return replace(spec, train=replace(spec.train, batch_size=size.training_batch or spec.train.batch_size))


def fed(plain: PlainTraining, images: ImageSet) -> Callable[[], Any]:
    """Return a function that takes the plain loop's steps for an epoch on images that the library makes."""
    draws = Draws(plain.spec, images, model=plain.model)

    def epoch() -> None:
        plain.begin_epoch()
        for batch in draws.epoch():
            plain.step(batch.images, batch.label)

    return epoch


def time_run(
    spec: RunSpec,
    size: Size,
    *,
    device: str = "cpu",
    target: float | None = None,
    choices: bool = True,
) -> Timed:
    """Time epochs of one run in the plain loop, in the library, and with the choices in between.

    Parameters
    ----------
    spec
        Spec of the run. The plain loop trains it in float32.
    size
        Sizes of the timed work.
    device
        Type of the device, ``"cpu"`` or ``"cuda"``.
    target
        Smallest ratio to reach; None: there is no target.
    choices
        Whether to time the effect of each choice, too.
    """
    if device == "cuda":
        torch.compiler.reset()  # compiled networks of one class share a limit on their number
    total = size.training_images if device == "cpu" else size.gpu_training_images
    tried = random_images(spec.data, max(total // 2, spec.train.batch_size), device=device)
    workers = best_workers(spec, tried, cores=usable_cores(), device=device)
    images = random_images(spec.data, total, device=device)
    plain = PlainTraining(spec, images, device=device, workers=workers)
    if choices:
        programs = {PLAIN: plain.train_epoch, **_choices(spec, images)}
    else:
        programs = {PLAIN: plain.train_epoch, _ours(spec): trainer([spec], images).train_epoch}
    seconds, cold = _turns(programs, size, device)
    batches = batches_to_compare(images.images.device)
    few = random_images(spec.data, batches * spec.train.batch_size, device=device)
    return Timed([spec], len(images), workers, seconds, loss_difference(spec, few), target, cold)


def _ours(spec: RunSpec) -> str:
    return f"lpc, {spec.train.precision}"


def _choices(spec: RunSpec, images: ImageSet) -> dict[str, Callable[[], Any]]:
    """Return the programs between the plain loop and the library, and the library in both precisions."""
    device = images.images.device
    single, half = (in_precision(spec, name) for name in PRECISIONS)
    programs: dict[str, Callable[[], Any]] = {
        "plain loop, no DataLoader": fed(PlainTraining(spec, images, device=device), images),
        "and channels last": fed(PlainTraining(spec, images, device=device, channels_last=True), images),
        _ours(single): trainer([single], images).train_epoch,
        _ours(half): trainer([half], images).train_epoch,
    }
    if device.type == "cuda":
        for compiled, graphed in ((False, False), (True, False), (False, True)):
            without = [name for name, on in (("compile", compiled), ("graph", graphed)) if not on]
            made = trainer([half], images, compiled=compiled, graphed=graphed)
            programs[f"{_ours(half)}, without {' and '.join(without)}"] = made.train_epoch
    return programs


def time_cohort(together: Sequence[RunSpec], size: Size, *, device: str = "cpu") -> Timed:
    """Time epochs of runs that train together, against plain loops that train some of them one by one.

    Parameters
    ----------
    together
        Specs of the runs.
    size, device
        Arguments of :func:`time_run`.
    """
    images = random_images(together[0].data, size.digits, device=device)
    workers = best_workers(together[0], images, cores=usable_cores(), device=device)
    looped = [PlainTraining(spec, images, device=device, workers=workers) for spec in together[: size.looped]]
    cohort = trainer(together, images)
    programs = {
        PLAIN: lambda: [plain.train_epoch() for plain in looped],
        _ours(together[0]): cohort.train_epoch,
    }
    seconds, cold = _turns(programs, size, device)
    seconds[PLAIN] = seconds[PLAIN] * len(together) / len(looped)
    difference = loss_difference(together[0], images)
    return Timed(together, len(images), workers, seconds, difference, None, cold)


def _turns(
    programs: Mapping[str, Callable[[], Any]], size: Size, device: str
) -> tuple[dict[str, np.ndarray], bool]:
    """Return every program's seconds in all turns except the first, or in the first if there is no other."""
    if device == "cuda":
        for program in programs.values():
            program()  # compiles, which no limit should count
    limit = PATIENCE[device] * size.training_limit
    options = {"repeats": size.training_repeats, "limit": limit, "enough": steady, "device": device}
    turns = interleave(list(programs.values()), **options)
    taken = np.array([seconds for seconds, _ in turns])
    kept = taken[1:] if len(taken) > 1 else taken
    return dict(zip(programs, kept.T, strict=True)), len(taken) == 1
