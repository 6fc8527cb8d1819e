"""Definition of a run: frozen specs, and the key that names a run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from lpc._front.faces import face
from lpc.errors import unknown_name

if TYPE_CHECKING:  # the tables of architectures, under the path they had here
    from lpc.architectures import EMBEDDINGS as EMBEDDINGS
    from lpc.architectures import GAMMAS as GAMMAS
    from lpc.architectures import VARIANTS as VARIANTS
    from lpc.architectures import WIDTHS as WIDTHS
    from lpc.architectures import Variant as Variant
    from lpc.architectures import latent_nodes as latent_nodes
    from lpc.architectures import variant_spec as variant_spec
else:
    __getattr__, __dir__ = face(__name__)

PROTOCOL = 2
"""Version of the results, incremented by any edit that changes them; it is part of a run's key."""

Penultimate = Literal["none", "linear", "nonlinear"]
Penalty = Literal[
    "none",
    "squared_norm",
    "log_variance",
    "conditional_log_variance",
    "centre",
    "norm_power",
    "logit_norm",
    "divergence",
    "weight_l1",
]
ON_LATENT: tuple[Penalty, ...] = tuple(
    penalty for penalty in get_args(Penalty) if penalty not in ("none", "weight_l1")
)
"""Penalties of the latent, and of the logits that are linear in it: their weight is gamma."""
Objective = Literal[
    "decoder_cross_entropy",
    "prediction_cross_entropy",
    "decoder_uncertainty",
    "supervised_contrastive",
    "contrastive_cross_entropy",
    "arcface",
    "cosface",
]
METRIC_LEARNING: tuple[Objective, ...] = (
    "supervised_contrastive",
    "contrastive_cross_entropy",
    "arcface",
    "cosface",
)
"""Objectives of metric learning: their runs train alone."""
LastLayer = Literal["linear", "cosine"]
Encoder = Literal["continuous", "categorical"]
Decoder = Literal["linear", "network", "optimal"]
LatentNoise = Literal["none", "zero_entropy", "learnt"]
Metrics = Literal["collapse", "information", "geometry"]
Reduction = Literal["sum", "mean"]
DropoutSite = Literal["latent", "logits"]
Precision = Literal["float32", "bfloat16"]
Width = Literal["none", "intermediate", "wide", "narrow"]
Decay = Literal["halving", "cosine"]
Optimizer = Literal["adamw", "adamw_turned", "adam_equivariant", "adam", "sgd", "sgdw", "lion"]
BOUNDED_STEPS: tuple[Optimizer, ...] = ("adamw", "adamw_turned", "adam_equivariant", "adam", "lion")
"""Optimizers whose steps are about as long as the learning rate, whatever the gradient's size."""


def _checked(value: object, hint: Any, where: str) -> Any:
    """Return ``value`` as the annotated type, or raise a ValueError that names the field.

    NumPy's scalars and arrays of no dimensions count as Python's own.
    """
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # type: ignore[attr-defined]
    options = get_args(hint)
    if options and all(isinstance(option, str) for option in options):  # a Literal of names
        if value not in options:
            raise unknown_name(where, value, options)
        return value
    if options and type(None) in options:  # X | None
        return None if value is None else _checked(value, options[0], where)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value!r}; expected a finite number")
        return float(value) + 0.0  # -0.0 is 0.0: equal specs have equal JSON
    if hint in (bool, int, str) and type(value) is hint:
        return value
    if isinstance(hint, type) and isinstance(value, hint) and hint not in (bool, int, float, str):
        return value
    raise ValueError(f"{where} is {value!r}; expected {getattr(hint, '__name__', hint)}")


@cache
def _hints(spec: type) -> dict[str, Any]:
    """Return the types of a spec's fields: profiles declare thousands of specs of three classes."""
    return get_type_hints(spec)


class _Spec:
    """Checks every field's type once, so that equal specs have equal JSON (1 and 1.0 are one float)."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for item in fields(self):  # type: ignore[arg-type]
            where = f"{type(self).__name__}.{item.name}"
            object.__setattr__(self, item.name, _checked(getattr(self, item.name), hints[item.name], where))

    def _require(self, condition: bool, field: str, expected: str) -> None:
        if not condition:
            raise ValueError(
                f"{type(self).__name__}.{field} is {getattr(self, field)!r}; expected {expected}"
            )


@dataclass(frozen=True, kw_only=True)
class DataSpec(_Spec):
    """Which images, how they are split, and how a training batch is augmented.

    Attributes
    ----------
    name
        Data set: a key of ``lpc.datasets.LOADERS``.
    validation
        Number of images held out from the train set to choose the learning rate; 0 trains on the full train
        set.
    split_seed
        Seed of the held-out split (stratified by class), the same for every run of a study.
    train_limit
        Number of training images to keep (stratified by class); None: all.
    size
        Height and width in pixels to which images are padded with black on all sides; None: no padding.
    permutation_seed
        Seed of one permutation of the pixels, the same for every image and channel (Permutation-MNIST,
        Goodfellow et al. 2013); None: pixels stay in place.
    first_classes
        Number of classes to keep, those with the smallest labels, in the training, validation and test sets;
        None: all. The images of the other classes are :func:`lpc.data.left_out`.
    flip
        Whether training images are flipped horizontally at random (LPC Appendix C: True).
    crop_padding
        Zero padding in pixels before random crops; 0: no crops (LPC Appendix C: 4).
    noise
        Standard deviation of Gaussian noise added to the normalised image (LPC Appendix C: 0.01).
    """

    name: str
    validation: int = 0
    split_seed: int = 0
    train_limit: int | None = None
    size: int | None = None
    permutation_seed: int | None = None
    first_classes: int | None = None
    flip: bool = False
    crop_padding: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.validation >= 0, "validation", "0 or more images")
        self._require(self.train_limit is None or self.train_limit > 0, "train_limit", "a positive number")
        self._require(self.size is None or self.size > 0, "size", "a positive number of pixels, or None")
        seed = self.permutation_seed
        self._require(seed is None or seed >= 0, "permutation_seed", "0 or more, or None")
        first = self.first_classes
        self._require(first is None or first >= 2, "first_classes", "2 or more, or None")
        self._require(self.crop_padding >= 0, "crop_padding", "0 or more pixels")
        self._require(self.noise >= 0, "noise", "a standard deviation of 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModelSpec(_Spec):
    """Backbone and head of a classifier.

    Attributes
    ----------
    backbone
        Name of the backbone, a key of ``lpc.backbones.BACKBONES``.
    backbone_width
        Width of the backbone: hidden units of the MLP, channels of the first stage of the others.
    penultimate
        The layer between backbone and classifier: none, linear, or linear followed by SiLU.
    latent_width
        Number of nodes of that layer; None: the backbone's own number of features ("wide").
    dropout
        Probability with which an element is set to zero in training.
    dropout_site
        Place of dropout: on the latent before the classifier (the paper) or on the logits (the release).
    latent_noise
        Noise on the latent. ``zero_entropy``: Gaussian of variance 1/(2 pi e), added in training only (Kirsch
        et al. 2020, Section 6.1). ``learnt``: Gaussian whose sd at every node is another linear map of the
        features (Alemi et al. 2017); in evaluation the latent is its mean.
    encoder
        Kind of latent. ``categorical``: one of ``latent_width`` categories, distributed as the softmax of a
        linear layer (Kirsch et al. 2020, Section 5.4).
    decoder
        Map from the latent to class scores. ``linear``: a linear layer; ``network``, for a categorical latent
        only: a network with two hidden layers that gives every category's class probabilities; ``optimal``,
        likewise: the decoder p(y|z), set after each epoch instead of trained.
    decoder_width
        Units in each hidden layer of the ``network`` decoder.
    rescaled
        Whether the latent passes through an untrained shift and scale (``TrainSpec.latent_sd``).
    classifier
        Kind of the last layer: ``linear``, or ``cosine``: a scale times the cosine of latent and class
        weight, without bias (Wang et al. 2018, Eq. 3; Deng et al. 2019, Eq. 2).
    classifier_scale
        Scale of the cosine classifier's logits (the 2025 release: 32).
    spectral_norm
        Whether the penultimate layer's weights are divided by their largest singular value (Miyato et al.
        2018, Eq. 8). Other layers are left alone, because batch norm follows them and would undo their scale.
    logit_temperature
        Divisor of the class scores, in training and in evaluation (Hinton et al. 2015, Eq. 1).
    """

    backbone: str
    backbone_width: int
    penultimate: Penultimate = "none"
    latent_width: int | None = None
    dropout: float = 0.0
    dropout_site: DropoutSite = "latent"
    latent_noise: LatentNoise = "none"
    encoder: Encoder = "continuous"
    decoder: Decoder = "linear"
    decoder_width: int = 1024
    rescaled: bool = False
    classifier: LastLayer = "linear"
    classifier_scale: float = 32.0
    spectral_norm: bool = False
    logit_temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.classifier_scale > 0, "classifier_scale", "a positive number")
        self._require(self.logit_temperature > 0, "logit_temperature", "a positive number")
        if self.spectral_norm or self.latent_noise == "learnt":
            which = "a spectral norm" if self.spectral_norm else "noise of learnt variance"
            self._require(self.penultimate == "linear", "penultimate", f"'linear' for {which}")
            self._require(self.encoder == "continuous", "encoder", f"'continuous' for {which}")
        if self.latent_noise == "learnt":
            self._require(not self.rescaled, "rescaled", "False for noise of learnt variance")
        if self.classifier == "cosine":
            self._require(self.encoder == "continuous", "encoder", "'continuous' for a cosine classifier")
            self._require(not self.rescaled, "rescaled", "False for a cosine classifier")
        self._require(self.backbone_width > 0, "backbone_width", "a positive number")
        self._require(self.latent_width is None or self.latent_width > 0, "latent_width", "a positive number")
        self._require(0 <= self.dropout < 1, "dropout", "a probability in [0, 1)")
        no_layer = self.penultimate == "none"
        self._require(
            not (no_layer and self.latent_width), "latent_width", "None where there is no penultimate layer"
        )
        self._require(self.decoder_width > 0, "decoder_width", "a positive number")
        if self.encoder == "categorical":
            self._require(self.penultimate == "linear", "penultimate", "'linear' before a categorical latent")
            self._require(self.latent_width is not None, "latent_width", "the number of categories")
            self._require(self.latent_noise == "none", "latent_noise", "'none' for a categorical latent")
            self._require(self.dropout == 0, "dropout", "0 for a categorical latent")
            self._require(not self.rescaled, "rescaled", "False for a categorical latent")
            self._require(self.logit_temperature == 1, "logit_temperature", "1 for a categorical latent")
        else:
            self._require(self.decoder == "linear", "decoder", "'linear' for a continuous latent")


@dataclass(frozen=True, kw_only=True)
class TrainSpec(_Spec):
    """Optimisation: the optimizer, the objective, the penalty, and their schedules.

    Attributes
    ----------
    epochs
        Number of passes over the training images.
    batch_size
        Number of images per optimizer step.
    learning_rate
        Learning rate of the optimizer.
    weight_decay
        Weight decay of the optimizer (the paper's: 0.5e-4, the release's: 5e-4).
    optimizer
        ``adamw``: the papers' choice. ``adamw_turned``: AdamW in coordinates in which the latent is turned at
        random, by the run's seed. ``adam_equivariant``: AdamW with one second moment per tensor, which
        prefers no axes. ``adam`` and ``sgd``: weight decay is part of the gradient (coupled). ``sgdw``: SGD
        with decoupled decay. ``lion``: signs of a momentum, decoupled decay.
    momentum
        Momentum of ``sgd`` and ``sgdw``.
    decay_start, decay_every
        Epochs, counted from 0, at which the learning rate is halved, except the classifier's: ``decay_start``
        and every ``decay_every`` epochs after it; None: never.
    decay
        Decay of the learning rate, except the classifier's. ``halving``: as above. ``cosine``: half a cosine
        from epoch ``decay_start`` to 0 at the end of training, ignoring ``decay_every`` (Loshchilov and
        Hutter 2017, Eq. 5, without restarts; the 2025 release: from epoch 200 of 1000).
    plateau_factor, plateau_patience
        Factor by which all learning rates are multiplied once the epoch's loss has not improved for more than
        ``plateau_patience`` epochs (Kirsch et al. 2020, Section 7: 0.8 and 3); None: never.
    record_every
        Number of epochs between two recordings of the metrics; the last epoch is always recorded.
    accuracy_every
        Number of epochs between two measurements of the train accuracy (without augmentation) until it passes
        99.9 %: the resolution of the epoch at which the terminal phase begins.
    precision
        Precision of the backbone's arithmetic. Weights, head, penalty, loss and optimizer stay in float32.
    metrics
        Metrics to record: ``collapse`` (LPC Tables 1 and 2), ``information`` (Kirsch et al. Figures 3 to 6),
        or ``geometry``: the part of ``collapse`` that is quick on wide latents, without entropies and
        mixtures.
    objective
        Main term of the loss (:mod:`lpc.objectives`).
    samples
        Number of samples of dropout and noise per image.
    label_smoothing
        Share of each label's probability that is spread evenly over all classes, in the decoder cross-entropy
        of a continuous latent (Szegedy et al. 2016, Section 7).
    temperature
        Temperature of the supervised contrastive loss (the 2025 release: 0.05).
    margin
        Margin of ``arcface`` in radians, or of ``cosface`` in units of the cosine (the 2025 release: 0.3).
    penalty
        ``squared_norm``: gamma times the squared norm of the latent. ``log_variance`` and
        ``conditional_log_variance``: gamma times the Gaussian bound of H[Z] or H[Z | Y] from the variances of
        the batch, in nats (Kirsch et al. 2020, Observation 8). ``centre``: gamma times the mean squared
        distance of the latents from their class's centre (:mod:`lpc.centres`). ``norm_power``: gamma times
        the mean norm of the latent to the power ``norm_power``. ``logit_norm``: gamma times the mean squared
        norm of the logits (Kannan et al. 2018, Section 4: logit squeezing). ``divergence``, for noise of
        learnt variance: gamma times the mean divergence of the latent's distribution from the standard normal
        one, in nats (Alemi et al. 2017, Eq. 17: beta). ``weight_l1``: ``l1`` times the sum of the absolute
        weights of the penultimate layer.
    penalty_reduction
        Whether the squared norm is summed over the latent's nodes (Eq. 3) or averaged, which divides gamma by
        the width (the release).
    norm_power
        Exponent of the penalty ``norm_power``, at least 1.
    centre_rate
        Share of the way to the batch's class means by which centres move in a step, for the penalty
        ``centre`` (Wen et al. 2016, Eq. 4: alpha, 0.5).
    gamma_initial, gamma_factor, gamma_maximum
        First gamma, factor per change and largest gamma: gamma in epoch e is
        ``min(gamma_initial * gamma_factor**e, gamma_maximum)``.
    gamma_every
        Number of epochs between two changes of gamma (the 2025 release: 5); e is then the number of changes
        so far.
    gamma_late_factor, gamma_late_from
        Factor per change once gamma has reached ``gamma_late_from`` (the 2025 release: 2 up to 1e3, then
        1.25); None: ``gamma_factor`` throughout.
    gamma_overshoot
        Whether gamma ends at the first ``gamma_initial * gamma_factor**e`` not below the maximum (the
        release), instead of at the maximum.
    l1
        Coefficient of the penalty ``weight_l1``.
    latent_sd, latent_sd_factor
        Standard deviation to which every node of the latent is brought after an epoch, with mean 0:
        ``latent_sd * latent_sd_factor**e`` after epoch e, counted from 0. The decoder's weights are changed
        so that it computes the same (Kirsch et al. 2020, Section 7.2). None: latents are not rescaled.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float
    weight_decay: float = 0.5e-4
    decay_start: int | None = None
    decay_every: int = 50
    plateau_factor: float | None = None
    plateau_patience: int = 3
    record_every: int = 50
    accuracy_every: int = 1
    precision: Precision = "float32"
    metrics: Metrics = "collapse"
    objective: Objective = "decoder_cross_entropy"
    samples: int = 1
    penalty: Penalty = "none"
    penalty_reduction: Reduction = "sum"
    gamma_initial: float = 1e-2
    gamma_factor: float = 1.05
    gamma_maximum: float = 1e6
    gamma_overshoot: bool = False
    l1: float = 1e-4
    latent_sd: float | None = None
    latent_sd_factor: float = 1.0
    temperature: float = 0.05
    margin: float = 0.3
    decay: Decay = "halving"
    gamma_every: int = 1
    gamma_late_factor: float | None = None
    gamma_late_from: float | None = None
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9
    label_smoothing: float = 0.0
    centre_rate: float = 0.5
    norm_power: float = 1.0

    @property
    def alone(self) -> bool:
        """Whether the run must train alone because its loss is not just a function of its batch."""
        return self.objective in METRIC_LEARNING or self.penalty == "centre"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("epochs", "batch_size", "learning_rate", "decay_every", "record_every", "accuracy_every")
        positive += ("samples", "latent_sd_factor", "gamma_initial", "gamma_maximum", "gamma_every")
        for name in (*positive, "temperature"):
            self._require(getattr(self, name) > 0, name, "a positive number")
        self._require(self.weight_decay >= 0, "weight_decay", "0 or more")
        self._require(self.gamma_factor >= 1, "gamma_factor", "1 or more: gamma does not shrink")
        self._require(self.l1 >= 0, "l1", "0 or more")
        factor, sd = self.plateau_factor, self.latent_sd
        self._require(factor is None or 0 < factor < 1, "plateau_factor", "above 0 and below 1, or None")
        self._require(self.plateau_patience >= 0, "plateau_patience", "0 or more epochs")
        self._require(sd is None or sd > 0, "latent_sd", "a positive number, or None")
        self._require(self.decay_start is None or self.decay_start >= 0, "decay_start", "an epoch, or None")
        self._require(0 <= self.momentum < 1, "momentum", "0 or more and below 1")
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "0 or more and below 1")
        self._require(0 < self.centre_rate <= 1, "centre_rate", "above 0 and at most 1")
        self._require(self.norm_power >= 1, "norm_power", "1 or more: below, the gradient at 0 is infinite")
        if self.label_smoothing:
            plain = self.objective == "decoder_cross_entropy" and self.samples == 1
            expected = "0, except for the objective 'decoder_cross_entropy' with one sample per image"
            self._require(plain, "label_smoothing", expected)
        self._check_late_gamma()
        if self.decay == "cosine":
            start = self.decay_start
            ends = start is not None and start < self.epochs
            expected = f"an epoch before the end, {self.epochs}, where TrainSpec.decay is 'cosine'"
            self._require(ends, "decay_start", expected)
        self._require(0 <= self.margin < math.pi / 2, "margin", "0 or more and below pi / 2")
        if self.objective in METRIC_LEARNING:
            self._require(self.samples == 1, "samples", f"1 where the objective is {self.objective!r}")
        if self.objective == "supervised_contrastive":
            reason = (
                "'none' where the objective is 'supervised_contrastive': it does not see the latent's "
                "length and cannot oppose a penalty ('contrastive_cross_entropy' can)"
            )
            self._require(self.penalty == "none", "penalty", reason)
        bound = self.penalty in ON_LATENT and self.penalty != "squared_norm"
        self._require(
            self.penalty_reduction == "sum" or not bound,
            "penalty_reduction",
            f"'sum' where the penalty is {self.penalty!r}",
        )

    def _check_late_gamma(self) -> None:
        factor, start = self.gamma_late_factor, self.gamma_late_from
        if (factor is None) != (start is None):
            raise ValueError(
                f"TrainSpec.gamma_late_factor is {factor!r} but TrainSpec.gamma_late_from is {start!r}: "
                "both or neither"
            )
        self._require(factor is None or factor >= 1, "gamma_late_factor", "1 or more, or None")
        self._require(start is None or start > 0, "gamma_late_from", "a positive number, or None")


@dataclass(frozen=True, kw_only=True)
class RunSpec(_Spec):
    """One training run; :func:`run_key` names it. Where it executes is not part of it.

    Attributes
    ----------
    architecture
        Name of the architecture in tables: a row of the variants.
    data
        Images, their split and their augmentation.
    model
        Backbone and head.
    train
        Objective, penalty, optimizer and their schedules.
    seed
        Seed of the weights, the order of images, augmentation, dropout and noise; at least 0.
    protocol
        Version of the results that the code produces, :data:`PROTOCOL`.
    """

    architecture: str
    data: DataSpec
    model: ModelSpec
    train: TrainSpec
    seed: int
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.seed >= 0, "seed", "0 or more")
        needs_layer = self.train.penalty == "weight_l1" and self.model.penultimate == "none"
        if needs_layer:
            raise ValueError("TrainSpec.penalty is 'weight_l1' but ModelSpec.penultimate is 'none'")
        direct = self.train.objective == "decoder_uncertainty"
        if direct != (self.model.decoder == "optimal"):
            raise ValueError(
                f"TrainSpec.objective is {self.train.objective!r}, ModelSpec.decoder {self.model.decoder!r}; "
                "'decoder_uncertainty' needs the decoder 'optimal', and that decoder this objective"
            )
        self._check_metric_learning()
        self._check_layer_and_noise()
        if self.train.optimizer == "adamw_turned" and self.model.penultimate != "linear":
            raise ValueError(
                f"ModelSpec.penultimate is {self.model.penultimate!r}; expected 'linear' where "
                "TrainSpec.optimizer is 'adamw_turned': only a linear layer's latent can be turned"
            )
        if self.model.encoder == "categorical":
            only_for = {"penalty": "none", "samples": 1, "metrics": "information", "label_smoothing": 0.0}
            for name, only in only_for.items():
                value = getattr(self.train, name)
                if value != only:
                    raise ValueError(
                        f"TrainSpec.{name} is {value!r}; expected {only!r} for a categorical latent"
                    )
        if self.model.rescaled != (self.train.latent_sd is not None):
            raise ValueError(
                f"TrainSpec.latent_sd is {self.train.latent_sd!r} but ModelSpec.rescaled is "
                f"{self.model.rescaled!r}: both or neither"
            )

    @property
    def alone(self) -> bool:
        """Whether the run must train alone: ``train.alone``, or a spectral norm.

        Its power iteration writes into buffers that a mapped network shares.
        """
        return self.train.alone or self.model.spectral_norm

    def _check_layer_and_noise(self) -> None:
        learnt, penalty = self.model.latent_noise == "learnt", self.train.penalty
        if penalty == "divergence" and not learnt:
            raise ValueError(
                f"ModelSpec.latent_noise is {self.model.latent_noise!r}; expected 'learnt' where "
                "TrainSpec.penalty is 'divergence'"
            )
        if learnt and self.train.metrics == "information":
            raise ValueError(
                "TrainSpec.metrics is 'information'; expected 'collapse' or 'geometry' where "
                "ModelSpec.latent_noise is 'learnt'"
            )
        if self.model.spectral_norm and (penalty == "weight_l1" or self.train.optimizer == "adamw_turned"):
            raise ValueError(
                "ModelSpec.spectral_norm is True; expected False where TrainSpec.penalty is 'weight_l1' or "
                "TrainSpec.optimizer is 'adamw_turned': both take the layer's own weights"
            )

    def _check_metric_learning(self) -> None:
        objective, model = self.train.objective, self.model
        if model.classifier == "cosine" and self.train.metrics == "information":
            raise ValueError(
                "TrainSpec.metrics is 'information'; expected 'collapse' or 'geometry' where "
                "ModelSpec.classifier is 'cosine'"
            )
        if objective not in METRIC_LEARNING:
            return
        expected: dict[str, Any] = {"encoder": "continuous"}
        if objective != "contrastive_cross_entropy":  # the loss takes the latent itself, not the logits
            expected["dropout"] = 0.0
        if objective in ("arcface", "cosface"):
            expected["classifier"] = "cosine"
        for name, only in expected.items():
            value = getattr(model, name)
            if value != only:
                raise ValueError(
                    f"ModelSpec.{name} is {value!r}; expected {only!r} where TrainSpec.objective is "
                    f"{objective!r}"
                )


_LATER = {
    "data": ("permutation_seed", "first_classes"),
    "model": (
        *("latent_noise", "encoder", "decoder", "decoder_width", "rescaled"),
        *("classifier", "classifier_scale", "spectral_norm", "logit_temperature"),
    ),
    "train": (
        *("plateau_factor", "plateau_patience", "metrics", "objective", "samples"),
        *("latent_sd", "latent_sd_factor"),
        *("temperature", "margin", "decay", "gamma_every", "gamma_late_factor", "gamma_late_from"),
        *("optimizer", "momentum", "label_smoothing", "centre_rate", "norm_power"),
    ),
}
"""Fields added after the first version of protocol 2: at their defaults they stay out of the key."""


_DEFAULTS = {
    part: {item.name: item.default for item in fields(kind)}
    for part, kind in (("data", DataSpec), ("model", ModelSpec), ("train", TrainSpec))
}


def canonical_json(spec: RunSpec) -> str:
    """Return the spec as JSON with sorted keys and no spaces: equal specs, equal text.

    Fields that were added later appear in it only if they are not at their defaults, so that a new choice
    does not rename earlier runs.

    Parameters
    ----------
    spec
        Spec of a run.
    """
    return _canonical(asdict(spec))


def _canonical(values: Mapping[str, Any]) -> str:
    shown = dict(values)
    for part, names in _LATER.items():
        kept = {name: value for name, value in values[part].items() if name not in names}
        later = {name: values[part][name] for name in names if name in values[part]}
        shown[part] = kept | {name: value for name, value in later.items() if value != _DEFAULTS[part][name]}
    return json.dumps(shown, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_key(spec: RunSpec) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of the spec's canonical JSON.

    Parameters
    ----------
    spec
        Spec of a run.
    """
    return _key(spec)


@lru_cache(maxsize=20_000)  # of immutable specs, whose keys tables and claims ask for again and again
def _key(spec: RunSpec) -> str:
    return hashlib.sha256(canonical_json(spec).encode()).hexdigest()


def key_of(values: Mapping[str, Any]) -> str:
    """Return :func:`run_key` of the spec with these fields, without checking or building it.

    Parameters
    ----------
    values
        Fields of a spec by name, nested specs as dictionaries.

    Raises
    ------
    ValueError
        If the fields do not make a spec.
    """
    try:
        return hashlib.sha256(_canonical(values).encode()).hexdigest()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a run spec of this version: {error!r}") from error


def spec_from_dict(values: Mapping[str, Any]) -> RunSpec:
    """Rebuild a spec from ``asdict`` or from its JSON; an unknown or missing field is a ValueError.

    Parameters
    ----------
    values
        Fields of a spec by name, nested specs as dictionaries.
    """
    nested = {"data": DataSpec, "model": ModelSpec, "train": TrainSpec}
    try:
        parts = {name: part(**values[name]) for name, part in nested.items()}
        return RunSpec(**{**values, **parts})
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a run spec of this version: {error}") from error
