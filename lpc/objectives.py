"""Objectives: the main term of a batch's loss and its weighted penalties.

They are computed outside autocast, with half-precision arguments in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lpc.centres import centre_distance
from lpc.computing.numerics import full_precision
from lpc.computing.options import whole
from lpc.heads import CategoricalOutput, HeadOutput, VariationalOutput
from lpc.inputs.batches import check_latent, checked_label
from lpc.losses import (
    batch_conditional_log_variance,
    log_variance,
    norm_power,
    normal_divergence,
    squared_norm,
)
from lpc.metric_learning import arcface, cosface, library, supervised_contrastive
from lpc.specs import METRIC_LEARNING, ModelSpec, TrainSpec


@full_precision
def decoder_cross_entropy(
    weight: Float[Tensor, "batch latents"],
    log_decoder: Float[Tensor, "#batch latents classes"],
    label: Integer[Tensor, " batch"],
    *,
    check: bool | None = None,
) -> Float[Tensor, ""]:
    r"""Return the decoder cross-entropy in nats: the surprise of the label, averaged over latents.

    Parameters
    ----------
    weight
        Probability of each of a point's latents, shape (batch, latents): p(z | x) for categories, 1 / samples
        for samples.
    log_decoder
        Logarithm of the decoder's class probabilities at these latents; the first size is 1 where they are
        the same for all points (categories).
    label
        Class of each point.
    check
        Whether the labels' values are checked. None: only where they are in the host's memory; True: also on
        a GPU, which the program then has to wait for.

    Raises
    ------
    ValueError
        If the shapes do not match, an array does not hold floats, or the labels are not one class per point.

    Notes
    -----
    :math:`H_\Theta[Y|Z] = \mathbb E_{\hat p(x,y)}\,\mathbb E_{p(z|x)}\,[-\ln p_\Theta(\hat Y = y|z)]`.

    References
    ----------
    Kirsch et al. 2020, Section 5.
    """
    label = _checked(weight, log_decoder, label, check)
    return -(weight * _of_label(log_decoder, label)).sum(dim=1).mean()


@full_precision
def prediction_cross_entropy(
    weight: Float[Tensor, "batch latents"],
    log_decoder: Float[Tensor, "#batch latents classes"],
    label: Integer[Tensor, " batch"],
    *,
    check: bool | None = None,
) -> Float[Tensor, ""]:
    r"""Return the prediction cross-entropy in nats: the surprise of the label under the mean prediction.

    Parameters
    ----------
    weight, log_decoder, label, check
        The arguments of :func:`decoder_cross_entropy`.

    Raises
    ------
    ValueError
        As in :func:`decoder_cross_entropy`.

    Notes
    -----
    :math:`H_\Theta[Y|X] = \mathbb E_{\hat p(x,y)}\,[-\ln \mathbb E_{p(z|x)}\,p_\Theta(\hat Y = y|z)]`, never
    above the decoder cross-entropy (Eq. 4). With few samples of a continuous latent its mean is above the
    value for infinitely many.

    References
    ----------
    Kirsch et al. 2020, Section 5.
    """
    label = _checked(weight, log_decoder, label, check)
    log_weight = weight.clamp(min=torch.finfo(weight.dtype).tiny).log()
    return -torch.logsumexp(log_weight + _of_label(log_decoder, label), dim=1).mean()


@full_precision
def decoder_uncertainty_loss(
    weight: Float[Tensor, "batch categories"],
    label: Integer[Tensor, " batch"],
    *,
    classes: int,
    check: bool | None = None,
) -> Float[Tensor, ""]:
    r"""Return H[Y | Z] of a batch in nats, with the gradient of the paper's Appendix A.3.

    Parameters
    ----------
    weight
        p(z | x), shape (batch, categories).
    label
        Class of each point.
    classes
        Number of classes.
    check
        Whether the labels' values are checked, as in :func:`decoder_cross_entropy`.

    Raises
    ------
    ValueError
        As in :func:`decoder_cross_entropy`, or if ``classes`` is below 1.

    Notes
    -----
    The value is :math:`\mathbb E_{p(x,z)}\,h(p(y|z))` with the batch's own
    :math:`p(y|z) = \sum_x \hat p(x,y)\,p(z|x) / \sum_x \hat p(x)\,p(z|x)`. No gradient is taken through
    :math:`h(p(y|z))`: A.3 shows that its mean is zero. On a small batch the value lies below that of the
    whole set, as each category has few points.

    References
    ----------
    Kirsch et al. 2020, Section 5.4 and Appendix A.3.
    """
    check_latent(weight, name="weight", form="(batch, categories)")
    label = checked_label(label, weight, classes=whole("classes", classes), check=check)
    member = (label[:, None] == torch.arange(classes, device=label.device)).to(weight.dtype)
    with torch.no_grad():
        decoder = optimal_decoder(weight.T @ member)
        log_decoder = decoder.clamp(min=torch.finfo(decoder.dtype).tiny).log()
    return decoder_cross_entropy(weight, log_decoder[None], label, check=False)


@full_precision
def optimal_decoder(joint: Float[Tensor, "categories classes"]) -> Float[Tensor, "categories classes"]:
    """Return p(y | z) of a joint distribution of a category and a class, up to a factor.

    A category without weight has no p(y | z): it gets equal probabilities, and never occurs.

    Parameters
    ----------
    joint
        p(z, y) up to a positive factor, shape (categories, classes).

    Raises
    ------
    ValueError
        If ``joint`` is not a (categories, classes) array of floats.
    """
    check_latent(joint, name="joint", form="(categories, classes)")
    total = joint.sum(dim=1, keepdim=True)
    classes = joint.shape[1]
    return torch.where(total > 0, joint / torch.where(total > 0, total, 1.0), 1 / classes)


def _checked(weight: Tensor, log_decoder: Tensor, label: Tensor, check: bool | None) -> Tensor:
    check_latent(weight, name="weight", form="(batch, latents)")
    check_latent(log_decoder, name="log_decoder", form="(batch, latents, classes)")
    points, latents = weight.shape
    if log_decoder.shape[0] not in (1, points) or log_decoder.shape[1] != latents:
        raise ValueError(
            f"log_decoder has shape {tuple(log_decoder.shape)} for a weight of shape {tuple(weight.shape)}; "
            f"expected (1 or {points}, {latents}, classes)"
        )
    return checked_label(label, weight, classes=log_decoder.shape[2], check=check)


def _of_label(
    log_decoder: Float[Tensor, "#batch latents classes"], label: Integer[Tensor, " batch"]
) -> Float[Tensor, "batch latents"]:
    table = log_decoder.expand(label.shape[0], -1, -1)
    return table.gather(2, label[:, None, None].expand(-1, table.shape[1], 1))[:, :, 0]


Output = HeadOutput | VariationalOutput | CategoricalOutput
"""Outputs of heads."""
Loss = Callable[..., tuple[Tensor, Tensor]]
"""(output, label, gamma=, l1=, weight=, classifier=, centres=) -> (main term, weighted penalties)."""


def objective(train: TrainSpec, model: ModelSpec, *, classes: int) -> Loss:
    r"""Return the function that gives the two parts of a batch's loss: main term in nats, and penalties.

    Parameters
    ----------
    train
        Objective, number of samples and penalty of the run.
    model
        Encoder and head of the run.
    classes
        Number of classes.

    Returns
    -------
    callable
        Function of a classifier's output (``samples`` latents and logits per point, ordered sample by
        sample), the labels, ``gamma`` (the weight of the latent's penalty), ``l1`` and ``weight``
        (coefficient and weights of the L1 penalty, or None), ``classifier`` (the last layer, needed only by
        objectives of metric learning) and ``centres`` (one per class, for the penalty ``centre``).

    Raises
    ------
    ImportError
        If an objective of metric learning is asked for and its library is not installed.

    Notes
    -----
    :math:`\gamma \frac1N\sum_n \lVert z_n\rVert^2 + \lambda \sum_{ij} |w_{ij}|` or, instead of the mean
    squared norm, the Gaussian bound of H[Z] or H[Z | Y], or another penalty of ``TrainSpec.penalty``.

    ``supervised_contrastive``: the contrastive loss of the latents, and the cross-entropy of a classifier
    that sees them as constants, so that its gradient does not reach the layers before (the second stage of
    Khosla et al. 2020, Section 3, together with the first; without their projection head, and with one view
    per image). ``contrastive_cross_entropy``: the sum of the two, nothing constant. ``arcface`` and
    ``cosface``: these losses, with the last layer's weights and ``ModelSpec.classifier_scale``. They do not
    see the latent's length: the only thing that opposes a squared norm is that the same step turns a shorter
    latent further.

    References
    ----------
    LPC 2024, Eq. 3 and Appendix C; Kirsch et al. 2020, Sections 5 and 6.3; :mod:`lpc.metric_learning`.
    """
    categorical = model.encoder == "categorical"
    if train.objective in METRIC_LEARNING:
        library()  # fails before training begins

    def metric_learning(output: Output, label: Tensor, layer: nn.Module) -> Tensor:
        latent = output.latent
        if train.objective in ("arcface", "cosface"):
            loss = arcface if train.objective == "arcface" else cosface
            weight = layer.get_parameter("weight")
            scale = model.classifier_scale
            return loss(latent, label, weight, margin=train.margin, scale=scale, check=False)
        contrast = supervised_contrastive(latent, label, temperature=train.temperature)
        probed = train.objective == "supervised_contrastive"
        return contrast + cross_entropy(layer(latent.detach()) if probed else output.logits, label)

    def main(output: Output, label: Tensor) -> Tensor:
        if train.objective == "decoder_uncertainty":
            return decoder_uncertainty_loss(output.latent, label, classes=classes, check=False)
        if not categorical and train.samples == 1:  # one sample: the two cross-entropies are the same
            return cross_entropy(output.logits, label, label_smoothing=train.label_smoothing)
        if isinstance(output, CategoricalOutput):
            weight, log_decoder = output.latent, output.decoder[None]
        else:
            scores = output.logits.reshape(train.samples, label.shape[0], classes)
            log_decoder = scores.log_softmax(dim=2).transpose(0, 1)
            weight = torch.full_like(log_decoder[:, :, 0], 1 / train.samples)
        if train.objective == "prediction_cross_entropy":
            return prediction_cross_entropy(weight, log_decoder, label, check=False)
        return decoder_cross_entropy(weight, log_decoder, label, check=False)

    def of_latent(output: Output, label: Tensor, centres: Tensor | None) -> Tensor:
        latent = output.latent
        if train.penalty == "norm_power":
            return norm_power(latent, power=train.norm_power)
        if train.penalty == "logit_norm":
            return squared_norm(output.logits, reduction="sum")
        if train.penalty == "divergence":
            if not isinstance(output, VariationalOutput):
                raise ValueError(
                    "the output has no mean and sd; the penalty 'divergence' needs noise of learnt variance"
                )
            return normal_divergence(output.mean, output.sd)
        if train.penalty == "centre":
            if centres is None:
                raise ValueError("centres is None; the penalty 'centre' needs one per class")
            return centre_distance(latent, label.repeat(train.samples), centres, check=False)
        if train.penalty == "log_variance":
            return log_variance(latent, check=False)
        if train.penalty == "conditional_log_variance":
            repeated = label.repeat(train.samples)
            return batch_conditional_log_variance(latent, repeated, classes=classes, check=False)
        return squared_norm(latent, reduction="sum")

    @full_precision
    def loss(
        output: Output,
        label: Integer[Tensor, " batch"],
        *,
        gamma: Float[Tensor, ""] | float,
        l1: Float[Tensor, ""] | float = 0.0,
        weight: Float[Tensor, "nodes feature"] | None = None,
        classifier: nn.Module | None = None,
        centres: Float[Tensor, "classes width"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        if categorical:
            return main(output, label), output.latent.new_zeros(())
        penalty = gamma * of_latent(output, label, centres)
        if weight is not None:
            penalty = penalty + l1 * weight.abs().sum()
        if train.objective not in METRIC_LEARNING:
            return main(output, label), penalty
        if classifier is None:
            raise ValueError(f"classifier is None; the objective {train.objective!r} needs the last layer")
        return metric_learning(output, label, classifier), penalty

    return loss
