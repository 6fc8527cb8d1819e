"""The attacks of adv-lib, foolbox and pyautoattack, each as a function of one :class:`Case`."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from lpc.arrays import binary_scale, images_at_once
from lpc.evaluation._networks.attack_checks import Box, Norm
from lpc.evaluation._networks.networks import Logits
from lpc.evaluation.robustness import DeepFool, Status
from lpc.evaluation.robustness import steps as deepfool_steps

WIDE = 4.0
"""Half the width of the box that replaces a missing one, in units of the power of two above the images."""
TARGETS = 9
"""Largest number of classes that a targeted attack aims at, the likeliest first: AutoAttack's."""
FIRST = 0.05
"""Change of every pixel that gives the first radius of a search when no radius is known."""
_QUIET = logging.getLogger(f"{__name__}.quiet")
_QUIET.setLevel(logging.ERROR)  # Auto-PGD warns of each batch with a zero gradient

GROWTH, KNOWN_GROWTH = 1.5, 1.1
"""First factors of a radius that is not yet bracketed, from a guess and from a known radius.

Each further factor is the square of the last."""
QUERIES, EVALUATIONS, JUMPS = 25_000, 100, 50
"""HopSkipJump: queries per image, queries for the first step's gradient, and steps."""
REPEATS = 10
"""Largest number of times in a row that HopSkipJump may ask for the same images; three have a reason."""
SMALLEST_SIDE = 5
"""Smallest side for Square, which begins with tiles of a fifth of a side and divides by their size."""
DRAWS = 100
"""Number of draws of uniform noise in search of a misclassified starting point."""


@dataclass
class Case:
    """Images that one call of an attack works on.

    Attributes
    ----------
    logits_fn, image, label, box
        The arguments of :func:`~lpc.evaluation.attacks.attack`; ``label`` is the decision to change.
    budget
        Number of steps or queries.
    rounds
        Number of radii tried by an attack of fixed radius.
    start
        Misclassified images, or None.
    norm
        Norm that measures perturbations: ``"l2"`` or ``"linf"``.
    target
        Class to reach, one per image; None: any but the decision.
    note
        Reasons why no attack was tried, by row; filled by the attack.
    rows
        Number of images that have passed through ``logits_fn``.
    """

    logits_fn: Logits
    image: Tensor
    label: Tensor
    box: Box | None
    budget: int
    rounds: int
    start: Tensor | None
    norm: Norm = "l2"
    target: Tensor | None = None
    note: dict[int, str] = field(default_factory=dict)
    rows: int = 0

    def logits(self, image: Tensor) -> Tensor:
        """Return the logits, and count the rows."""
        self.rows += len(image)
        return self.logits_fn(image)

    def fooled(self, image: Tensor) -> Tensor:
        """Return which images have lost their decision or, with a target, have reached it."""
        with torch.no_grad():
            logits = self.logits(image)
        decision = logits.argmax(dim=1)
        reached = decision != self.label if self.target is None else decision == self.target
        return reached & torch.isfinite(logits).all(dim=1)

    @functools.cached_property
    def unit(self) -> float:
        """The width of the box; without one, the next power of two above the largest absolute pixel."""
        return 2 * binary_scale(self.image) if self.box is None else self.box[1] - self.box[0]

    @functools.cached_property
    def bounds(self) -> Box:
        """The box, or one so wide that it has no effect."""
        return (-WIDE * self.unit, WIDE * self.unit) if self.box is None else self.box

    def rows_of(self, index: Tensor) -> Case:
        """Return the case of some of the images; its rows count here as well."""
        image, label = self.image[index], self.label[index]
        start, target = (None if given is None else given[index] for given in (self.start, self.target))
        part = replace(
            self,
            logits_fn=self.logits,
            image=image,
            label=label,
            start=start,
            target=target,
            note={},
            rows=0,
        )
        part.unit = self.unit
        return part

    def clip(self, image: Tensor) -> Tensor:
        """Return the images with each pixel in the box."""
        return image if self.box is None else image.clamp(*self.box)

    def length(self, image: Tensor) -> Tensor:
        """Return the float64 distance of each image from the unperturbed one."""
        change = image.double() - self.image.double()
        return torch.linalg.vector_norm(change.flatten(start_dim=1), self.order, dim=1)

    @property
    def order(self) -> float:
        """The p of the norm."""
        return 2.0 if self.norm == "l2" else math.inf

    @property
    def diagonal(self) -> float:
        """The length of a change of every pixel by one."""
        return math.sqrt(self.image[0].numel()) if self.norm == "l2" else 1.0


class Cube:
    """A case in coordinates of the unit cube, which adv-lib and pyautoattack insist on.

    Parameters
    ----------
    case
        Images and their box.
    dtype
        Dtype of the coordinates; None: that of the images. adv-lib's FAB and SuperDeepFool mix float32 sums
        with their inputs and therefore get float32 coordinates; the network computes in its own dtype.
    """

    def __init__(self, case: Case, *, dtype: torch.dtype | None = None) -> None:
        self.case = case
        self.low, high = case.bounds
        self.width = high - self.low
        self.image = ((case.image - self.low) / self.width).clamp(0, 1).to(dtype or case.image.dtype)

    def outside(self, point: Tensor) -> Tensor:
        """Return the images at points of the cube."""
        return point.to(self.case.image.dtype) * self.width + self.low

    def logits(self, point: Tensor) -> Tensor:
        """Return the logits at points of the cube."""
        return self.case.logits(self.outside(point))


REASONS = {
    Status.NO_GRADIENT: "NO_GRADIENT: no candidate's logit moves relative to the decision's",
    Status.NOT_FINITE: "NOT_FINITE: a logit or a gradient became NaN or infinite",
}
"""Reasons why DeepFool stops early."""


def deepfool(case: Case) -> Tensor:
    """DeepFool; in a box, of the network behind a clamp, so that pixels beyond a limit move no further."""
    found = _deepfool(case, max_iter=case.budget)
    for row, status in enumerate(found.status.tolist()):
        if status in REASONS:
            case.note[row] = REASONS[Status(status)]
    return case.clip(case.image + found.perturbation)


def _deepfool(case: Case, *, max_iter: int) -> DeepFool:

    def held(image: Tensor) -> Tensor:
        inside = case.clip(image.detach())  # torch.clamp has no gradient at a limit, where most pixels start
        return case.logits(torch.where(inside == image, image, inside))

    return deepfool_steps(
        held,
        case.image,
        overshoot=0.02,
        max_iter=max_iter,
        candidates=10,
        step_floor=0.0,
        chunk=images_at_once(case.image, None),
    )


def superdeepfool(case: Case) -> Tensor:
    """SuperDeepFool of adv-lib."""
    from adv_lib.attacks import sdf

    cube = Cube(case, dtype=torch.float32)
    return cube.outside(sdf(_callable(cube.logits), cube.image, case.label, steps=case.budget))


def fab(case: Case) -> Tensor:
    """FAB of adv-lib, towards the nearest of all classes at each step."""
    from adv_lib.attacks import fab

    cube = Cube(case, dtype=torch.float32)
    return cube.outside(
        fab(_callable(cube.logits), cube.image, case.label, norm=case.order, n_iter=case.budget)
    )


def fab_targeted(case: Case) -> Tensor:
    """FAB of adv-lib on one class at a time, all at once: rows of one image and one other class each."""
    from adv_lib.attacks import fab

    cube, targets = Cube(case, dtype=torch.float32), likeliest(case)
    own, other = case.label.repeat(targets.shape[1]), targets.T.reshape(-1)

    def two_classes(point: Tensor) -> Tensor:
        return cube.logits(point).gather(1, torch.stack([own, other], dim=1))

    image = cube.image.repeat(targets.shape[1], 1, 1, 1)
    found = fab(_callable(two_classes), image, torch.zeros_like(own), norm=case.order, n_iter=case.budget)
    return nearest(case, cube.outside(found).unflatten(0, (targets.shape[1], -1)))


def ddn(case: Case) -> Tensor:
    """DDN of foolbox, whose steps are in the units of the images also in a wide box."""
    from foolbox.attacks.ddn import DDNAttack

    return _foolbox(case, DDNAttack(steps=case.budget))


def apgd(case: Case, *, loss: str, restarts: int) -> Tensor:
    """Auto-PGD of pyautoattack at the smallest radius at which one of its random starts succeeds."""
    from pyautoattack.autopgd_base import APGDAttack

    starts = case.label[:, None].expand(-1, restarts)
    known = _known(case)
    return _least_radius(case, lambda radius: _auto_pgd(case, APGDAttack, radius, starts, loss=loss), known)


def apgd_targeted(case: Case) -> Tensor:
    """Auto-PGD of pyautoattack on the targeted loss, at the smallest radius at which one class is reached."""
    from pyautoattack.autopgd_base import APGDAttack_targeted

    targets = likeliest(case)
    known = _known(case)
    return _least_radius(case, lambda radius: _auto_pgd(case, APGDAttack_targeted, radius, targets), known)


def _known(case: Case) -> Tensor:
    """Return the images whose distances start a white-box search of radii: ``start``, else DeepFool's."""
    if case.start is not None:
        return case.start
    return case.clip(case.image + _deepfool(case, max_iter=50).perturbation)


def square(case: Case) -> Tensor:
    """Square of pyautoattack at the smallest radius at which it succeeds."""
    if min(case.image.shape[-2:]) < SMALLEST_SIDE:
        reason = f"Square needs images of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels"
        case.note.update(dict.fromkeys(range(len(case.image)), reason))
        return case.image
    cube = Cube(case)

    def at(radius: Tensor) -> Tensor:
        attack = _square()(cube.logits, norm="L2", n_queries=case.budget, device=cube.image.device)
        attack.eps = _as_pixels(radius / cube.width).to(cube.image.dtype)
        attack.init_hyperparam(cube.image)
        return cube.outside(attack.attack_single_run(cube.image, case.label)[1])

    return _least_radius(case, at, case.start)


def hopskipjump(case: Case) -> Tensor:
    """HopSkipJump of foolbox, with the direction of each image at length one."""
    return _from_start(case, lambda part, start: _jump(part, start))


def boundary(case: Case) -> Tensor:
    """Boundary attack of foolbox."""
    from foolbox.attacks.boundary_attack import BoundaryAttack

    return _from_start(
        case, lambda part, start: _foolbox(part, BoundaryAttack(steps=part.budget), starting_points=start)
    )


def random_directions(case: Case) -> Tensor:
    """Return the nearest changes of decision along random directions, which an attack must beat."""
    best, shortest = case.image.clone(), case.length(case.image) + torch.inf
    radius = torch.full_like(shortest, _first_radius(case))
    for _ in range(case.budget):
        direction = torch.randn(case.image.shape, dtype=torch.float64, device=case.image.device)
        if case.norm == "linf":
            direction = direction.sign()
        direction /= _as_pixels(torch.linalg.vector_norm(direction.flatten(1), case.order, dim=1))
        hit = torch.nonzero(case.fooled(_along(case, direction, radius)))[:, 0]
        part = case.rows_of(hit)
        high, low = radius[hit], torch.zeros_like(radius[hit])
        for _ in range(HALVINGS if len(hit) else 0):
            middle = (low + high) / 2
            inside = part.fooled(_along(part, direction[hit], middle))
            high, low = torch.where(inside, middle, high), torch.where(inside, low, middle)
        point = _along(part, direction[hit], high)
        length = part.length(point)
        better = length < shortest[hit]
        best[hit[better]], shortest[hit[better]] = point[better], length[better]
        radius[hit] = torch.minimum(radius[hit], high)
        radius = torch.where(torch.isinf(shortest), (2 * radius).clamp(max=_longest(case)), radius)
    return best


HALVINGS = 10
"""Precision of the interval between an image and a changed decision, along one direction."""


def _along(case: Case, direction: Tensor, length: Tensor) -> Tensor:
    return case.clip(case.image + (_as_pixels(length) * direction).to(case.image.dtype))


def _as_pixels(value: Tensor) -> Tensor:
    """Return one value per image in a shape that broadcasts with its pixels."""
    return value[:, None, None, None]


def likeliest(case: Case) -> Tensor:
    """Return the classes to aim at, (images, targets): the target, or the likeliest but the decision."""
    if case.target is not None:
        return case.target[:, None]
    with torch.no_grad():
        logits = case.logits(case.image).clone()
    order = logits.scatter(1, case.label[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)
    return order[:, 1 : 1 + TARGETS]


def nearest(case: Case, tries: Tensor) -> Tensor:
    """Return for each image the nearest of several tries (tries, images, ...) that fools; else the image."""
    best = case.image
    shortest = torch.full((len(best),), torch.inf, dtype=torch.float64, device=best.device)
    for point in tries:
        point = case.clip(point)
        length = torch.where(case.fooled(point), case.length(point), torch.inf)
        best = torch.where(_as_pixels(length < shortest), point, best)
        shortest = torch.minimum(length, shortest)
    return best


def _first_radius(case: Case) -> float:
    return FIRST * case.unit * case.diagonal


def _longest(case: Case) -> float:
    return (case.bounds[1] - case.bounds[0]) * case.diagonal


def _least_radius(case: Case, at: Any, known: Tensor | None) -> Tensor:
    """Return the nearest fooling images of an attack of fixed radius, by bisection on each image's radius.

    From the distance of a known image, or a guess, the radius changes by growing factors until it lies
    between one that succeeds and one that fails, and then by halving the interval of its logarithm.
    """
    first = torch.full((len(case.image),), _first_radius(case), dtype=torch.float64, device=case.image.device)
    growth = torch.full_like(first, GROWTH)
    if known is not None:
        length = case.length(known)
        usable = case.fooled(known) & (length > 0)
        first, growth = torch.where(usable, length, first), torch.where(usable, KNOWN_GROWTH, growth)
    tried, step = first.log(), growth.log()
    low, high = torch.full_like(tried, -torch.inf), torch.full_like(tried, torch.inf)
    best, shortest = case.image, torch.full_like(tried, torch.inf)
    most = math.log(_longest(case))
    for _ in range(case.rounds):
        point = case.clip(at(tried.exp()).detach())
        hit = case.fooled(point)
        length = torch.where(hit, case.length(point), torch.inf)
        best = torch.where(_as_pixels(length < shortest), point, best)
        shortest = torch.minimum(length, shortest)
        high = torch.where(hit, torch.minimum(high, torch.minimum(tried, length.log())), high)
        low = torch.where(hit, low, torch.maximum(low, tried))
        low = torch.where(low < high, low, high - growth.log())  # chance: a smaller radius that succeeded
        between = torch.isfinite(low) & torch.isfinite(high)
        beyond = torch.where(hit, high - step, low + step)
        step = torch.where(between, step, 2 * step)
        tried = torch.where(between, (low + high) / 2, beyond).clamp(max=most)
    return best


def _auto_pgd(
    case: Case, method: Any, radius: Tensor, targets: Int64[Tensor, "images times"], **options: Any
) -> Tensor:
    """Return Auto-PGD's results at one radius per image, in one row for each of its targets (or restarts).

    The first target is tried alone, then the others together on the remaining images.
    """
    found, left = case.image.clone(), torch.arange(len(case.image), device=case.image.device)
    for columns in (targets[:, :1], targets[:, 1:]):
        times = columns.shape[1]
        if len(left) == 0 or times == 0:
            break
        part = case.rows_of(left)
        cube = Cube(part)
        eps = _as_pixels((radius[left] / cube.width).to(cube.image.dtype).repeat(times))
        attack = method(
            cube.logits,
            n_iter=case.budget,
            norm={"l2": "L2", "linf": "Linf"}[case.norm],
            eps=eps,
            device=eps.device,
            logger=_QUIET,
            **options,
        )
        attack.y_target = columns[left].T.reshape(-1)
        image = cube.image.repeat(times, 1, 1, 1)
        attack.init_hyperparam(image)
        point = attack.attack_single_run(image, part.label.repeat(times))[3]
        point = nearest(part, cube.outside(point).unflatten(0, (times, -1)))
        found[left] = point
        left = left[part.length(point) == 0]
    return found


@functools.cache
def _square() -> Any:
    from pyautoattack.square import SquareAttack

    class PerImageSquare(SquareAttack):
        """Square with one radius per image: no row leaves the batch once it is fooled."""

        def margin_and_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.predict(x).clone()  # the library writes into them
            own = logits.gather(1, y[:, None])[:, 0]
            loss = own - logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
            return torch.ones_like(loss), loss

    return PerImageSquare


@functools.cache
def _hop_skip_jump() -> Any:
    from eagerpy.astensor import astensor
    from foolbox.attacks.hop_skip_jump import HopSkipJumpAttack

    class PerImageHopSkipJump(HopSkipJumpAttack):
        """HopSkipJump whose steps do not depend on how many images there are.

        foolbox divides the estimated gradients of a batch by their common norm, so that each image's step
        is shorter by the root of the number of images.
        """

        def approximate_gradients(self, *args: Any) -> Any:
            together = super().approximate_gradients(*args).raw
            length = torch.linalg.vector_norm(together.flatten(start_dim=1), dim=1)
            return astensor(together / _as_pixels(length.clamp(min=torch.finfo(length.dtype).tiny)))

    return PerImageHopSkipJump


def _jump(case: Case, start: Tensor) -> Tensor:
    from foolbox.criteria import Misclassification

    cube = Cube(case)
    evaluations = max(1, round(EVALUATIONS * case.budget / QUERIES))
    attack = _hop_skip_jump()(steps=JUMPS, initial_gradient_eval_steps=evaluations)
    begin = ((start - cube.low) / cube.width).clamp(0, 1)
    network = _foolbox_model(_Steady(cube.logits), (0.0, 1.0), case)
    return cube.outside(attack.run(network, cube.image, Misclassification(case.label), starting_points=begin))


class _Steady:
    """Logits of a network that refuses to be asked the same too often in a row.

    foolbox halves HopSkipJump's step until the decision is the other one. Once the step is below the pixels'
    rounding the images no longer change, and a network that decides them otherwise than it did before would
    be asked for ever.
    """

    def __init__(self, logits_fn: Logits) -> None:
        self._logits_fn, self._last, self._repeated = logits_fn, None, 0

    def __call__(self, image: Tensor) -> Tensor:
        again = self._last is not None and torch.equal(self._last, image)
        self._repeated = self._repeated + 1 if again or not bool(torch.isfinite(image).all()) else 0
        if self._repeated > REPEATS:
            raise RuntimeError("the network no longer decides the same images as it did: no step is left")
        self._last = image.detach().clone()
        return self._logits_fn(image)


def _from_start(case: Case, run: Any) -> Tensor:
    """Run a decision-based attack on the images that have a misclassified image to start from."""
    start, known = _starting_points(case)
    for row in torch.nonzero(~known)[:, 0].tolist():
        case.note[row] = f"no misclassified starting point among {DRAWS} of uniform noise"
    found = case.image.clone()
    if bool(known.any()):
        found[known] = run(case.rows_of(torch.nonzero(known)[:, 0]), start[known])
    return found


def _starting_points(case: Case) -> tuple[Tensor, Tensor]:
    """Return misclassified images (``start``, else uniform noise), and which images have one."""
    image = case.image
    point, known = image.clone(), torch.zeros(len(image), dtype=torch.bool, device=image.device)
    if case.start is not None:
        point, known = case.start.clone(), case.fooled(case.start)
    low, high = case.box or (float(image.min()), float(image.max()))
    for _ in range(DRAWS):
        if bool(known.all()):
            break
        noise = low + (high - low) * torch.rand_like(image)
        hit = case.fooled(noise) & ~known
        point = torch.where(_as_pixels(hit), noise, point)
        known |= hit
    return point, known


class _callable(nn.Module):
    """A function of images as a module, as the libraries require."""

    def __init__(self, function: Logits) -> None:
        super().__init__()
        self.function = function
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        return self.function(image)


def _foolbox_model(logits_fn: Logits, bounds: Box, case: Case) -> Any:
    from foolbox.models.pytorch import PyTorchModel

    return PyTorchModel(_callable(logits_fn), bounds=bounds, device=case.image.device)


def _foolbox(case: Case, method: Any, **options: Any) -> Tensor:
    network = _foolbox_model(case.logits, case.bounds, case)
    return method.run(network, case.image, _criterion(case), **options)


def _criterion(case: Case) -> Any:
    from foolbox.criteria import Misclassification, TargetedMisclassification

    return Misclassification(case.label) if case.target is None else TargetedMisclassification(case.target)
