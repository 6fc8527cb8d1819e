"""The architectures of the comparison: tables of independent choices, and the spec of a run for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lpc.errors import unknown_name
from lpc.specs import (
    DataSpec,
    LastLayer,
    LatentNoise,
    ModelSpec,
    Objective,
    Optimizer,
    Penalty,
    Penultimate,
    RunSpec,
    TrainSpec,
    Width,
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the ablation (LPC Table 3): independent choices, not a class of its own.

    Attributes
    ----------
    penultimate
        The layer before the classifier.
    width
        Width of the latent: the name of a column of :data:`WIDTHS`, or a number of nodes for every data set.
    penalty, objective
        Penalty and main term of the training loss.
    dropout
        Probability with which an element is set to zero in training.
    classifier
        Kind of the last layer.
    gamma_maximum
        Largest gamma, instead of the schedule's; None: the schedule's.
    gamma
        Constant gamma for the whole training, instead of any schedule; None: the schedule's.
    optimizer
        Optimizer of the training.
    label_smoothing
        Share of each label's probability that is spread evenly over all classes.
    weight_decay
        Weight decay, instead of the schedule's; None: the schedule's.
    norm_power, latent_noise, spectral_norm, logit_temperature
        The fields of the same names in :class:`~lpc.specs.TrainSpec` and :class:`~lpc.specs.ModelSpec`.
    """

    penultimate: Penultimate = "none"
    width: Width | int = "none"
    penalty: Penalty = "none"
    dropout: float = 0.0
    objective: Objective = "decoder_cross_entropy"
    classifier: LastLayer = "linear"
    gamma_maximum: float | None = None
    gamma: float | None = None
    optimizer: Optimizer = "adamw"
    label_smoothing: float = 0.0
    weight_decay: float | None = None
    norm_power: float = 1.0
    latent_noise: LatentNoise = "none"
    spectral_norm: bool = False
    logit_temperature: float = 1.0


VARIANTS: Mapping[str, Variant] = {
    "IB": Variant(penultimate="linear", width="intermediate", penalty="squared_norm"),
    "WideIB": Variant(penultimate="linear", width="wide", penalty="squared_norm"),
    "NarrowIB": Variant(penultimate="linear", width="narrow", penalty="squared_norm"),
    "NoPen": Variant(),
    "NoPenDropout": Variant(dropout=0.5),
    "LinPen": Variant(penultimate="linear", width="intermediate"),
    "NonLinPen": Variant(penultimate="nonlinear", width="intermediate"),
    "NonLinPenL1": Variant(penultimate="nonlinear", width="intermediate", penalty="weight_l1"),
    "LinPenDropout": Variant(penultimate="linear", width="intermediate", dropout=0.5),
    "NonLinIB": Variant(penultimate="nonlinear", width="intermediate", penalty="squared_norm"),
}
"""The eight architectures of the paper's tables, LinPenDropout (its Figure 2), NonLinIB (excluded there)."""


def _with_lpc(variants: Mapping[str, Variant]) -> dict[str, Variant]:
    """Return each variant, followed by its copy with the squared norm, named with the suffix LPC."""
    pairs = ((name, replace(one, penalty="squared_norm")) for name, one in variants.items())
    return {key: one for name, lpc in pairs for key, one in ((name, variants[name]), (f"{name}LPC", lpc))}


EMBEDDINGS: Mapping[str, Variant] = {
    **_with_lpc(
        {
            "NoPen": Variant(),
            **{f"Lin{nodes}": Variant(penultimate="linear", width=nodes) for nodes in (32, 64, 128)},
            **{f"NonLin{nodes}": Variant(penultimate="nonlinear", width=nodes) for nodes in (32, 64, 128)},
        }
    ),
    "SupCon": Variant(penultimate="linear", width=64, objective="supervised_contrastive"),
    "SupConCE": Variant(penultimate="linear", width=64, objective="contrastive_cross_entropy"),
    "SupConLPC": Variant(
        penultimate="linear", width=64, objective="contrastive_cross_entropy", penalty="squared_norm"
    ),
    **_with_lpc(
        {
            "ArcFace": Variant(penultimate="linear", width=64, objective="arcface", classifier="cosine"),
            "CosFace": Variant(penultimate="linear", width=64, objective="cosface", classifier="cosine"),
        }
    ),
}
"""Embeddings after the 2025 release: widths with and without the squared norm (suffix LPC), and losses of
metric learning at 64 nodes, alone and with the squared norm."""

GAMMAS: Mapping[str, Variant] = {
    "gamma0": Variant(penultimate="linear", width="intermediate"),
    **{
        f"gamma{text}": Variant(
            penultimate="linear", width="intermediate", penalty="squared_norm", gamma_maximum=float(text)
        )
        for text in ("1e-2", "1e-1", "1", "10", "100", "1000")
    },
}
"""IB's layer with different final values of gamma; ``gamma0`` has no penalty."""

WIDTHS: Mapping[str, Mapping[Width, int | None]] = {
    "svhn": {"none": None, "intermediate": 8, "wide": None, "narrow": 6},
    "cifar10": {"none": None, "intermediate": 8, "wide": None, "narrow": 4},
    "cifar100": {"none": None, "intermediate": 64, "wide": None, "narrow": 8},
    "mnist": {"none": None, "intermediate": 8, "wide": None, "narrow": 4},
    "fashion_mnist": {"none": None, "intermediate": 8, "wide": None, "narrow": 4},
    "digits": {"none": None, "intermediate": 8, "wide": None, "narrow": 4},
    "mnist_subset": {"none": None, "intermediate": 8, "wide": None, "narrow": 4},
}
"""Number of penultimate nodes by data set (LPC Appendix C); wide is the backbone's own number."""


def latent_nodes(variant: Variant, dataset: str) -> int | None:
    """Return the number of penultimate nodes of a variant on a data set; None: the backbone's own number.

    Parameters
    ----------
    variant
        Variant whose ``width`` is looked up.
    dataset
        Name of the data set, a key of :data:`WIDTHS`.
    """
    return variant.width if isinstance(variant.width, int) else WIDTHS[dataset][variant.width]


def variant_spec(
    architecture: str,
    *,
    data: DataSpec,
    backbone: str,
    backbone_width: int,
    train: TrainSpec,
    seed: int,
    variants: Mapping[str, Variant] = VARIANTS,
) -> RunSpec:
    """Return the spec of one architecture of the ablation, or of another table of variants.

    Parameters
    ----------
    architecture
        Name of the architecture, a key of ``variants``.
    data, backbone, backbone_width, seed
        Fields of :class:`~lpc.specs.RunSpec` and :class:`~lpc.specs.ModelSpec`, taken over as they are.
    train
        Training schedule shared by all architectures. The variant replaces its ``penalty``, ``norm_power``,
        ``objective``, ``optimizer`` and ``label_smoothing``, and its gamma and weight decay where the variant
        sets them.
    variants
        Table of variants by name: :data:`VARIANTS`, :data:`EMBEDDINGS`, :data:`GAMMAS` or your own.

    Raises
    ------
    ValueError
        If the architecture or the data set is unknown.
    """
    if architecture not in variants:
        raise unknown_name("architecture", architecture, variants)
    if data.name not in WIDTHS:
        raise unknown_name("data set", data.name, WIDTHS)
    variant = variants[architecture]
    model = ModelSpec(
        backbone=backbone,
        backbone_width=backbone_width,
        penultimate=variant.penultimate,
        latent_width=latent_nodes(variant, data.name),
        dropout=variant.dropout,
        classifier=variant.classifier,
        latent_noise=variant.latent_noise,
        spectral_norm=variant.spectral_norm,
        logit_temperature=variant.logit_temperature,
    )
    maximum = train.gamma_maximum if variant.gamma_maximum is None else variant.gamma_maximum
    train = replace(
        train,
        penalty=variant.penalty,
        objective=variant.objective,
        gamma_maximum=maximum,
        optimizer=variant.optimizer,
        label_smoothing=variant.label_smoothing,
        norm_power=variant.norm_power,
        weight_decay=train.weight_decay if variant.weight_decay is None else variant.weight_decay,
    )
    if variant.gamma is not None:
        train = replace(train, gamma_initial=variant.gamma, gamma_factor=1.0, gamma_maximum=variant.gamma)
    return RunSpec(architecture=architecture, data=data, model=model, train=train, seed=seed)
