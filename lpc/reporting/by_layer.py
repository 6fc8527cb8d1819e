"""Collapse layer by layer: the same measures of every block of a network, from one pass over a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from lpc.data import ImageSet
from lpc.evaluation.class_geometry import class_distance_variance
from lpc.evaluation.collapse import nearest_mean_accuracy, within_between_traces
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.inputs.blocks import blocks
from lpc.inputs.layers import Pool
from lpc.inputs.loaders import Unpack, check_loader
from lpc.inputs.networks import check_network
from lpc.latents import collect_latents

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_MEASURES: dict[str, Callable[[Tensor, Tensor], float]] = {
    "trace_ratio": lambda latent, label: within_between_traces(latent, label).ratio,
    "nc1_per_rank": lambda latent, label: neural_collapse(latent, label).nc1_per_rank,
    "cdnv": class_distance_variance,
    "nearest_mean_accuracy": lambda latent, label: nearest_mean_accuracy(latent, label, latent, label),
}


class Layer(NamedTuple):
    """Measures of one layer; None where a measure is undefined.

    Attributes
    ----------
    name, width
        Name of the layer, and width of its output once it is one row per point.
    trace_ratio, nc1_per_rank, cdnv, nearest_mean_accuracy
        Results of :func:`~lpc.evaluation.collapse.within_between_traces`, :func:`.neural_collapse`,
        :func:`~lpc.evaluation.class_geometry.class_distance_variance` and
        :func:`~lpc.evaluation.collapse.nearest_mean_accuracy`, all for the same points.
    """

    name: str
    width: int
    trace_ratio: float | None
    nc1_per_rank: float | None
    cdnv: float | None
    nearest_mean_accuracy: float | None


class LayerReport:
    """Result of :func:`collapse_by_layer`.

    Parameters
    ----------
    layers
        Measures of the layers, in the network's order.
    left_out
        Reasons why blocks were left out, by name.
    """

    def __init__(self, layers: Sequence[Layer], left_out: dict[str, str]) -> None:
        self.layers, self.left_out = tuple(layers), left_out

    def to_frame(self) -> pd.DataFrame:
        """Return one row per layer."""
        import pandas as pd

        return pd.DataFrame(self.layers)

    def __repr__(self) -> str:
        """Return the table, and the blocks left out."""
        lines = [self.to_frame().to_string(index=False, float_format="{:.4g}".format)]
        return "\n".join([*lines, *(f"left out {name}: {why}" for name, why in self.left_out.items())])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format="{:.4g}".format)

    def plot(self) -> Figure:
        """Return a figure of the measures over layers."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        places = range(len(self.layers))
        for name, title, style in (
            ("trace_ratio", "tr Sw / tr Sb", "o-"),
            ("nc1_per_rank", "NC1 / rank", "s--"),
            ("cdnv", "CDNV", "^:"),
        ):
            left.semilogy(places, [_number(getattr(one, name)) for one in self.layers], style, label=title)
        right.plot(places, [_number(one.nearest_mean_accuracy) for one in self.layers], "o-", color="#009E73")
        left.set_ylabel("0 is full collapse")
        left.legend(fontsize="small")
        right.set_ylabel("accuracy of the nearest class mean")
        for axes in (left, right):
            axes.set_xticks(
                list(places), [one.name for one in self.layers], rotation=45, ha="right", fontsize=8
            )
        return figure


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def collapse_by_layer(
    model: nn.Module,
    loader: Iterable[Any] | ImageSet,
    *,
    layer: str | Sequence[str] | None = None,
    pool: Pool = "mean",
    unpack: Unpack | None = None,
    limit: int | None = 5000,
    file: Path | str | None = None,
    progress: bool | None = None,
) -> LayerReport:
    """Measure the collapse of classes behind every block of a network.

    Parameters
    ----------
    model, loader, unpack, file, progress
        The arguments of :func:`~lpc.latents.collect_latents`.
    layer
        Name or names of layers. None: the network's children, where a sequence, a wrapper or a part that
        returns no tensor is replaced by its own children. A block that does not run exactly once in a pass is
        left out, and the result says why.
    pool
        Reduction of feature maps and tokens to one row per point, as in :func:`~lpc.latents.collect_latents`.
    limit
        Largest number of points, which are kept for all layers at once at 4 bytes per entry; None: all.

    Raises
    ------
    ValueError
        As in :func:`~lpc.latents.collect_latents`, or if there is no layer to measure.
    """
    left_out: dict[str, str] = {}
    check_network(model)
    layer = [layer] if isinstance(layer, str) else layer
    if layer is None:
        batches = iter(_batches(loader))
        first = next(batches, None)
        if first is None:
            raise ValueError("the loader is empty: it yielded no batch")
        if batches is loader:  # it yields each batch once
            loader = chain([first], batches)
        layer, left_out = blocks(model, [first], unpack)
        if not layer:
            raise ValueError(
                f"no block of {type(model).__name__} runs once and returns a tensor: name layers"
            )
    found = collect_latents(
        model, loader, layer=layer, pool=pool, unpack=unpack, limit=limit, file=file, progress=progress
    )
    measured = []
    for name, one in found.items():
        values = {}
        for key, measure in _MEASURES.items():
            try:
                values[key] = measure(one.latent, one.label)
            except ValueError as error:
                values[key] = None
                left_out[f"{key} of {name}"] = str(error)
        measured.append(Layer(name=name, width=one.latent.shape[1], **values))
    return LayerReport(measured, left_out)


def _batches(loader: Iterable[Any] | ImageSet) -> Iterable[Any]:
    if isinstance(loader, ImageSet):
        return [(loader.normalised(slice(2)), loader.label[:2])]
    check_loader(loader)
    return loader
