"""Tables of attack strength: medians, ratios and success of attacks, from the probes' rows for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float64

from experiments.probes.attacks import BEATS, CHECKS, MAIN, RECOMMENDED
from experiments.reporting.intervals import interval
from experiments.reporting.tables import MISSING, NOT_RUN, number
from experiments.studies.probing import PROBES
from experiments.studies.recorded import Recorded
from experiments.studies.study import Study
from lpc.evaluation.attacks import ATTACKS

RESAMPLES = 1000
SEES = {"white": "gradients", "score": "logits", "decision": "labels", "floor": "labels, at random"}
"""What an attack sees of a network, by the attack's kind."""
FORMS = {"double": "float64", "large": "logits × 100", "small": "logits × 1e-3"}
"""Headings of ``experiments.probes.attacks.CHECKS``."""
BASELINE = "NoPen"


class Interval(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return MISSING
        return f"{number(self.value)} ({number(self.low)} to {number(self.high)})"


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Norms:
    """The norms that one probe found for every image of a profile's selected runs.

    Attributes
    ----------
    table
        One row per run and image; none if nothing was probed. Columns ``architecture``, ``seed``, ``image``,
        and ``<setting>_<attack>`` with norms in pixel units, infinite if the attack does not fool.
    """

    table: pd.DataFrame

    @property
    def architectures(self) -> list[str]:
        """The architectures that have a run."""
        return list(dict.fromkeys(self.table["architecture"]))

    def of(self, architecture: str, column: str) -> pd.DataFrame:
        """Return an architecture's values, one row per seed, one column per image; empty if it has none."""
        rows = self.table[self.table["architecture"] == architecture]
        if rows.empty or column not in rows:
            return pd.DataFrame()
        return rows.pivot_table(index="seed", columns="image", values=column).dropna(axis="columns")

    def median(self, architecture: str, column: str) -> Interval:
        """Return the geometric mean over seeds of the median over images, with its interval."""
        own = self.of(architecture, column)
        return resampled(own.to_numpy()) if len(own) else NOTHING

    def ratio(self, architecture: str, column: str, *, over: str = BASELINE) -> Interval:
        """Return the geometric mean over seeds of an architecture's median divided by another's.

        Only seeds and images that both have are used; the interval is that of :func:`resampled`.
        """
        own, base = self.of(architecture, column), self.of(over, column)
        seeds = [] if base.empty else [seed for seed in own.index if seed in base.index]
        if not seeds:
            return NOTHING
        return resampled(own.loc[seeds].to_numpy(), base.loc[seeds, own.columns].to_numpy())

    def fooled(self, architecture: str, column: str) -> float:
        """Return the share of images that are fooled, over all seeds."""
        return float(np.isfinite(self.of(architecture, column).to_numpy()).mean())


def norms(one: Study | Recorded, probe: str = "attacks") -> Norms:
    """Return a probe's rows for every image of a profile's selected runs."""
    table = one.probe_table(probe)
    return Norms(pd.DataFrame(columns=["architecture", "seed", "image"]) if table is None else table)


def refused(study: Study) -> dict[str, str]:
    """Return, by run, why networks could not be attacked."""
    reasons = {}
    for row in study.selected.itertuples():
        found = study.store.probe(str(row.key), "attacks", version=PROBES["attacks"].version)
        for setting, reason in ({} if found is None else found["values"]["missing"]).items():
            if setting in MAIN:
                reasons[f"{row.architecture}, seed {row.seed}, {setting}"] = reason
    return reasons


def failures(one: Study | Recorded) -> pd.Series:
    """Return on how many images attacks raised an error, by column ``attacks_<setting>_<attack>_failed``."""
    names = [f"attacks_{kind}_{name}_failed" for kind, how in MAIN.items() for name in how.attacks]
    rows = one.selected
    counts = {name: int(pd.to_numeric(rows[name]).sum()) for name in names if name in rows}
    return pd.Series(counts, dtype="int64")


def resampled(
    own: Float64[np.ndarray, "seeds images"], base: Float64[np.ndarray, "seeds images"] | None = None
) -> Interval:
    """Return the geometric mean over seeds of medians over images, or of their ratios, with a 95 % interval.

    Parameters
    ----------
    own
        Norms of the network; infinite ones are the largest.
    base
        Norms of another network with the same seeds on the same images; None: no ratio.

    Returns
    -------
    Interval
        Student's interval of the logarithms over seeds, widened by the variance over images
        (:func:`experiments.reporting.intervals.interval`). Images are drawn with replacement, the same for
        every seed and for both networks, so that the comparison is paired. The interval has no ends with one
        seed, and is NaN if a median is infinite, because fewer than half of the images are fooled.
    """
    by_image = np.random.default_rng(0).integers(own.shape[1], size=(RESAMPLES, own.shape[1]))

    def medians(values: np.ndarray) -> np.ndarray:
        both = np.concatenate([np.arange(values.shape[1])[None], by_image])
        found = np.median(
            values[:, both], axis=2
        )  # (seeds, 1 + draws); the first draw is the images themselves
        return np.where(np.isfinite(found), found, np.nan)

    found = medians(own) if base is None else medians(own) / medians(base)
    value = float(np.exp(np.log(found[:, 0]).mean()))
    if not np.isfinite(found).all() or len(own) < 2:
        return Interval(value, float("nan"), float("nan"))
    images = float(np.log(found[:, 1:]).mean(axis=0).var(ddof=1)), own.shape[1]
    judged = interval(found[:, 0].tolist(), ratio=True, images=images)
    return Interval(judged.centre, judged.low, judged.high)


def robust_accuracy(
    found: Norms, architecture: str, norm: Float64[np.ndarray, " norms"], *, column: str = "box_smallest"
) -> Float64[np.ndarray, "seeds norms"]:
    """Return the share of images that stay correctly classified under every perturbation up to a norm.

    An image that is misclassified to begin with is wrong at every norm: its distance counts as zero, whatever
    perturbation changed the wrong decision.

    Parameters
    ----------
    found
        Norms, with the columns ``label`` and ``predicted``.
    architecture
        Architecture of the runs.
    norm
        Sizes of the perturbation, in the units of the column.
    column
        Column with the smallest perturbation found to change the decision.

    Returns
    -------
    ndarray
        Shares with one row per seed; they are upper bounds, because no attack finds every perturbation.
    """
    rows = found.table[found.table["architecture"] == architecture]
    distance = rows[column].where(rows["label"] == rows["predicted"], 0.0)
    by_seed = [own.to_numpy(dtype=float) for _, own in distance.groupby(rows["seed"])]
    return np.stack([(own[:, None] > norm).mean(axis=0) for own in by_seed])


def settings() -> pd.DataFrame:
    """Return, one row per attack, what it sees, its source, and how long we run it."""
    rows = {}
    for name, (budget, rounds) in MAIN["box"].attacks.items():
        kind = ATTACKS[name]
        shown = f"{kind.budget if budget is None else budget:,} {kind.counted}"
        if kind.rounds:
            shown += f" at {kind.rounds if rounds is None else rounds} radii"
        rows[name] = {
            "sees": SEES[kind.kind],
            "source; setting of its authors": kind.source,
            "here": "the same" if (budget, rounds) == RECOMMENDED else shown,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("attack")


def strength(found: Norms, architectures: Sequence[str]) -> pd.DataFrame:
    """Return, one row per architecture, the smallest perturbation of all attacks and its ratio to NoPen's."""
    rows = {}
    for name in architectures:
        if name not in found.architectures:
            rows[name] = dict.fromkeys((*_STRENGTH, "share fooled"), NOT_RUN)
            continue
        rows[name] = {heading: str(found.median(name, column)) for heading, column in _STRENGTH.items()}
        rows[name]["smallest / NoPen's"] = str(found.ratio(name, "box_smallest"))
        rows[name]["DeepFool / NoPen's"] = str(found.ratio(name, "box_deepfool"))
        rows[name]["share fooled"] = number(found.fooled(name, "box_smallest"))
    return pd.DataFrame.from_dict(rows, orient="index").fillna(NOT_RUN).rename_axis("architecture")


_STRENGTH = {"smallest of all": "box_smallest", "smallest, over the image's norm": "box_smallest_relative"}


def by_attack(found: Norms, architectures: Sequence[str], setting: str = "box") -> pd.DataFrame:
    """Return, one row per attack, medians, with the share of fooled images if that is not all of them."""
    rows = {}
    for attack in (*MAIN[setting].attacks, "smallest"):
        column = f"{setting}_{attack}"
        rows[attack] = {name: _with_share(found, name, column) for name in architectures}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("attack")


def _with_share(found: Norms, architecture: str, column: str) -> str:
    if architecture not in found.architectures:
        return NOT_RUN
    median, share = found.median(architecture, column), found.fooled(architecture, column)
    return f"{number(median.value)}{'' if share == 1 else f' [{100 * share:.1f} %]'}"


def ratios_by_attack(found: Norms, architectures: Sequence[str], setting: str = "box") -> pd.DataFrame:
    """Return, one row per attack, the ratio of every architecture's median to NoPen's, with its interval."""
    rows = {}
    for attack in (*MAIN[setting].attacks, "smallest"):
        rows[attack] = {name: str(found.ratio(name, f"{setting}_{attack}")) for name in architectures}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("attack")


def units(found: Norms, architectures: Sequence[str]) -> pd.DataFrame:
    """Return perturbations within the pixel box and without one, in pixel units and relative to the image."""
    heads = {
        ("in the box", "pixel units"): "box_smallest",
        ("in the box", "over the image's norm"): "box_smallest_relative",
        ("without a box", "pixel units"): "unbounded_smallest",
        ("without a box", "over the image's norm"): "unbounded_smallest_relative",
        ("without a box", "DeepFool alone, over the image's norm"): "unbounded_deepfool_relative",
    }
    cells = {
        name: {head: number(found.median(name, column).value) for head, column in heads.items()}
        for name in architectures
    }
    for (where, unit), column in heads.items():
        for name in architectures:
            ratio = number(found.ratio(name, column).value)
            cells[name][(where, unit)] += "" if name == BASELINE or ratio == MISSING else f" (× {ratio})"
    return pd.DataFrame.from_dict(cells, orient="index").rename_axis("architecture")


def masking(found: Norms, architectures: Sequence[str]) -> pd.DataFrame:
    """Return, one row per architecture, the results of the usual checks for masked gradients.

    These are the share of images on which some attack without gradients finds a smaller perturbation than all
    attacks with gradients; the median, over images and seeds, of the ratio between the two; and how many
    images each attack fools without a box.
    """
    kinds = {name: "white" if ATTACKS[name].kind == "white" else "black" for name in MAIN["box"].attacks}
    rows = {}
    for name in architectures:
        sides = {}
        for side in ("white", "black"):
            parts = [
                found.of(name, f"box_{attack}").to_numpy() for attack, kind in kinds.items() if kind == side
            ]
            sides[side] = np.min(parts, axis=0) if name in found.architectures else np.empty((0, 0))
        if not sides["white"].size:
            rows[name] = {}
            continue
        ratio = sides["black"] / sides["white"]
        rows[name] = {
            "images where it beats them": f"{100 * float((ratio < 1 - BEATS).mean()):.1f} %",
            "without gradients / with": number(float(np.median(ratio))),
            **{
                f"fooled without a box, {attack}": f"{100 * found.fooled(name, f'unbounded_{attack}'):.1f} %"
                for attack in (*MAIN["unbounded"].attacks, "smallest")
            },
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna(NOT_RUN).rename_axis("architecture")


def forms(one: Study | Recorded, architectures: Sequence[str]) -> pd.DataFrame:
    """Return how attacks' results change on forms of a network that decide alike (the probe's ``CHECKS``).

    A cell is the median, over images and seeds, of the norm divided by that on the unaltered network, and the
    share of fooled images if that is not all of them. The last row is the share of images at which the
    gradient of the cross-entropy is exactly zero.
    """
    plain, checked = norms(one), norms(one, "attack_checks")
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for form, setting in CHECKS.items():
        for name in (one for one in architectures if one in checked.architectures):
            head = (name, FORMS[form])
            for attack in setting.attacks:
                cells.setdefault(attack, {})[head] = _moved(plain, checked, name, form, attack)
            rows = one.selected[one.selected["architecture"] == name]
            for label, shown in (("as it is", "plain"), (FORMS[form], form)):
                column = f"attack_checks_{shown}_zero_gradient"
                share = pd.to_numeric(rows[column]).mean() if column in rows else float("nan")
                text = MISSING if np.isnan(share) else f"{100 * share:.0f} %"
                cells.setdefault("images with a gradient of zero", {})[(name, label)] = text
    table = pd.DataFrame.from_dict(cells, orient="index").fillna(MISSING).rename_axis("attack")
    if table.empty:
        return table
    order = [(name, label) for name in architectures for label in ("as it is", *FORMS.values())]
    table = table[[head for head in order if head in table.columns]]
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    last = table.index == "images with a gradient of zero"
    return pd.concat([table[~last], table[last]])


def _moved(plain: Norms, checked: Norms, architecture: str, form: str, attack: str) -> str:
    """Return a cell of :func:`forms`."""
    after = checked.of(architecture, f"{form}_{attack}")
    before = plain.of(architecture, f"box_{attack}")
    if after.empty or before.empty:
        return MISSING
    before = before.loc[after.index, after.columns]
    own, plainly = after.to_numpy(), before.to_numpy()
    with np.errstate(invalid="ignore"):
        ratio = float(np.median(np.where(np.isinf(own) & np.isinf(plainly), 1.0, own / plainly)))
    share = checked.fooled(architecture, f"{form}_{attack}")
    text = f"{ratio:.3f}" if np.isfinite(ratio) else MISSING
    return text if share == 1 else f"{text} [{100 * share:.0f} % fooled]"


def steps(one: Study | Recorded) -> pd.DataFrame:
    """Return, one row per attack and budget, the norm over the smallest found at any budget (first seed).

    There is a column per architecture, with the share of fooled images if that is not all of them, and one
    for the forward passes per image.
    """
    table = one.probe_table("attack_steps")
    if table is None:
        return pd.DataFrame()
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.to_dict("records"):
        counted = ATTACKS[str(row["attack"])].counted
        radii = f", {int(row['rounds'])} radii" if row["rounds"] else ""
        head = (str(row["attack"]), f"{int(row['budget']):,} {counted}{radii}")
        share = "" if row["fooled"] == 1 else f" [{100 * row['fooled']:.0f} %]"
        cell = rows.setdefault(head, {"passes": f"{row['calls']:,.0f}"})
        cell[str(row["architecture"])] = f"{row['ratio']:.3f}{share}"
    found = pd.DataFrame.from_dict(rows, orient="index")
    found.index = pd.MultiIndex.from_tuples(found.index, names=["attack", "budget"])
    return found[[*(name for name in found if name != "passes"), "passes"]]
