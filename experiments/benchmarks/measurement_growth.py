"""How cost grows with the size of a task, compares with a matrix product, and how many digits are lost."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from experiments.benchmarks import baselines
from experiments.benchmarks.measurement_cases import collapse_case, entropy_case, mixture_case
from experiments.benchmarks.sizes import Size, points_of
from experiments.benchmarks.timing import Case, compare, interleave, steady
from experiments.reporting.tables import MISSING, number
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.neighbours import kth_distance

GPU_SECONDS = 3.0
"""Target, in seconds, for the entropy of 50,000 points x 512 with k = 100 on a GPU."""
PANELS = {
    "points": "entropy, 64 dimensions: points",
    "width": "entropy: dimensions",
    "nodes": "mixtures: dimensions",
    "classes": "neural collapse: classes",
}
"""Axis labels, by the quantity that grows."""
_BLOCK_ENTRIES = {"cpu": 1 << 20}  # entries in a block of the product


def growing(size: Size) -> Iterator[tuple[str, int, Case]]:
    """Yield the growing quantity, its size, and the case, all on the CPU."""
    for total in size.growth_points:
        yield "points", total, entropy_case(points_of(total, 64), k=min(size.k, total // 4))
    for width in size.growth_widths:
        value = points_of(size.growth_total, width)
        yield "width", width, entropy_case(value, k=min(size.k, len(value) // 4))
    for width in size.growth_nodes:
        yield "nodes", width, mixture_case(size.growth_total, width, sampled=2)
    for classes in size.growth_classes:
        yield "classes", classes, collapse_case(2 * size.growth_total, size.width, classes)


def growth(size: Size) -> pd.DataFrame:
    """Return one row per case: ``what``, ``size``, ``against``, and seconds of ``ours`` and ``theirs``."""
    rows = []
    for what, place, case in growing(size):
        assert case.theirs is not None
        found = compare(
            case.ours,
            case.theirs,
            repeats=min(3, size.repeats),
            tolerance=case.tolerance,
            share=case.share,
            limit=size.limit / 8,
        )
        against = case.against.split(",")[0]
        rows.append(
            {"what": what, "size": place, "against": against, "ours": found.ours, "theirs": found.theirs}
        )
    return pd.DataFrame(rows)


def draw_growth(axes: np.ndarray, grown: pd.DataFrame) -> None:
    """Draw the seconds of ours and theirs against the size, one panel for each thing that grows."""
    for ax, (what, label) in zip(axes.flat, PANELS.items(), strict=True):
        rows = grown[grown["what"] == what]
        _line(ax, rows, "ours", "lpc", "#0072B2", "o-")
        _line(ax, rows, "theirs", rows["against"].iloc[0], "#D55E00", "s--")
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
        ax.set_xticks(sizes := rows["size"].unique(), [f"{size:,}" for size in sizes])
        ax.xaxis.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend()


def _line(ax: Axes, rows: pd.DataFrame, column: str, name: str, colour: str, style: str) -> None:
    ax.plot(rows["size"], rows[column], style, color=colour, markersize=5, label=name)


def exponents(grown: pd.DataFrame) -> pd.DataFrame:
    """Return, as text, the power of the size that the second half of each curve follows."""
    rows = {}
    for what, part in grown.groupby("what", sort=False):
        last = part.iloc[-max(2, (len(part) + 1) // 2) :]
        steep = {
            name: np.polyfit(np.log(last["size"]), np.log(last[name]), 1)[0] for name in ("ours", "theirs")
        }
        rows[PANELS[str(what)]] = {name: f"{value:.1f}" for name, value in steep.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("time grows like the power of")


def floor(size: Size, device: str = "cpu") -> pd.DataFrame:
    """Return, as text, the time of the entropy beside those of its unavoidable parts.

    Parameters
    ----------
    size
        Sizes: ``points`` on the CPU or ``gpu_points`` on a GPU, each of width ``width``.
    device
        Type of the device, ``"cpu"`` or ``"cuda"``.

    Notes
    -----
    The products are of all points with all points, in blocks as small as the library's; the selection takes
    the k + 1 smallest entries of each row.
    """
    total = size.points if device == "cpu" else size.gpu_points
    points = torch.from_numpy(points_of(total, size.width)).to(device)
    single = points.float()
    rows = max(1, _BLOCK_ENTRIES.get(device, 1 << 26) // total)

    def products(factor: Tensor) -> Iterator[Tensor]:
        return (block @ factor.T for block in factor.split(rows))

    calls = {
        "matrix product alone": lambda: [len(block) for block in products(points)],
        "product and selection": lambda: [
            block.topk(size.k + 1, dim=1, largest=False, sorted=False).indices for block in products(points)
        ],
        "matrix product in float32": lambda: [len(block) for block in products(single)],
        "entropy (lpc)": lambda: knn_entropy(points, k=size.k),
    }
    options = {"repeats": size.repeats, "limit": size.limit, "enough": steady, "device": device}
    turns = interleave(list(calls.values()), **options)
    seconds = np.array([taken for taken, _ in turns])
    kept = seconds[1:] if len(seconds) > 1 else seconds
    median = np.median(kept, axis=0)
    over = np.median(kept / kept[:, :1], axis=0)
    result = pd.DataFrame(
        {
            "time (ms)": [number(1e3 * value) for value in median],
            "over the product": [number(v) for v in over],
        },
        index=pd.Index(list(calls), name=f"{total:,} x {size.width}, k = {size.k}"),
    )
    if device != "cpu":
        aimed = (total, size.width, size.k) == (50_000, 512, 100)
        reached = "yes" if median[-1] <= GPU_SECONDS else "no"
        none = [MISSING] * (len(calls) - 1)
        result["target"] = [*none, f"≤ {number(1e3 * GPU_SECONDS)} ms" if aimed else MISSING]
        result["reached"] = [*none, reached if aimed else MISSING]
    return result


def digits_kept(size: Size) -> pd.DataFrame:
    """Return, as text, the largest relative error of k-th distances, by the sd of the classes."""
    rows = {}
    total, k = min(size.points, 1000), min(size.k, 20)
    for power in range(-1, -10, -1):
        value = points_of(total, 64, 10.0**power)
        exact = baselines.tree_distance(value, k=k, norm="l2", workers=1)
        found = {
            "expanded squares (scikit-learn brute)": baselines.brute_distance(value, k=k),
            "lpc": kth_distance(torch.from_numpy(value), k=k, norm="l2").numpy(),
        }
        rows[number(10.0**power, 1)] = {
            name: number(float(np.abs(distance / exact - 1).max()), 2) for name, distance in found.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("sd of a class")
