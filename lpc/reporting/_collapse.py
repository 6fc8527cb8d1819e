"""The report's lines on collapse, neural collapse and binarity."""

from __future__ import annotations

from typing import Any

from lpc.evaluation.binarity import binarity, hypercube
from lpc.evaluation.class_geometry import class_distance_variance, gram_distance
from lpc.evaluation.collapse import (
    nearest_mean_accuracy,
    norm_coefficient_of_variation,
    within_between_traces,
)
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.reporting.entries import Entry, Once, Sheet
from lpc.reporting.points import Points
from lpc.reporting.references import of_book, tight_random_classes

LOST = 0.1
"""Excess of nearest-mean accuracy over the classifier's from which the readout counts as lost."""


def accuracy(points: Points, train: Points) -> list[Entry]:
    """Return the lines on accuracy: of the classifier, and of the nearest train class mean.

    Parameters
    ----------
    points, train
        Points to classify, and the points whose class means are used.
    """
    sheet = Sheet("Accuracy", points.name)
    book = "test " if points.name == "test" else ""
    chance = max(points.counts.values()) / points.total
    logits = points.logits
    right = sheet.add(
        "accuracy",
        "accuracy of the classifier",
        lambda: None if logits is None else float((logits.argmax(dim=1) == points.label).double().mean()),
        missing="needs logits or the classifier",
        guide="share of points whose largest logit is their label's",
        references={"largest class": chance, **of_book(f"{book}accuracy")},
        flag=points.doubt,
    )

    def lost(value: float) -> str:
        gap = 0.0 if right is None or points.doubt else value - right
        return f"readout lost: the class means tell {gap:.0%} more points apart" if gap > LOST else ""

    sheet.add(
        "nearest_mean_accuracy",
        "accuracy of the nearest class mean",
        lambda: nearest_mean_accuracy(train.latent, train.label, points.latent, points.label),
        how="class means of the train set, Euclidean distance",
        guide="far above the classifier's: the latents are separable, but the readout is lost",
        references={"largest class": chance, **of_book(f"{book}nearest_mean_accuracy")},
        flag=lost,
    )
    return sheet.entries


def collapse(points: Points, train: Points, *, seed: int) -> list[Entry]:
    """Return the lines on collapse.

    Parameters
    ----------
    points, train
        Points to measure, and the train set with which a test set is compared.
    seed
        Seed of the order of shuffled labels.
    """
    sheet = Sheet("Collapse", points.name)
    traces = Once(lambda: within_between_traces(points.latent, points.label))

    def only_scale(value: float) -> str:
        small = value < 0.01 and traces().ratio > 0.3
        return "only scale: the latents are small, their classes are not tight" if small else ""

    sheet.add(
        "trace_within",
        "tr Sw",
        lambda: traces().within,
        unit="squared latent units",
        how='convention "paper": sum over points / number of points',
        guide="falls when latents merely shrink; compare the ratio below",
        flag=only_scale,
    )

    def carries(value: float) -> str:
        if points.name == "train":
            return ""
        own = within_between_traces(train.latent, train.label).ratio
        return f"{value / own:.0f} times that of the train set" if own > 0 and value > 10 * own else ""

    sheet.add(
        "trace_ratio",
        "tr Sw / tr Sb",
        lambda: traces().ratio,
        how='convention "paper"',
        guide="free of scale; 0 is full collapse",
        references={
            "shuffled labels": lambda: within_between_traces(points.latent, points.shuffled(seed)).ratio,
            **(of_book("trace_ratio") if points.name == "train" else {}),
        },
        flag=carries,
    )
    sheet.add(
        "norm_variation",
        "norms: sd / mean",
        lambda: norm_coefficient_of_variation(points.latent),
        guide="0: all latents have one length",
        references=of_book("norm_variation") if points.name == "train" else {},
    )
    return sheet.entries


def geometry(points: Points, *, seed: int) -> list[Entry]:
    """Return the lines on neural collapse.

    Parameters
    ----------
    points
        Points to measure.
    seed
        Seed of the shuffled labels and of the random class means.
    """
    sheet = Sheet("Neural collapse", points.name)
    readout: dict[str, Any] = {"classifier_weight": points.weight, "classifier_bias": points.bias}
    own = Once(lambda: neural_collapse(points.latent, points.label, **readout))
    shuffled = Once(lambda: neural_collapse(points.latent, points.shuffled(seed), **readout))
    tight = tight_random_classes(points.latent.shape[1], len(points.counts), seed)
    random = Once(lambda: neural_collapse(*tight))
    train = points.name == "train"
    guides = {
        "nc1_per_rank": ("NC1 / rank", "spread within over spread between classes; compare across widths"),
        "equinorm": (
            "NC2: lengths of the means, sd / mean",
            "0: all class means are equally far out",
        ),
        "equiangularity": ("NC2: sd of cosines", "0: any two class means make the same angle"),
        "max_angle": ("NC2: mean |cos + 1/(K-1)|", "0: the angles are those of a simplex"),
        "nc3": ("NC3: weights and means", "0: the classifier's rows point to the class means; at most 4"),
        "nc4": (
            "NC4: unlike the nearest mean",
            "share of points to which the classifier gives another class",
        ),
    }
    for key, (name, guide) in guides.items():
        without = key in ("nc3", "nc4")
        sheet.add(
            key,
            name,
            lambda key=key: getattr(own(), key),
            how=""
            if without or key != "nc1_per_rank"
            else 'convention "paper", over min(width, classes - 1)',
            guide=guide,
            missing="needs the classifier's weight",
            references={
                "shuffled labels": lambda key=key: getattr(shuffled(), key),
                **({} if without else {"tight random classes": lambda key=key: getattr(random(), key)}),
                **(of_book(key) if train else {}),
            },
            flag=(lambda _value: "; ".join(own.said)) if key == "nc1_per_rank" else "",
        )
    for key, name, function, guide in (
        (
            "gram_distance",
            "Gram distance to a simplex",
            gram_distance,
            "0: the means are a simplex; at most 2",
        ),
        (
            "cdnv",
            "CDNV",
            class_distance_variance,
            "variance over squared distance, mean over pairs; 0: collapse",
        ),
    ):
        sheet.add(
            key,
            name,
            lambda function=function: function(points.latent, points.label),
            guide=guide,
            references={
                "shuffled labels": lambda function=function: function(points.latent, points.shuffled(seed)),
                "tight random classes": lambda function=function: function(*tight),
            },
        )
    return sheet.entries


def nodes(points: Points, *, sample: int, seed: int) -> list[Entry]:
    """Return the lines on binarity and the hypercube.

    Parameters
    ----------
    points
        Points to measure.
    sample, seed
        Largest number of points to which two Gaussians are fitted at each node, and the seed of their draw.
    """
    sheet = Sheet("Binarity", points.name)
    some = points.sample(sample, seed)
    fit = Once(lambda: binarity(some.latent, standardise=True))
    cube = Once(lambda: hypercube(points.latent, points.label))
    width = points.latent.shape[1]
    sheet.add(
        "binarity_mu",
        "distance of two Gaussians / their sd",
        lambda: fit().mu,
        how=f"mean over nodes, of {some.total:,} of {points.total:,} points",
        guide="large: each node takes two values; 2 to 3 without any binarity",
        references=of_book("binarity_mu"),
    )
    sheet.add(
        "binarity_degenerate",
        "nodes left out",
        lambda: fit().degenerate,
        unit=f"of {width}",
        guide="a component is one repeated value, such as zero after a ReLU",
        flag=lambda value: "values of nodes repeat: mu covers the other nodes" if value else "",
    )
    sheet.add(
        "cube_variation",
        "class means off a hypercube",
        lambda: cube().mean_variation,
        guide="0: the class means are vertices of a box about the origin",
        references=of_book("cube_variation"),
    )
    sheet.add(
        "cube_patterns",
        "sign patterns of the class means",
        lambda: cube().patterns,
        unit=f"of {len(points.counts)} classes",
        guide="as many as classes: each class has its own vertex",
    )
    sheet.add(
        "dead_nodes",
        "dead nodes",
        lambda: cube().dead,
        unit=f"of {width}",
        guide="class means below 1 % of the largest node's rms",
        flag=lambda value: f"{value:.0f} nodes carry almost nothing" if value else "",
    )
    return sheet.entries
