"""The smallest perturbation of an input that changes a classifier's decision."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lpc.arrays import Array, ArrayT, as_flags, as_float64, images_at_once, like, tensor_of
from lpc.computing.numerics import measurement
from lpc.evaluation._networks.networks import Logits, as_given, guarded


class Status(IntEnum):
    """Outcome of the attack on an image."""

    FOOLED = 0
    """The decision changed."""
    OUT_OF_STEPS = 1
    """``max_iter`` steps did not change the decision."""
    NO_GRADIENT = 2
    """No candidate's logit moves relative to the decision's: there is no direction to go."""
    NOT_FINITE = 3
    """A logit or a gradient became NaN or infinite."""


class DeepFool(NamedTuple):
    """Outcome of DeepFool, one entry per image.

    Attributes
    ----------
    perturbation
        (1 + overshoot) times the sum of the steps, shape and dtype of the images. It is finite even where it
        does not fool; its length is then no bound.
    fooled
        Whether the decision at image + perturbation differs from the initial one, shape (batch,).
    iterations
        Number of steps taken, int64, shape (batch,).
    status
        A :class:`Status`, int64, shape (batch,): ``FOOLED`` exactly where ``fooled``, else why not.
    """

    perturbation: Tensor
    fooled: Tensor
    iterations: Tensor
    status: Tensor


@measurement
def deepfool(
    logits_fn: Logits,
    image: Float[Array, " batch *shape"],
    *,
    overshoot: float = 0.02,
    max_iter: int = 50,
    candidates: int = 10,
    step_floor: float = 0.0,
    chunk: int | None = None,
) -> DeepFool:
    r"""Find for each image a small perturbation that changes the classifier's decision.

    Parameters
    ----------
    logits_fn
        Function from (batch, \*shape) to logits (batch, classes), each image independent of the others: a
        network in evaluation mode. It returns a tensor, or holds one as ``logits``.
    image
        Images, float32 or float64; the attack runs in this dtype, on this device. Arrays are moved to the
        network's device, and the results are then arrays.
    overshoot
        Distance beyond the linearised boundary, relative to the perturbation.
    max_iter
        Largest number of steps per image.
    candidates
        Number of classes considered, by their initial logits, the decision's own included.
    step_floor
        Constant added to the length of each step (the release: 1e-4); 0 is the paper's algorithm.
    chunk
        Largest number of images per call of ``logits_fn``, which bounds the memory; the next image takes the
        place of one that is done. None: as many as fit in :data:`~lpc.arrays.CHUNK_BYTES`, at least 1.

    Returns
    -------
    DeepFool
        Entries that depend neither on the rest of the batch nor on ``chunk``, except for the rounding of
        ``logits_fn``. An image without a usable gradient stays where it is, and its status says why.

    Raises
    ------
    ValueError
        If images or options are invalid, logits do not have shape (batch, 2 or more classes) or are not
        finite, the network is in training mode, its logits depend on chance or on the other images, or
        ``torch.inference_mode`` is on.

    Notes
    -----
    From :math:`x_0` with decision :math:`\hat k`, repeat while the decision stands:
    :math:`w_k = \nabla f_k(x_i) - \nabla f_{\hat k}(x_i)`,
    :math:`l = \arg\min_{k\ne\hat k} |f_k - f_{\hat k}| / \lVert w_k\rVert_2`,
    :math:`r_i = \frac{|f_l - f_{\hat k}|}{\lVert w_l\rVert_2^2} w_l`, and evaluate
    :math:`x_{i+1} = x_0 + (1 + \eta)\sum_{j\le i} r_j` with :math:`\eta` the overshoot. The decision is the
    predicted label, right or wrong. Nothing is clipped.

    A step costs one forward pass (the first also gives the decision), one backward pass for each of the
    other candidates, and one forward pass that checks whether the decision changed. The last is not
    shared with the next step: its graph would also hold the images that are done, whose backward passes cost
    more than the forward pass saves.

    References
    ----------
    Moosavi-Dezfooli, Fawzi and Frossard 2016, Algorithm 2; LPC 2024, Section 3.2 and Table 2.
    """
    chunk = images_at_once(image, chunk)
    if overshoot < 0 or step_floor < 0 or max_iter < 1 or candidates < 2:
        raise ValueError(
            f"overshoot={overshoot}, step_floor={step_floor}, max_iter={max_iter}, candidates={candidates}; "
            "expected 0 or more, 0 or more, 1 or more and 2 or more"
        )
    with guarded(logits_fn, image, chunk=chunk) as network:
        found = steps(
            network,
            network.image,
            overshoot=overshoot,
            max_iter=max_iter,
            candidates=candidates,
            step_floor=step_floor,
            chunk=chunk,
        )
    return as_given(found, image)


@measurement
def steps(
    network: Callable[[Tensor], Tensor],
    image: Float[Tensor, " batch *shape"],
    *,
    overshoot: float,
    max_iter: int,
    candidates: int,
    step_floor: float,
    chunk: int,
) -> DeepFool:
    """Run DeepFool on images of a network that has been checked.

    Parameters
    ----------
    network
        Checked network, from images to logits.
    image
        Detached images, float32 or float64.
    overshoot, max_iter, candidates, step_floor, chunk
        The options of :func:`deepfool`.
    """
    count, device = len(image), image.device
    total = torch.zeros_like(image)
    iterations = torch.zeros(count, dtype=torch.int64, device=device)
    status = torch.full_like(iterations, Status.OUT_OF_STEPS)
    active, entered = iterations[:0], 0
    candidate = active.reshape(0, 0)
    while True:
        entering = torch.arange(entered, min(entered + chunk - len(active), count), device=device)
        active = torch.cat([active, entering])
        if len(active) == 0:
            break
        start, before = image[active], total[active]
        with torch.enable_grad():
            leaf = (start + (1 + overshoot) * before).requires_grad_()
            logits = network(leaf)
        if len(entering) > 0:
            new = _candidates(logits, entering, candidates)
            candidate = torch.cat([candidate.reshape(-1, new.shape[1]), new])
            entered += len(entering)
        step, outcome = _step(logits, leaf, candidate, step_floor)
        moved = outcome == Status.OUT_OF_STEPS
        total[active] = before + step
        iterations[active] += moved
        with torch.no_grad():
            after = network(start + (1 + overshoot) * (before + step))
        changed = torch.where(after.argmax(dim=1) != candidate[:, 0], Status.FOOLED, outcome)
        changed = torch.where(torch.isfinite(after).all(dim=1), changed, Status.NOT_FINITE)
        outcome = torch.where(moved, changed, outcome)
        status[active] = outcome
        on = torch.nonzero((outcome == Status.OUT_OF_STEPS) & (iterations[active] < max_iter))[:, 0]
        active, candidate = active[on], candidate[on]
    return DeepFool((1 + overshoot) * total, status == Status.FOOLED, iterations, status)


def _candidates(
    logits: Tensor, entering: Int64[Tensor, " entering"], candidates: int
) -> Int64[Tensor, "entering candidates"]:
    """Return the entering images' classes of the highest logits, in descending order: the decision first.

    The last rows of logits are those of the entering images.
    """
    logits = logits.detach()[len(logits) - len(entering) :]
    finite = torch.isfinite(logits).all(dim=1)
    if not bool(finite.all()):
        raise ValueError(f"logits_fn gave NaN or infinity for image {int(entering[~finite][0])}")
    decision = logits.argmax(dim=1, keepdim=True)
    order = logits.scatter(1, decision, torch.inf).argsort(dim=1, descending=True, stable=True)
    return order[:, :candidates]


def _step(
    logits: Float[Tensor, "batch classes"],
    leaf: Float[Tensor, " batch *shape"],
    candidate: Int64[Tensor, "batch candidates"],
    step_floor: float,
) -> tuple[Float[Tensor, " batch *shape"], Int64[Tensor, " batch"]]:
    """Return each image's step to the nearest linearised boundary, and why there is none (a zero step)."""
    direction = _directions(logits, leaf, candidate).flatten(start_dim=2)
    value = logits.detach().gather(1, candidate)
    gap = (value[:, 1:] - value[:, :1]).abs().T
    length = torch.linalg.vector_norm(direction, dim=2, dtype=torch.float64)
    finite = torch.isfinite(length + gap).all(dim=0)
    nearest, index = torch.where(length > 0, gap / length, torch.inf).min(dim=0)
    there = nearest < torch.finfo(leaf.dtype).max ** 0.5
    outcome = torch.where(there, Status.OUT_OF_STEPS, Status.NO_GRADIENT)
    outcome = torch.where(finite, outcome, Status.NOT_FINITE)
    row = torch.arange(len(leaf), device=leaf.device)
    unit = direction[index, row] / length[index, row, None]  # float64, as the lengths
    step = torch.where((outcome == Status.OUT_OF_STEPS)[:, None], (nearest + step_floor)[:, None] * unit, 0.0)
    return step.to(leaf.dtype).reshape(leaf.shape), outcome


def _directions(
    logits: Float[Tensor, "batch classes"],
    leaf: Float[Tensor, " batch *shape"],
    candidate: Int64[Tensor, "batch candidates"],
) -> Float[Tensor, "others batch *shape"]:
    """Return the gradient of each other candidate's logit minus the decision's; zeros where no path leads."""
    others = candidate.shape[1] - 1
    if not logits.requires_grad:
        return leaf.new_zeros(others, *leaf.shape)
    minus = torch.zeros_like(logits).scatter_(1, candidate[:, :1], -1.0)
    rows = []
    for other in range(1, others + 1):
        seed = minus.scatter(1, candidate[:, other, None], 1.0)
        keep = other < others
        (row,) = torch.autograd.grad(logits, leaf, seed, retain_graph=keep, allow_unused=True)
        rows.append(torch.zeros_like(leaf) if row is None else row)
    return torch.stack(rows)


@measurement
def relative_perturbation(
    perturbation: Float[ArrayT, " batch *shape"], image: Float[Array, " batch *shape"]
) -> Float64[ArrayT, " batch"]:
    r"""Return the Euclidean norm of each image's perturbation, divided by the image's own norm.

    Parameters
    ----------
    perturbation
        Change of each image, float32 or float64.
    image
        Unchanged images.

    Raises
    ------
    ValueError
        If the arrays are invalid, shapes differ, or an image is all zeros (the message gives its index).

    Notes
    -----
    :math:`\lVert r\rVert_2 / \lVert x\rVert_2`, in the units in which the images are given: for normalised
    images, normalised units.

    References
    ----------
    LPC 2024, Table 2, column Robustness.
    """
    change = as_float64(perturbation, name="perturbation")
    base = as_float64(image, name="image").to(change.device)
    if change.shape != base.shape or change.ndim < 2:
        raise ValueError(f"perturbation has shape {tuple(change.shape)} and image {tuple(base.shape)}")
    size = torch.linalg.vector_norm(base.flatten(start_dim=1), dim=1)
    if bool((size == 0).any()):
        raise ValueError(
            f"image {int(torch.nonzero(size == 0)[0])} is all zeros: no perturbation is relative to it"
        )
    ratio = torch.linalg.vector_norm(change.flatten(start_dim=1), dim=1) / size
    return like(ratio, perturbation)


class PerturbationSummary(NamedTuple):
    """Summary of the relative perturbations of a set of images, counting those that do not fool separately.

    Attributes
    ----------
    images, fooled, out_of_steps, no_gradient, not_finite
        Number of images, and number of images that ended with each :class:`Status`.
    mean, median
        Averages over all images, as in the release: an image that is not fooled enters with its last
        perturbation, a number that depends on the options, or with 0 if it has no gradient.
    mean_fooled, median_fooled
        Averages over the fooled images only; None: no image was fooled.
    """

    images: int
    fooled: int
    out_of_steps: int
    no_gradient: int
    not_finite: int
    mean: float
    median: float
    mean_fooled: float | None
    median_fooled: float | None


@measurement
def perturbation_summary(
    result: DeepFool,
    image: Float[Array, " batch *shape"],
    *,
    among: Bool[Array, " batch"] | None = None,
) -> PerturbationSummary:
    """Average relative perturbations over all images and over the fooled ones only, with counts.

    Parameters
    ----------
    result
        Result of :func:`deepfool` on these images.
    image
        Images that were attacked.
    among
        Mask of the images to summarise, such as the correctly classified ones; None: all.

    Raises
    ------
    ValueError
        If shapes do not match, an image is all zeros, or there is no image to summarise.
    """
    ratio = tensor_of(relative_perturbation(result.perturbation, image))
    fooled = tensor_of(result.fooled)
    chosen = torch.ones_like(fooled) if among is None else as_flags(among, ratio, name="among")
    if not bool(chosen.any()):
        raise ValueError("among selects none of the images; expected at least one")
    ratio, status = ratio[chosen], tensor_of(result.status)[chosen]
    fooled = ratio[status == Status.FOOLED]
    counts = [int((status == ending).sum()) for ending in Status]
    return PerturbationSummary(
        len(ratio),
        *counts,
        mean=float(ratio.mean()),
        median=float(ratio.quantile(0.5)),
        mean_fooled=float(fooled.mean()) if len(fooled) else None,
        median_fooled=float(fooled.quantile(0.5)) if len(fooled) else None,
    )
