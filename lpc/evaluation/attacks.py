"""The smallest perturbations that attacks of several libraries find, each checked by a forward pass."""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from lpc.evaluation import _attack_methods
from lpc.evaluation._attack_checks import Box, Logits, check_images, check_target, in_float64, rescaled
from lpc.evaluation._attack_methods import Case
from lpc.numerics import measurement
from lpc.threads import by_work

__all__ = ["ATTACKS", "Attack", "Attacked", "attack", "check_target", "in_float64", "rescaled", "smallest"]


class Attacked(NamedTuple):
    """Outcome of an attack, one entry an image.

    Attributes
    ----------
    perturbation
        ``perturbed`` minus the image, dtype and shape of the images; zero where it does not fool.
    norm
        Euclidean norm of the perturbation in the units of the images, float64; infinite where not fooled.
    fooled
        Whether the decision at ``perturbed`` is another than at the image.
    calls
        How many images have passed forward through the network, in all.
    failed
        For each image, what the attack raised or lacked; None where it ran. An image that the attack tried
        in vain is not fooled, and has not failed.
    perturbed
        The images that were found, in the box to the bit.
    """

    perturbation: Float[Tensor, "batch channel row column"]
    norm: Float64[Tensor, " batch"]
    fooled: Bool[Tensor, " batch"]
    calls: int
    failed: tuple[str | None, ...]
    perturbed: Float[Tensor, "batch channel row column"]


@dataclass(frozen=True)
class Attack:
    """An attack and how its authors use it.

    Attributes
    ----------
    name
        In :data:`ATTACKS`.
    kind
        What it sees: ``white`` gradients, ``score`` logits, ``decision`` labels; ``floor``: a random search.
    library
        Module that it comes from; None: ours.
    source
        Library, paper, and the settings that its authors recommend.
    budget
        The recommended number of ``counted``.
    counted
        What ``budget`` counts.
    run
        The attack.
    rounds
        Radii that are tried by an attack of fixed radius; 0: it looks for the smallest perturbation itself.
    classes
        Fewest classes that it works with.
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


_DLR = "pyautoattack; Croce and Hein 2020 (AutoAttack)"

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
            _attack_methods.deepfool,
        ),
        Attack(
            "superdeepfool",
            "white",
            "adv_lib.attacks",
            "adv-lib; Abdolahpourrostam et al. 2024: 100 steps, a search along the line at the end",
            100,
            "steps",
            _attack_methods.superdeepfool,
        ),
        Attack(
            "fab",
            "white",
            "adv_lib.attacks",
            "adv-lib; Croce and Hein 2020 (FAB): 100 steps",
            100,
            "steps",
            _attack_methods.fab,
        ),
        Attack(
            "fab_targeted",
            "white",
            "adv_lib.attacks",
            "adv-lib; Croce and Hein 2020 (FAB, in AutoAttack): 100 steps for each of 9 classes",
            100,
            "steps",
            _attack_methods.fab_targeted,
        ),
        Attack(
            "ddn",
            "white",
            "foolbox.attacks",
            "foolbox; Rony et al. 2019: 1000 steps of the cross-entropy, gamma 0.05",
            1000,
            "steps",
            _attack_methods.ddn,
        ),
        Attack(
            "apgd_dlr",
            "white",
            "pyautoattack.autopgd_base",
            f"{_DLR}: 100 steps, 5 random starts, difference of logits ratio",
            100,
            "steps",
            functools.partial(_attack_methods.apgd, loss="dlr", restarts=5),
            rounds=8,
            classes=3,
        ),
        Attack(
            "apgd_targeted_dlr",
            "white",
            "pyautoattack.autopgd_base",
            f"{_DLR}: 100 steps for each of 9 classes, targeted difference of logits ratio",
            100,
            "steps",
            _attack_methods.apgd_targeted,
            rounds=8,
            classes=4,
        ),
        Attack(
            "apgd_ce",
            "white",
            "pyautoattack.autopgd_base",
            f"{_DLR}: 100 steps, 5 random starts, cross-entropy",
            100,
            "steps",
            functools.partial(_attack_methods.apgd, loss="ce", restarts=5),
            rounds=8,
        ),
        Attack(
            "square",
            "score",
            "pyautoattack.square",
            "pyautoattack; Andriushchenko et al. 2020: 5000 queries, margin loss",
            5000,
            "queries",
            _attack_methods.square,
            rounds=8,
        ),
        Attack(
            "hopskipjump",
            "decision",
            "foolbox.attacks",
            "foolbox, mended; Chen, Jordan and Wainwright 2020: 50 steps, 25 000 queries",
            _attack_methods.QUERIES,
            "queries",
            _attack_methods.hopskipjump,
        ),
        Attack(
            "boundary",
            "decision",
            "foolbox.attacks",
            "foolbox; Brendel, Rauber and Bethge 2018: 25 000 steps",
            25_000,
            "steps",
            _attack_methods.boundary,
        ),
        Attack(
            "random_directions", "floor", None, "lpc", 1000, "directions", _attack_methods.random_directions
        ),
    )
}
"""The attacks by name, with their authors' settings."""


@measurement
def attack(
    name: str,
    logits_fn: Logits,
    image: Float[Tensor, "batch channel row column"],
    *,
    box: Box | None = (0.0, 1.0),
    budget: int | None = None,
    seed: int = 0,
    start: Float[Tensor, "batch channel row column"] | None = None,
    rounds: int | None = None,
) -> Attacked:
    r"""Look with one attack for the smallest change of each image that changes the classifier's decision.

    Parameters
    ----------
    name
        In :data:`ATTACKS`.
    logits_fn
        Maps images to logits, each by itself, in the images' dtype; what normalises the pixels is inside.
    image
        float32 or float64.
    box
        Lowest and highest value of a pixel; None: any, see the notes.
    budget
        Steps, queries or directions (``Attack.counted``); None: as many as the authors recommend.
    seed
        Of what the attack draws; the generators of torch are left as they were.
    start
        A misclassified image for each image. An attack of fixed radius starts its search from the distance
        (without: Auto-PGD from DeepFool's, Square from a guess);
        a decision-based attack walks from there, and sees no more than labels as long as the image comes
        from something that does not either, such as a training image of another class. Rows that are not
        misclassified are left aside. The other attacks take no notice of it.
    rounds
        Radii that an attack of fixed radius tries; None: ``Attack.rounds``. The others take no notice.

    Returns
    -------
    Attacked
        Images for which the attack raises an exception are attacked again in halves of the batch down to a
        single one, whose message is in ``failed``.

    Raises
    ------
    ValueError
        An unknown attack, a bad option, or what :func:`.check_target` names.
    ImportError
        The attack's library is not installed.

    Notes
    -----
    The decision to change is the network's own, right or wrong, so that no image is fooled from the outset.

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
    image = image.detach()
    logits = check_target(logits_fn, image, box=box)
    if logits.shape[1] < chosen.classes:
        raise ValueError(f"{name} needs {chosen.classes} classes or more; the network has {logits.shape[1]}")
    if start is not None:
        check_images(start, box, name="start")
        if start.shape != image.shape:
            raise ValueError(f"start has shape {tuple(start.shape)}; expected {tuple(image.shape)}")
        start = start.detach().to(image)
    _library(chosen)
    case = Case(by_work(logits_fn), image, logits.argmax(dim=1), box, budget, rounds, start)
    devices = [image.device] if image.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        perturbed, fooled, failed, calls = _in_halves(chosen, case)
    perturbed = torch.where(fooled[:, None, None, None], perturbed, image)
    norm = torch.where(fooled, case.length(perturbed), torch.inf)
    return Attacked(perturbed - image, norm, fooled, calls, failed, perturbed)


@measurement
def smallest(results: Mapping[str, Attacked]) -> Attacked:
    """Return for each image the smallest perturbation of several attacks on the same images.

    Parameters
    ----------
    results
        By attack.

    Returns
    -------
    Attacked
        ``calls`` is the sum; ``failed`` has, where no attack fools, what went wrong with each that failed.

    Raises
    ------
    ValueError
        No results, or of different images.
    """
    if not results:
        raise ValueError("results is empty: there is no smallest of no attacks")
    values = list(results.values())
    shapes = {name: tuple(result.perturbation.shape) for name, result in results.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"results are of different images: {shapes}")
    norm, index = torch.stack([result.norm for result in values]).min(dim=0)
    row = torch.arange(len(norm), device=norm.device)
    fooled = torch.isfinite(norm)
    reasons = [
        "; ".join(f"{name}: {result.failed[i]}" for name, result in results.items() if result.failed[i])
        for i in range(len(norm))
    ]
    failed = tuple(None if fooled[i] else reason or None for i, reason in enumerate(reasons))
    return Attacked(
        torch.stack([result.perturbation for result in values])[index, row],
        norm,
        fooled,
        sum(result.calls for result in values),
        failed,
        torch.stack([result.perturbed for result in values])[index, row],
    )


def _library(chosen: Attack) -> None:
    """Import an attack's library, whose own imports may warn; ImportError says how to get it."""
    if chosen.library is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(chosen.library)
    except ImportError as error:
        raise ImportError(
            f"{chosen.name} needs {chosen.library.split('.')[0]} ({error}); "
            "install the extra: pip install 'latent-point-collapse[attacks]'"
        ) from error


def _in_halves(chosen: Attack, case: Case) -> tuple[Tensor, Tensor, tuple[str | None, ...], int]:
    """Return the perturbed images, which of them fool, what went wrong for each, and the rows passed.

    Where the attack raises, each half of the images is attacked by itself.
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
    except Exception as error:
        if len(case.image) == 1:
            nothing = torch.zeros(1, dtype=torch.bool, device=case.image.device)
            return case.image, nothing, (f"{type(error).__name__}: {error}",), case.rows
    rows = torch.arange(len(case.image), device=case.image.device)
    parts = [_in_halves(chosen, case.rows_of(half)) for half in rows.tensor_split(2)]
    perturbed, fooled, failed, _ = zip(*parts, strict=True)
    return torch.cat(perturbed), torch.cat(fooled), failed[0] + failed[1], case.rows
