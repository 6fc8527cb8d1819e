"""The smallest perturbation of an input that changes a classifier's decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lpc.arrays import Array, ArrayT, as_float64, like


class DeepFool(NamedTuple):
    """Outcome of DeepFool, one entry an image.

    Attributes
    ----------
    perturbation
        (1 + overshoot) times the sum of the steps, shape and dtype of the images. It is finite, also where
        it does not fool.
    fooled
        Whether the decision at image + perturbation differs from the initial one. Shape (batch,).
    iterations
        Steps taken, int64, shape (batch,).
    """

    perturbation: Tensor
    fooled: Tensor
    iterations: Tensor


def deepfool(
    logits_fn: Callable[[Tensor], Tensor],
    image: Float[Tensor, " batch *shape"],
    *,
    overshoot: float = 0.02,
    max_iter: int = 50,
    candidates: int = 10,
    step_floor: float = 0.0,
) -> DeepFool:
    r"""Find for each image a small perturbation that changes the classifier's decision.

    Parameters
    ----------
    logits_fn
        Maps (batch, \*shape) to (batch, classes), each image by itself: a network in evaluation mode.
    image
        float32 or float64; the attack runs in this dtype.
    overshoot
        How far beyond the linearised boundary to go, relative to the perturbation.
    max_iter
        Most steps an image may take.
    candidates
        How many classes, by their initial logits and the decision's own included, are considered.
    step_floor
        Added to the length of each step (the release: 1e-4); 0 is the paper's algorithm.

    Returns
    -------
    DeepFool
        Whatever else is in the batch does not matter to an image's entry. An image whose gradients vanish
        (or are not finite) stays where it is and is reported as not fooled.

    Raises
    ------
    ValueError
        Invalid images or options, or logits that are not (batch, 2 or more classes), or not finite.

    Notes
    -----
    From :math:`x_0` with decision :math:`\hat k`, repeat while the decision stands:
    :math:`w_k = \nabla f_k(x_i) - \nabla f_{\hat k}(x_i)`,
    :math:`l = \arg\min_{k\ne\hat k} |f_k - f_{\hat k}| / \lVert w_k\rVert_2`,
    :math:`r_i = \frac{|f_l - f_{\hat k}|}{\lVert w_l\rVert_2^2} w_l`, and evaluate
    :math:`x_{i+1} = x_0 + (1 + \eta)\sum_{j\le i} r_j` with :math:`\eta` the overshoot. The decision is the
    predicted label, right or wrong. Nothing is clipped.

    References
    ----------
    Moosavi-Dezfooli, Fawzi and Frossard 2016, Algorithm 2; LPC 2024, Section 3.2 and Table 2.
    """
    as_float64(image, name="image")
    if image.ndim < 2:
        raise ValueError(f"image has shape {tuple(image.shape)}; expected (batch, ...)")
    if overshoot < 0 or step_floor < 0 or max_iter < 1 or candidates < 2:
        raise ValueError(
            f"overshoot={overshoot}, step_floor={step_floor}, max_iter={max_iter}, candidates={candidates}; "
            "expected 0 or more, 0 or more, 1 or more and 2 or more"
        )
    image = image.detach()
    with torch.no_grad():
        logits = logits_fn(image)
    if logits.ndim != 2 or logits.shape[0] != image.shape[0] or logits.shape[1] < 2:
        raise ValueError(f"logits_fn gave shape {tuple(logits.shape)} for {image.shape[0]} images")
    if not bool(torch.isfinite(logits).all()):
        bad = int(torch.nonzero(~torch.isfinite(logits))[0, 0])
        raise ValueError(f"logits_fn gave NaN or infinity for image {bad}")
    decision = logits.argmax(dim=1)
    order = logits.scatter(1, decision[:, None], torch.inf).argsort(dim=1, descending=True, stable=True)
    candidate = order[:, : min(candidates, logits.shape[1])]

    total = torch.zeros_like(image)
    fooled = torch.zeros(len(image), dtype=torch.bool, device=image.device)
    iterations = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    active = torch.arange(len(image), device=image.device)
    for _ in range(max_iter):
        where = image[active] + (1 + overshoot) * total[active]
        step, possible = _step(logits_fn, where, candidate[active], step_floor)
        active, moved = active[possible], total[active[possible]] + step[possible]
        if active.numel() == 0:
            break
        with torch.no_grad():
            after = logits_fn(image[active] + (1 + overshoot) * moved)
        total[active] = moved
        iterations[active] += 1
        changed = (after.argmax(dim=1) != decision[active]) & torch.isfinite(after).all(dim=1)
        fooled[active] = changed
        active = active[~changed]
        if active.numel() == 0:
            break
    return DeepFool((1 + overshoot) * total, fooled, iterations)


def _step(
    logits_fn: Callable[[Tensor], Tensor],
    image: Float[Tensor, " batch *shape"],
    candidate: Int64[Tensor, "batch candidates"],
    step_floor: float,
) -> tuple[Float[Tensor, " batch *shape"], Bool[Tensor, " batch"]]:
    """Return each image's step to the nearest linearised boundary, and whether there is one."""
    with torch.enable_grad():
        leaf = image.clone().requires_grad_()
        value = logits_fn(leaf).gather(1, candidate)
        rows = [_gradient(value[:, c], leaf) for c in range(candidate.shape[1])]
    gradient = torch.stack(rows, dim=1).flatten(start_dim=2)
    direction = gradient[:, 1:] - gradient[:, :1]
    gap = (value[:, 1:] - value[:, :1]).detach().abs()
    length = torch.linalg.vector_norm(direction, dim=2)
    usable = (length > 0) & torch.isfinite(length) & torch.isfinite(gap)
    distance = torch.where(usable, gap / torch.where(usable, length, 1.0), torch.inf)
    nearest, index = distance.min(dim=1)
    possible = torch.isfinite(nearest)
    index = index[:, None]
    chosen = direction.gather(1, index[:, :, None].expand(-1, 1, direction.shape[2]))[:, 0]
    unit = chosen / torch.where(possible, length.gather(1, index)[:, 0], 1.0)[:, None]
    step = torch.where(possible[:, None], (nearest + step_floor)[:, None] * unit, 0.0)
    return step.reshape(image.shape), possible


def _gradient(value: Float[Tensor, " batch"], leaf: Float[Tensor, " batch *shape"]) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def relative_perturbation(
    perturbation: Float[ArrayT, " batch *shape"], image: Float[Array, " batch *shape"]
) -> Float64[ArrayT, " batch"]:
    r"""Return for each image the Euclidean norm of its perturbation over the image's own.

    Raises
    ------
    ValueError
        Invalid arrays, different shapes, or an image that is all zeros (its index).

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
        raise ValueError(f"image {int(torch.nonzero(size == 0)[0])} is all zeros: nothing to compare with")
    ratio = torch.linalg.vector_norm(change.flatten(start_dim=1), dim=1) / size
    return like(ratio, perturbation)
