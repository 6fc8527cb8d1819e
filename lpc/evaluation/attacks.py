"""The smallest perturbations that attacks of several libraries find, each checked by a forward pass."""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Integer
from torch import Tensor

from lpc.arrays import Array, as_labels, tensor_of
from lpc.computing.generators import seeded
from lpc.computing.numerics import measurement
from lpc.computing.options import choice
from lpc.errors import missing_extra
from lpc.evaluation._networks import attack_methods, tables
from lpc.evaluation._networks.attack_checks import (
    Box,
    Norm,
    check_images,
    check_target,
    decided,
    in_float64,
    rescaled,
    without_gradient,
)
from lpc.evaluation._networks.attack_methods import Case
from lpc.evaluation._networks.networks import AttackError, Logits, as_given, as_images, guarded

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackError",
    "Attacked",
    "attack",
    "check_target",
    "in_float64",
    "rescaled",
    "smallest",
]

NO_PATH = "NO_GRADIENT: no path leads from the logits back to the image: is it detached, or rounded?"
FLAT = "NO_GRADIENT: no logit moves relative to another at the image"
"""Messages in ``failed`` for images without the gradient that an attack needs."""


class Attacked(NamedTuple):
    """Outcome of an attack, one entry per image.

    Attributes
    ----------
    perturbation
        ``perturbed`` minus the image, dtype and shape of the images; zero where it does not fool.
    norm
        Norm of the perturbation, in the norm asked for and the units of the images, float64; infinite if not
        fooled.
    fooled
        Whether the decision at ``perturbed`` differs from that at the image, or is the target if there is
        one.
    calls
        Total number of images passed forward through the network.
    failed
        Reason why the attack could not run on an image, or what it lacked: a starting point, or a gradient
        (``NO_GRADIENT``); None: it ran. An image that was attacked in vain is not fooled and has not failed.
    perturbed
        Images that were found, exactly within the box.
    """

    perturbation: Float[Tensor, " batch *shape"]
    norm: Float64[Tensor, " batch"]
    fooled: Bool[Tensor, " batch"]
    calls: int
    failed: tuple[str | None, ...]
    perturbed: Float[Tensor, " batch *shape"]


@dataclass(frozen=True)
class Attack:
    """An attack with the settings that its authors recommend.

    Attributes
    ----------
    name
        Name of the attack, a key of :data:`ATTACKS`.
    kind
        Information that the attack uses: ``white``: gradients; ``score``: logits; ``decision``: labels;
        ``floor``: none, a random search.
    library
        Module that the attack comes from; None: ours.
    source
        Library, paper, and the settings that the authors recommend.
    budget
        Recommended amount of ``counted``.
    counted
        Unit of ``budget``.
    run
        Function that runs the attack.
    rounds
        Number of radii tried by an attack of fixed radius; 0: the attack itself searches for the smallest
        perturbation.
    classes
        Smallest number of classes that the attack works with.
    norms
        Norms in which the attack can minimise a perturbation.
    targets
        Whether it can aim at a given class.
    failures
        Errors with which the library reports that the attack failed on an image, as patterns of
        ``type: message``; any other exception is an error.
    """

    name: str
    kind: Literal["white", "score", "decision", "floor"]
    library: str | None
    source: str
    budget: int
    counted: str
    run: Callable[[Case], Tensor]
    rounds: int = 0
    classes: int = 2
    norms: tuple[Norm, ...] = ("l2",)
    targets: bool = False
    failures: tuple[str, ...] = ()


_BOTH: tuple[Norm, ...] = ("l2", "linf")
_DLR = "pyautoattack; Croce and Hein 2020 (AutoAttack)"
_NO_START = (r"ValueError: .* starting_points are not adversarial",)
"""Failure of foolbox: rounding has brought a starting point back to the image's own class."""
_ASSERTED = (r"AssertionError: $",)
"""Failures of Square (a point that is not a number) and HopSkipJump (a step lost the changed decision)."""

ATTACKS: Mapping[str, Attack] = {
    entry.name: entry
    for entry in (
        Attack(
            "deepfool",
            "white",
            None,
            "lpc; Moosavi-Dezfooli, Fawzi and Frossard 2016: overshoot 0.02, 50 steps, 10 classes",
            50,
            "steps",
            attack_methods.deepfool,
        ),
        Attack(
            "superdeepfool",
            "white",
            "adv_lib.attacks",
            "adv-lib; Abdolahpourrostam et al. 2024: 100 steps, a search along the line at the end",
            100,
            "steps",
            attack_methods.superdeepfool,
        ),
        Attack(
            "fab",
            "white",
            "adv_lib.attacks",
            "adv-lib; Croce and Hein 2020 (FAB): 100 steps",
            100,
            "steps",
            attack_methods.fab,
            norms=_BOTH,
        ),
        Attack(
            "fab_targeted",
            "white",
            "adv_lib.attacks",
            "adv-lib; Croce and Hein 2020 (FAB, in AutoAttack): 100 steps for each of 9 classes",
            100,
            "steps",
            attack_methods.fab_targeted,
            norms=_BOTH,
            targets=True,
        ),
        Attack(
            "ddn",
            "white",
            "foolbox.attacks",
            "foolbox; Rony et al. 2019: 1000 steps of the cross-entropy, gamma 0.05",
            1000,
            "steps",
            attack_methods.ddn,
            targets=True,
        ),
        Attack(
            "apgd_dlr",
            "white",
            "pyautoattack.autopgd_base",
            f"{_DLR}: 100 steps, 5 random starts, difference of logits ratio",
            100,
            "steps",
            functools.partial(attack_methods.apgd, loss="dlr", restarts=5),
            rounds=8,
            norms=_BOTH,
            classes=3,
        ),
        Attack(
            "apgd_targeted_dlr",
            "white",
            "pyautoattack.autopgd_base",
            f"{_DLR}: 100 steps for each of 9 classes, targeted difference of logits ratio",
            100,
            "steps",
            attack_methods.apgd_targeted,
            rounds=8,
            classes=4,
            norms=_BOTH,
            targets=True,
        ),
        Attack(
            "apgd_ce",
            "white",
            "pyautoattack.autopgd_base",
            f"{_DLR}: 100 steps, 5 random starts, cross-entropy",
            100,
            "steps",
            functools.partial(attack_methods.apgd, loss="ce", restarts=5),
            rounds=8,
            norms=_BOTH,
        ),
        Attack(
            "square",
            "score",
            "pyautoattack.square",
            "pyautoattack; Andriushchenko et al. 2020: 5000 queries, margin loss",
            5000,
            "queries",
            attack_methods.square,
            rounds=8,
            failures=_ASSERTED,
        ),
        Attack(
            "hopskipjump",
            "decision",
            "foolbox.attacks",
            "foolbox, mended; Chen, Jordan and Wainwright 2020: 50 steps, 25 000 queries",
            attack_methods.QUERIES,
            "queries",
            attack_methods.hopskipjump,
            failures=(*_NO_START, *_ASSERTED),
        ),
        Attack(
            "boundary",
            "decision",
            "foolbox.attacks",
            "foolbox; Brendel, Rauber and Bethge 2018: 25 000 steps",
            25_000,
            "steps",
            attack_methods.boundary,
            failures=_NO_START,
        ),
        Attack(
            "random_directions",
            "floor",
            None,
            "lpc",
            1000,
            "directions",
            attack_methods.random_directions,
            norms=_BOTH,
            targets=True,
        ),
    )
}
"""The attacks by name, with their authors' settings."""


@measurement
def attack(
    name: str,
    logits_fn: Logits,
    image: Float[Array, " batch *shape"],
    *,
    norm: Norm = "l2",
    target: Integer[Array, " batch"] | None = None,
    box: Box | None = (0.0, 1.0),
    budget: int | None = None,
    seed: int = 0,
    start: Float[Array, " batch *shape"] | None = None,
    rounds: int | None = None,
) -> Attacked:
    r"""Search with one attack for the smallest change of each image that changes the classifier's decision.

    Parameters
    ----------
    name
        Name of the attack, a key of :data:`ATTACKS`.
    logits_fn
        Function from images to logits, each image independent of the others, in the images' dtype; it
        normalises the pixels itself. It returns a tensor, or holds one as ``logits``.
    image
        Images, shape (batch, channels, rows, columns), or table rows, shape (batch, features); float32 or
        float64. Arrays are moved to the network's device, and the results are then arrays.
    norm
        Norm of the change that is minimised: ``"l2"``, Euclidean, or ``"linf"``, the largest change of a
        pixel (``Attack.norms``).
    target
        Class to reach for each image, other than its decision (``Attack.targets``); None: any other class.
    box
        Lowest and highest value of a pixel; None: unbounded, see the notes.
    budget
        Number of steps, queries or directions (``Attack.counted``); None: the authors' recommendation.
    seed
        Seed of the attack's random draws; torch's own generators are left as they were on every device.
    start
        A misclassified image for each image. An attack of fixed radius starts its search from the distance to
        it (without it: Auto-PGD from DeepFool's distance, Square from a guess). A decision-based attack
        starts its walk there; it uses nothing but labels if labels alone found the image, too, such as a
        training image of another class. Rows that are not misclassified are ignored, and so is ``start`` by
        other attacks.
    rounds
        Number of radii tried by an attack of fixed radius; None: ``Attack.rounds``. Other attacks ignore it.

    Returns
    -------
    Attacked
        If the attack fails in a way that its library documents (``Attack.failures``), the batch is halved and
        attacked again, down to single images, whose messages are in ``failed``.

    Raises
    ------
    ValueError
        If the attack is unknown, an option is invalid, ``torch.inference_mode`` is on, or
        :func:`.check_target` finds a fault.
    AttackError
        For any other exception in the network or the attack; nothing is then known of the images. A
        RuntimeError.
    lpc.errors.MissingExtra
        If the attack's library is not installed. An ImportError and a ValueError.

    Notes
    -----
    The attacked decision is the network's own, right or wrong, so that no image is fooled from the outset.

    Without a box, libraries that insist on one get the cube of pixels between -4 and 4 times the power of
    two next above the images: :math:`u = x / 8s + 1/2`. Radii are scaled with it. Of the steps that are
    absolute, SuperDeepFool's addition of :math:`10^{-4}` to a step grows to :math:`8 \cdot 10^{-4} s`, which
    the search along the line at its end takes back; DDN runs in the images' own units.

    A fixed radius (Auto-PGD, Square) becomes a smallest one by bisection on each image's own radius, in
    ``rounds`` radii.

    adv-lib's SuperDeepFool and FAB get float32 coordinates whatever the images' dtype, for sums inside are
    float32; the logits and their gradients with respect to the images are of the images' dtype.
    """
    chosen = ATTACKS.get(name)
    if chosen is None:
        raise ValueError(f"attack {name!r}; expected one of {', '.join(ATTACKS)}")
    budget = chosen.budget if budget is None else budget
    rounds = chosen.rounds if rounds is None else rounds
    if budget < 1 or rounds < (1 if chosen.rounds else 0):
        raise ValueError(f"budget={budget}, rounds={rounds}; expected 1 or more")
    choice("norm", norm, Norm)
    for what, able in (
        (f"norm {norm!r}", [other for other, one in ATTACKS.items() if norm in one.norms]),
        ("targets", [other for other, one in ATTACKS.items() if one.targets or target is None]),
    ):
        if name not in able:
            raise ValueError(f"{name} has no {what}; expected one of {', '.join(able)}")
    _library(chosen)
    logits_fn, image = tables.of_images(logits_fn, given := image)
    start = None if start is None else tables.of_images(logits_fn, start)[1]
    with guarded(logits_fn, image, dims=4, name=f"attack {name!r}") as network:
        pixels = network.image
        check_images(pixels, box, name="image")
        logits = decided(network)
        if logits.shape[1] < chosen.classes:
            raise ValueError(
                f"{name} needs {chosen.classes} classes or more; the network has {logits.shape[1]}"
            )
        begin = None if start is None else _starts(start, pixels, box)
        decision = logits.argmax(dim=1)
        aim = None if target is None else _targets(target, decision, logits.shape[1])
        case = Case(network, pixels, decision, box, budget, rounds, begin, norm, aim)
        flat, everywhere = without_gradient(network) if chosen.kind == "white" else (None, False)
        if everywhere:
            perturbed, fooled = pixels, torch.zeros_like(logits[:, 0], dtype=torch.bool)
            failed, calls = (NO_PATH,) * len(pixels), 0
        else:
            with seeded(seed, pixels.device), torch.enable_grad(), _on(pixels.device):
                perturbed, fooled, failed, calls = _in_halves(chosen, case)
        if flat is not None and not everywhere:
            lacking = (flat & ~fooled).tolist()
            failed = tuple(why or (FLAT if no else None) for why, no in zip(failed, lacking, strict=True))
    perturbed = torch.where(fooled[:, None, None, None], perturbed, pixels)
    length = torch.where(fooled, case.length(perturbed), torch.inf)
    perturbation, perturbed = (part.reshape(given.shape) for part in (perturbed - pixels, perturbed))
    return as_given(Attacked(perturbation, length, fooled, calls, failed, perturbed), image)


def _targets(target: Array, decision: Tensor, classes: int) -> Tensor:
    """Return the classes to reach; ValueError for one that does not exist or is the decision already."""
    aim = as_labels(target, decision, name="target").to(decision.device)
    bad = torch.nonzero((aim < 0) | (aim >= classes) | (aim == decision)).flatten()
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"target {int(aim[row])} at index {row} cannot be reached: expected one of 0 to {classes - 1} "
            f"other than the decision, {int(decision[row])}"
        )
    return aim


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the default one, because libraries create tensors on it."""
    return nullcontext() if torch.get_default_device() == device else device


def _starts(start: Array, pixels: Tensor, box: Box | None) -> Tensor:
    """Return the starting images beside the images; ValueError if they do not match."""
    check_images(start, box, name="start")
    if start.shape != pixels.shape:
        raise ValueError(f"start has shape {tuple(start.shape)}; expected {tuple(pixels.shape)}")
    return as_images(start, name="start").to(pixels)


@measurement
def smallest(results: Mapping[str, Attacked]) -> Attacked:
    """Return for each image the smallest perturbation of several attacks on the same images.

    Parameters
    ----------
    results
        Results by attack.

    Returns
    -------
    Attacked
        The smallest perturbations. ``calls`` is the sum; where no attack fools, ``failed`` lists what went
        wrong with each attack that failed.

    Raises
    ------
    ValueError
        If there are no results, or they are of different images.
    """
    if not results:
        raise ValueError("results is empty; expected at least one attack's result")
    values = list(results.values())
    shapes = {name: tuple(result.perturbation.shape) for name, result in results.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"results are of different images: {shapes}")
    norms = [tensor_of(result.norm) for result in values]
    norm, index = torch.stack(norms).min(dim=0)
    row = torch.arange(len(norm), device=norm.device)
    fooled = torch.isfinite(norm)
    reasons = [
        "; ".join(f"{name}: {result.failed[i]}" for name, result in results.items() if result.failed[i])
        for i in range(len(norm))
    ]
    failed = tuple(None if fooled[i] else reason or None for i, reason in enumerate(reasons))
    found = Attacked(
        torch.stack([tensor_of(result.perturbation) for result in values])[index, row],
        norm,
        fooled,
        sum(result.calls for result in values),
        failed,
        torch.stack([tensor_of(result.perturbed) for result in values])[index, row],
    )
    return as_given(found, values[0].norm)


def _library(chosen: Attack) -> None:
    """Import an attack's library, whose own imports may warn; if it is missing, name the extra."""
    if chosen.library is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(chosen.library)
    except ModuleNotFoundError as error:
        raise missing_extra(f"attack {chosen.name}", [chosen.library.split(".")[0]], "attacks") from error


def _in_halves(chosen: Attack, case: Case) -> tuple[Tensor, Tensor, tuple[str | None, ...], int]:
    """Return the perturbed images, which of them fool, what went wrong for each, and the rows passed.

    If the attack fails in a documented way, each half of the images is attacked separately; any other
    exception is an AttackError.
    """
    try:
        perturbed = case.clip(chosen.run(case).detach().to(case.image.dtype))
        if perturbed.shape != case.image.shape:
            raise RuntimeError(f"{chosen.name} returned shape {tuple(perturbed.shape)}")
        finite = torch.isfinite(perturbed).flatten(start_dim=1).all(dim=1)
        for row in torch.nonzero(~finite)[:, 0].tolist():
            case.note[row] = "the perturbation is not finite"
        perturbed = torch.where(finite[:, None, None, None], perturbed, case.image)
        fooled = case.fooled(perturbed)
        return perturbed, fooled, tuple(case.note.get(row) for row in range(len(fooled))), case.rows
    except AttackError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if not any(re.match(pattern, reason) for pattern in chosen.failures):
            raise AttackError(f"attack {chosen.name!r} raised {reason}") from error
        if len(case.image) == 1:
            nothing = torch.zeros(1, dtype=torch.bool, device=case.image.device)
            return case.image, nothing, (reason,), case.rows
    rows = torch.arange(len(case.image), device=case.image.device)
    parts = [_in_halves(chosen, case.rows_of(half)) for half in rows.tensor_split(2)]
    perturbed, fooled, failed, _ = zip(*parts, strict=True)
    return torch.cat(perturbed), torch.cat(fooled), failed[0] + failed[1], case.rows
