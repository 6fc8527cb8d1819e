"""All measures of latents and labels in one object: table, figure, page, flags."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpc.computing.generators import as_they_were
from lpc.computing.numerics import measurement
from lpc.computing.options import flag, whole
from lpc.reporting import _collapse, _information, _reliability
from lpc.reporting.entries import Entry, all_missing, sections
from lpc.reporting.points import Points, as_report_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SAMPLE = 5000
"""Default for the largest number of points in entropies, binarity and neighbours."""


class Report:
    """Result of :func:`report`.

    Parameters
    ----------
    entries
        Measured values, in the order of the sections.
    title
        Description of the measured latents.
    points
        Sets that were measured, by name.
    """

    def __init__(self, entries: Sequence[Entry], *, title: str, points: dict[str, Points]) -> None:
        self.entries, self.title, self.points = tuple(entries), title, points

    def __getitem__(self, key: str | tuple[str, str]) -> float:
        """Return a value: ``report["trace_ratio"]`` for the train set, ``report["trace_ratio", "test"]``.

        Raises
        ------
        KeyError
            If the key is unknown; the message names similar ones.
        ValueError
            If the value is missing; the message gives the reason.
        """
        from lpc.errors import unknown_name

        name, data = key if isinstance(key, tuple) else (key, None)
        found = [one for one in self.entries if one.key == name and data in (None, one.data)]
        if not found:
            raise KeyError(str(unknown_name("value of the report", name, {one.key for one in self.entries})))
        if found[0].value is None:
            raise ValueError(f"{name} is missing: {found[0].missing}")
        return found[0].value

    def __repr__(self) -> str:
        """Return title, flags and one line per value."""
        width = max(len(one.name) for one in self.entries) + 2
        lines = [self.title]
        for (topic, data), entries in sections(self.entries).items():
            reason = all_missing(entries)
            found = [line for one in entries for line in _lines(one, width)]
            lines += ["", f"{topic} ({data})", *([f"  {reason}"] if reason else found)]
        return "\n".join(lines)

    @property
    def flags(self) -> list[str]:
        """Values that may mislead, one sentence each."""
        return [f"{one.name} ({one.data}): {one.flag}" for one in self.entries if one.flag]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per value: section, name, value, unit, how, guide, flag, reason, and references."""
        import pandas as pd

        rows = [{**asdict(one), **one.references} for one in self.entries]
        return pd.DataFrame(rows).drop(columns="references")

    def to_csv(self, path: Path | str | None = None) -> str | None:
        """Write :meth:`to_frame` as CSV, or return it if there is no path."""
        return self.to_frame().to_csv(path, index=False)

    def to_json(self, path: Path | str | None = None) -> str | None:
        """Write title, flags and values as JSON, or return it if there is no path."""
        whole = {"title": self.title, "flags": self.flags, "values": [asdict(one) for one in self.entries]}
        text = json.dumps(whole, indent=1, allow_nan=False, default=dict)
        if path is None:
            return text
        Path(path).write_text(text + "\n", encoding="utf-8")
        return None

    def plot(self) -> Figure:
        """Return a figure: the latents in a plane, nearest against second mean, and calibration if known."""
        from lpc.reporting.figure import draw

        return draw(self.points)

    def to_html(self, path: Path | str | None = None) -> str | None:
        """Write one self-contained page with table, flags and figure, or return it if there is no path."""
        from lpc.reporting.page import whole_page

        text = whole_page(self)
        if path is None:
            return text
        Path(path).write_text(text, encoding="utf-8")
        return None

    def _repr_html_(self) -> str:
        from lpc.reporting.page import body

        return body(self)


def _lines(one: Entry, width: int) -> list[str]:
    value = f"{one.value:.4g} {one.unit}".rstrip() if one.value is not None else "-"
    beside = ", ".join(f"{name} {number:.3g}" for name, number in one.references.items())
    note = f"missing: {_short(one.missing)}" if one.value is None else f"({beside})" if beside else ""
    lines = [f"  {one.name:{width}} {value:>12}  {note}".rstrip()]
    return [*lines, f"  {'':{width}} {'!':>12}  {one.flag}"] if one.flag else lines


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


@measurement
def report(
    latents: Any,
    labels: Any = None,
    *,
    logits: Any = None,
    classifier: Any = None,
    test: Any = None,
    outside: Any = None,
    sample: int = SAMPLE,
    k: int | None = None,
    seed: int = 0,
    progress: bool | None = False,
) -> Report:
    """Measure everything that latents and labels allow.

    Each value is computed by one of the library's functions and named as there; it comes with values for
    comparison, advice on reading it and, if it is missing, the reason.

    Parameters
    ----------
    latents
        Latents, shape (points, width), float32 or float64, arrays or tensors; or the result of
        :func:`~lpc.latents.collect_latents`, which brings labels, logits and classifier.
    labels
        Class of each point, shape (points,).
    logits
        Logits of these points, shape (points, classes); None: those of the classifier, if one is given. If
        both are given and differ by more than rounding to half precision, a flag says so.
    classifier
        Last layer: a ``torch.nn.Linear``, its weight, or a pair of weight and bias.
    test
        Held-out points: the result of ``collect_latents``, or a tuple of latents, labels and optionally
        logits.
    outside
        Points from another distribution: in the same form, or latents alone.
    sample
        Largest number of random points for entropies, binarity and neighbours; I[Y; Z] of wide latents uses
        fewer, because the cost grows with the square. Each line says how many it used.
    k
        Rank of the neighbour for entropies; None: 2 % of the smallest class, at least 2.
    seed
        Seed of samples, shuffled labels and noise; torch's own generators are left alone.
    progress
        Whether to show a progress bar on stderr; None: only in a terminal.

    Raises
    ------
    ValueError
        If arrays are invalid or do not match.

    Returns
    -------
    Report
        The report, shown as a table in a notebook; ``print`` it, or use its methods.
    """
    from tqdm import tqdm

    sample, seed = whole("sample", sample, least=2), whole("seed", seed, least=0)
    if progress is not None:
        flag("progress", progress)
    train = as_report_points("train", latents, labels, logits=logits, classifier=classifier)
    sets, measured = [train], {"train": train}
    readout = None if train.weight is None else (train.weight, train.bias)
    if test is not None:
        sets.append(_of_same_width(as_report_points("test", test, classifier=readout), train))
        measured["test"] = sets[-1]
    held = sets[-1]
    steps: list[Callable[[], list[Entry]]] = []
    for points in sets:
        steps += [
            lambda points=points: _collapse.accuracy(points, train),
            lambda points=points: _collapse.collapse(points, train, seed=seed),
            lambda points=points: _collapse.geometry(points, seed=seed),
        ]
    steps += [
        lambda: _collapse.nodes(train, sample=sample, seed=seed),
        lambda: _information.information(train, sample=sample, k=k, seed=seed),
        lambda: _reliability.calibration(held),
        lambda: _reliability.errors(held, train),
    ]
    if outside is not None:
        given = as_report_points("outside", outside, classifier=readout, labelled=False)
        away = measured["outside"] = _of_same_width(given, train)
        steps.append(lambda: _reliability.outside(held, train, away, sample=sample, seed=seed))
    bar = tqdm(steps, unit=" sections", disable=None if progress is None else not progress)
    with as_they_were():
        entries = [entry for step in bar for entry in step()]
    about = "; ".join(f"{points.name} {points.total:,} points" for points in measured.values())
    title = f"{about}; {train.latent.shape[1]} nodes, {len(train.counts)} classes"
    return Report(entries, title=title, points=measured)


def _of_same_width(points: Points, train: Points) -> Points:
    if points.latent.shape[1] != train.latent.shape[1]:
        raise ValueError(
            f"latents of {points.name} have width {points.latent.shape[1]}; latents have width "
            f"{train.latent.shape[1]}"
        )
    return points
