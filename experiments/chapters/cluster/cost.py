"""What a choice of data sets and architectures costs on a cluster, in operations and GPU hours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from experiments.benchmarks.epoch_times import hours_left
from experiments.benchmarks.training_flops import parameters, run_flops
from experiments.benchmarks.training_tables import PRODUCT_SHARE
from experiments.reporting.tables import number
from experiments.studies.learning_rates import first_retrained
from experiments.studies.profiles import Profile, resolve, specs
from lpc.specs import RunSpec
from lpc.store import RunStore

DATA_SHEET: Mapping[str, float] = {"A100": 312e12, "H100": 989e12}
"""FLOP/s that NVIDIA states for a dense bfloat16 product on a GPU (SXM): an upper limit, not measured."""


def runs_of(
    chosen: Profile, *, seeds: int | None = None, only: Sequence[str] | None = None
) -> tuple[list[RunSpec], list[RunSpec]]:
    """Return the runs among which learning rates are chosen, and those that retrain a chosen rate."""
    search = specs(chosen, seeds=seeds, only=None if only is None else tuple(only))
    return search, list(first_retrained(search).values()) if chosen.retrain else []


def cost(
    name: str = "paper",
    *,
    dataset: str | None = None,
    only: Sequence[str] | None = None,
    seeds: int | None = None,
    rates: Mapping[str, float] = DATA_SHEET,
) -> pd.DataFrame:
    """Return the cost of the runs, one row per profile.

    Parameters
    ----------
    name, dataset, only, seeds
        Options of the verb ``submit``.
    rates
        Rates of a matrix product in FLOP/s, by GPU.

    Returns
    -------
    DataFrame
        As text: runs, EFLOP, gigabytes of weights that finished runs keep (float32), and hours on one GPU at
        :data:`PRODUCT_SHARE` of the rate, the library's target.

    Notes
    -----
    The first run of a profile stands for all of them: their heads differ by less than a thousandth of a
    ResNet. Only training steps are counted, not metrics.
    """
    rows = {}
    for chosen in resolve(name, dataset):
        search, again = runs_of(chosen, seeds=seeds, only=only)
        rows[chosen.name] = {
            "runs": len(search),
            "trained again": len(again),
            "EFLOP": sum(len(part) * run_flops(part[0]) for part in (search, again) if part) / 1e18,
            "weights (GB)": (len(search) + len(again)) * 4 * parameters(search[0]) / 1e9,
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    for gpu, rate in rates.items():
        table[f"{gpu} (h)"] = table["EFLOP"] * 1e18 / (PRODUCT_SHARE * rate) / 3600
    table.loc["all"] = table.sum()
    text = table.map(number)
    for column in ("runs", "trained again"):
        text[column] = table[column].map("{:.0f}".format)
    return text.rename_axis("profile")


def hours(
    name: str = "paper",
    *,
    dataset: str | None = None,
    only: Sequence[str] | None = None,
    seeds: int | None = None,
) -> str:
    """Return, in words, the hours of these runs by measured epoch times, one line per profile."""
    lines = []
    for chosen in resolve(name, dataset):
        search, again = runs_of(chosen, seeds=seeds, only=only)
        left = hours_left([*search, *again], RunStore("none of them begun"), profile=chosen.name)
        lines.append(f"{chosen.name}: {left}")
    return "\n".join(lines)
