"""Bottleneck heads: features -> HeadOutput(latent, logits), and Classifier = backbone + head."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear, normalize, softplus
from torch.nn.utils.parametrizations import spectral_norm as spectrally_normalised

from lpc.computing.options import choice, flag, number, whole
from lpc.computing.sampling import ZERO_ENTROPY_SD, repeated
from lpc.errors import unknown_name
from lpc.inputs.features import check_features
from lpc.specs import Decoder, DropoutSite, LastLayer, LatentNoise, Penultimate

_LEARNT = "noise of a learnt variance"
_SHIFT = 5.0


class HeadOutput(NamedTuple):
    """Output of a head: the penultimate representation and the class scores.

    Attributes
    ----------
    latent
        Penultimate representations, shape (batch, width); the backbone's features if there is no such layer.
    logits
        Class scores, shape (batch, classes).
    """

    latent: Float[Tensor, "batch width"]
    logits: Float[Tensor, "batch classes"]


class VariationalOutput(NamedTuple):
    """Output of a head with noise of learnt variance.

    Attributes
    ----------
    latent
        Penultimate representations: in training a draw from each image's Gaussian, in evaluation its mean.
    logits
        Class scores of these latents.
    mean
        Mean of each image's Gaussian, one row per image whatever the number of samples.
    sd
        Standard deviation at every node, in the same format.
    """

    latent: Float[Tensor, "rows width"]
    logits: Float[Tensor, "rows classes"]
    mean: Float[Tensor, "batch width"]
    sd: Float[Tensor, "batch width"]


class CategoricalOutput(NamedTuple):
    """Output of a categorical head: p(z | x), and the logarithms of p(y | x) and of p(y | z).

    Attributes
    ----------
    latent
        p(z | x), shape (images, categories).
    logits
        ln p(y | x), shape (images, classes).
    decoder
        ln p(y | z), shape (categories, classes).
    """

    latent: Float[Tensor, "batch categories"]
    logits: Float[Tensor, "batch classes"]
    decoder: Float[Tensor, "categories classes"]


class CosineClassifier(nn.Module):
    r"""A last layer that sees only directions: logits are a scale times cosines.

    Parameters
    ----------
    width
        Number of nodes of the latent.
    classes
        Number of classes.
    scale
        Scale s of the logits, above 0.

    Attributes
    ----------
    weight
        Weight vectors, one row per class, initialised as in ``torch.nn.Linear``; only their directions
        matter.
    bias
        Zeros that are not trained, for code that reads a classifier's bias.

    Notes
    -----
    :math:`s\cos(z, w_k) = s\,z^\top w_k / (\lVert z\rVert\,\lVert w_k\rVert)`. Norms below 1e-12 are taken as
    1e-12: a latent of zero has logits of zero, and a very large but finite gradient.

    References
    ----------
    Wang et al. 2018 (CosFace), Eq. 3; Deng et al. 2019 (ArcFace), Eq. 2 and the text before it.
    """

    bias: Tensor

    def __init__(self, width: int, classes: int, *, scale: float) -> None:
        super().__init__()
        width, classes = whole("width", width), whole("classes", classes, least=2)
        self.scale = number("the scale of a cosine classifier", scale, above=0)
        self.weight = nn.Parameter(torch.empty(classes, width))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, latent: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        return self.scale * linear(normalize(latent), normalize(self.weight))


def _wide(value: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return a value in at least float32: in float64 if it, or a weight, is float64."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    if weight is None:
        return value.to(dtype)
    if value.device != weight.device:
        raise ValueError(
            f"the features are on {value.device} and the head is on {weight.device}: "
            f"model.to({str(value.device)!r})"
        )
    return value.to(torch.promote_types(dtype, weight.dtype))


def _outside_autocast(kind: str) -> AbstractContextManager[Any]:
    available = torch.amp.is_autocast_available(kind)
    return torch.autocast(kind, enabled=False) if available else nullcontext()


def _applied(layer: nn.Module, value: Tensor) -> Tensor:
    """Return a layer's output; weights of another dtype are converted first."""
    state = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    if all(part.dtype == value.dtype for part in state.values()):
        return layer(value)
    return functional_call(layer, {name: part.to(value.dtype) for name, part in state.items()}, (value,))


def readout_weight(
    weight: Float[Tensor, "classes width"], classifier: LastLayer
) -> Float[Tensor, "classes width"]:
    """Return the weight of a linear map that, with the layer's bias, makes a last layer's decisions.

    Parameters
    ----------
    weight
        Weight of the last layer, shape (classes, width).
    classifier
        Kind of the last layer. For ``cosine`` the rows are normalised to length 1, so that the largest
        ``z @ w_k`` is the largest cosine.

    Raises
    ------
    ValueError
        If ``classifier`` is unknown.
    """
    choice("classifier", classifier, LastLayer)
    return normalize(weight) if classifier == "cosine" else weight


class BottleneckHead(nn.Module):
    """The last layers of a classifier: an optional penultimate layer, then a linear or cosine classifier.

    Parameters
    ----------
    feature_width
        Width of the incoming features.
    classes
        Number of classes.
    penultimate
        ``"linear"``: z = W_H h + b_H (the paper's IB layer); ``"nonlinear"``: SiLU of that;
        ``"none"``: z = h.
    latent_width
        Number of nodes of the penultimate layer; None: ``feature_width``.
    dropout
        Probability with which an element is set to zero in training.
    dropout_site
        Place of dropout: on the latent before the classifier, or on the logits. The latent that is returned
        and penalised is the one before dropout.
    latent_noise
        Noise added to the latent in training, none in evaluation; the latent that is returned and penalised
        is the noisy one. ``"zero_entropy"``: Gaussian of variance 1/(2 pi e). ``"learnt"``: Gaussian with sd
        softplus(a - 5), where a is another linear map of the features; the head then returns a
        :class:`VariationalOutput`. The 5 lets training begin at an sd of about 0.007.
    rescaled
        Whether two buffers shift and scale the latent node by node: z = (z - shift) * scale.
    classifier
        Kind of the last layer: ``"linear"``, or ``"cosine"`` for a :class:`CosineClassifier`.
    classifier_scale
        Scale of the cosine classifier's logits.
    spectral_norm
        Whether the penultimate layer's weights are divided by their largest singular value, estimated by one
        step of a power iteration per training step (``torch.nn.utils.parametrizations.spectral_norm``).
    logit_temperature
        Divisor of the logits, above 0.

    Notes
    -----
    The head runs in float32 even under autocast, and with weights in half precision (``.half()``,
    ``.bfloat16()``): collapsed latents have norms of 1e-4 and spreads far below, which bfloat16 cannot hold.
    Features or weights in float64 make it run in float64.

    References
    ----------
    LPC 2024, Section 2.1 and Table 3; Kirsch et al. 2020, Sections 6.1 and 7.2. The learnt variance: Alemi et
    al. 2017, Section 4.1; the spectral norm: Miyato et al. 2018, Section 2.1; the temperature: Hinton et al.
    2015, Eq. 1.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        feature_width: int,
        classes: int,
        *,
        penultimate: Penultimate = "linear",
        latent_width: int | None = None,
        dropout: float = 0.0,
        dropout_site: DropoutSite = "latent",
        latent_noise: LatentNoise = "none",
        rescaled: bool = False,
        classifier: LastLayer = "linear",
        classifier_scale: float = 32.0,
        spectral_norm: bool = False,
        logit_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        names = {
            "classifier": (classifier, LastLayer),
            "penultimate layer": (penultimate, Penultimate),
            "dropout_site": (dropout_site, DropoutSite),
            "latent_noise": (latent_noise, LatentNoise),
        }
        for option, (value, known) in names.items():
            if value not in get_args(known):
                raise unknown_name(option, value, get_args(known))
        if penultimate == "none" and latent_width is not None:
            raise ValueError(f"latent_width is {latent_width} but there is no penultimate layer")
        feature_width, classes = whole("feature_width", feature_width), whole("classes", classes, least=2)
        width = feature_width if latent_width is None else whole("latent_width", latent_width)
        self.feature_width = feature_width
        self.latent_width = width
        self.dropout = number("dropout", dropout, least=0, below=1)
        self.dropout_site = dropout_site
        self.latent_noise = latent_noise
        self.rescaled = flag("rescaled", rescaled)
        if rescaled:
            self.register_buffer("shift", torch.zeros(width))
            self.register_buffer("scale", torch.ones(width))
        self.penultimate = None if penultimate == "none" else nn.Linear(feature_width, width)
        for which, given in (
            ("a spectral norm", flag("spectral_norm", spectral_norm)),
            (_LEARNT, self.learnt),
        ):
            if given and penultimate != "linear":
                raise ValueError(f"penultimate is {penultimate!r}; expected 'linear' for {which}")
        if self.learnt and rescaled:
            raise ValueError(f"rescaled is True; expected False for {_LEARNT}")
        self.logit_temperature = number("logit_temperature", logit_temperature, above=0)
        self.spread = nn.Linear(feature_width, width) if self.learnt else None
        if spectral_norm and self.penultimate is not None:
            spectrally_normalised(self.penultimate)
        self.activation = nn.SiLU() if penultimate == "nonlinear" else nn.Identity()
        self.classifier_kind: LastLayer = classifier
        self.classifier: nn.Linear | CosineClassifier = (
            nn.Linear(width, classes)
            if classifier == "linear"
            else CosineClassifier(width, classes, scale=classifier_scale)
        )

    def forward(
        self,
        features: Float[Tensor, "batch feature"],
        *,
        keep: Float[Tensor, "rows site"] | None = None,
        noise: Float[Tensor, "rows width"] | None = None,
    ) -> HeadOutput | VariationalOutput:
        """Return latent and logits and, with learnt variance, the Gaussian from which the latent is drawn.

        Parameters
        ----------
        features
            Features from the backbone, shape (batch, feature_width).
        keep
            Dropout mask drawn by the caller, already divided by the probability of keeping (runs trained
            together draw one each); None: torch draws it, in training only.
        noise
            Noise drawn by the caller and added to the latent; with learnt variance, standard normal noise
            that is first multiplied by the sd. With several samples per image it has that many times as many
            rows, and so have the outputs.
        """
        check_features(features, width=self.feature_width)
        with _outside_autocast(features.device.type):
            latent = values = _wide(features, self.classifier.weight)
            if self.penultimate is not None:
                latent = self.activation(_applied(self.penultimate, latent))
            if self.rescaled:
                latent = (latent - self.shift) * self.scale
            mean, sd = latent, None
            if self.spread is not None:
                sd = softplus(_applied(self.spread, values) - _SHIFT)
                if noise is None and self.training:
                    noise = torch.randn_like(latent)
                if noise is not None:
                    latent = repeated(latent, noise.shape[0]) + repeated(sd, noise.shape[0]) * noise
            elif noise is not None:
                latent = repeated(latent, noise.shape[0]) + noise
            elif self.latent_noise != "none" and self.training:
                latent = latent + ZERO_ENTROPY_SD * torch.randn_like(latent)
            if keep is not None:
                latent = repeated(latent, keep.shape[0])
            on_latent = self.dropout_site == "latent"
            logits = _applied(self.classifier, self._drop(latent, keep) if on_latent else latent)
            if self.logit_temperature != 1:
                logits = logits / self.logit_temperature
            logits = logits if on_latent else self._drop(logits, keep)
            return HeadOutput(latent, logits) if sd is None else VariationalOutput(latent, logits, mean, sd)

    @property
    def learnt(self) -> bool:
        """Whether the latent has noise of learnt variance."""
        return self.latent_noise == "learnt"

    def _drop(self, value: Tensor, keep: Tensor | None) -> Tensor:
        if keep is not None:
            return value * keep
        return nn.functional.dropout(value, self.dropout, self.training)


class CategoricalHead(nn.Module):
    """A latent that is one of several categories, and the class probabilities of each category.

    Parameters
    ----------
    feature_width
        Width of the incoming features.
    classes
        Number of classes.
    categories
        Number of categories of the latent, at least the number of classes.
    decoder
        Map from the category to class scores. ``"linear"``: a table of logits; ``"network"``: a network with
        two hidden ReLU layers; ``"optimal"``: a table that is set after each epoch instead of trained.
    decoder_width
        Units in each hidden layer of the ``"network"`` decoder.

    Notes
    -----
    p(z | x) is the softmax of a linear layer, p(y | x) the sum of p(z | x) p(y | z) over the categories; the
    logits are its logarithm, with p clamped to the smallest float. The table of p(y | z) is computed once
    per batch, and everything in float32, also under autocast.

    References
    ----------
    Kirsch et al. 2020, Sections 5.4 and 7.1.
    """

    table: Tensor

    def __init__(
        self,
        feature_width: int,
        classes: int,
        *,
        categories: int,
        decoder: Decoder = "network",
        decoder_width: int = 1024,
    ) -> None:
        super().__init__()
        if decoder not in get_args(Decoder):
            raise unknown_name("decoder", decoder, get_args(Decoder))
        feature_width, classes = whole("feature_width", feature_width), whole("classes", classes)
        decoder_width = whole("decoder_width", decoder_width)
        if whole("categories", categories) < classes:
            raise ValueError(
                f"categories is {categories}; expected at least the number of classes, {classes}"
            )
        self.feature_width = feature_width
        self.latent_width = categories
        self.penultimate = nn.Linear(feature_width, categories)
        if decoder == "optimal":
            self.decoder = None
            self.register_buffer("table", torch.full((categories, classes), 1 / classes))
        elif decoder == "linear":
            self.decoder = nn.Linear(categories, classes)
        else:
            self.decoder = nn.Sequential(
                nn.Linear(categories, decoder_width),
                nn.ReLU(),
                nn.Linear(decoder_width, decoder_width),
                nn.ReLU(),
                nn.Linear(decoder_width, classes),
            )

    def log_decoder(self) -> Float[Tensor, "categories classes"]:
        """Return the logarithm of p(y | z), one row per category, with p clamped to the smallest float."""
        if self.decoder is None:
            table = _wide(self.table)
            return table.clamp(min=torch.finfo(table.dtype).tiny).log()
        weight = self.penultimate.weight
        each = _wide(torch.eye(self.latent_width, device=weight.device, dtype=weight.dtype))
        return _applied(self.decoder, each).log_softmax(dim=1)

    def forward(self, features: Float[Tensor, "batch feature"]) -> CategoricalOutput:
        """Return p(z | x), ln p(y | x) and ln p(y | z)."""
        check_features(features, width=self.feature_width)
        with _outside_autocast(features.device.type):
            values = _wide(features, self.penultimate.weight)
            latent = _applied(self.penultimate, values).softmax(dim=1)
            decoder = self.log_decoder().to(latent.dtype)
            prediction = latent @ decoder.exp()
            logits = prediction.clamp(min=torch.finfo(prediction.dtype).tiny).log()
            return CategoricalOutput(latent, logits, decoder)


class Classifier(nn.Module):
    """A backbone and a head: images -> HeadOutput(latent, logits).

    Parameters
    ----------
    backbone
        Module that maps images to features of shape (batch, feature_width).
    head
        Head for features of that width, a :class:`BottleneckHead` or :class:`CategoricalHead`.
    """

    def __init__(self, backbone: nn.Module, head: BottleneckHead | CategoricalHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(
        self,
        images: Float[Tensor, "batch channel row column"],
        *,
        keep: Float[Tensor, "rows site"] | None = None,
        noise: Float[Tensor, "rows width"] | None = None,
        mask: Float[Tensor, "rows nodes"] | None = None,
    ) -> HeadOutput | VariationalOutput | CategoricalOutput:
        """Return latent and logits of normalised images.

        Parameters
        ----------
        images
            Normalised images, shape (batch, channels, rows, columns).
        keep, noise
            Dropout mask and noise of the head, as in :meth:`BottleneckHead.forward`.
        mask
            Masks for the dropout inside the backbone, drawn by the caller; None: torch draws them.
        """
        features = self.backbone(images) if mask is None else self.backbone(images, mask=mask)
        check_features(features, width=self.head.feature_width, images=images if mask is None else None)
        drawn = {"keep": keep, "noise": noise}
        return self.head(features, **{name: value for name, value in drawn.items() if value is not None})
