"""Measures of information of a run: cross-entropies, the quantities of X, Y and Z, and their estimates."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from lpc.computing.sampling import ZERO_ENTROPY_SD
from lpc.data import ImageSet, Splits
from lpc.evaluation import collapse
from lpc.evaluation.information import conditional_knn_entropy, knn_entropy
from lpc.evaluation.quantities import Quantities, categorical_quantities, gaussian_quantities
from lpc.heads import BottleneckHead, CategoricalHead, Classifier
from lpc.latents import Latents, collect
from lpc.losses import conditional_log_variance, log_variance
from lpc.objectives import decoder_cross_entropy, prediction_cross_entropy
from lpc.runs.measurements import Measured, accuracy, neighbours

NOISE_SAMPLES = 12
"""Samples of noise per image over which predictions are averaged, as in Kirsch et al. 2020, Section 7.2."""
DRAWN_POINTS = 4096
"""Points at which noisy latents are drawn for the quantities; the mixture has all points of the set."""


def information_metrics(model: Classifier, splits: Splits) -> Measured:
    """Measure the contents of Figures 1 and 3 to 6 of Kirsch et al. on the train set, in nats.

    Parameters
    ----------
    model
        Classifier in evaluation mode, on the device of the images.
    splits
        Images to measure on: the train set for everything, the test set for the accuracy.

    Notes
    -----
    Every run is measured with the same noise. Where the latent has neither noise nor categories, I[X; Z] is
    infinite, and only its k-NN entropies and bounds are reported, which describe its density.
    """
    train, test = collect(model, splits.train), collect(model, splits.test)
    measured = Measured()
    if isinstance(model.head, CategoricalHead):
        _categorical(measured, model.head, train, test)
    else:
        _continuous(measured, model.head, train, test, images=splits.train)
    return measured


@torch.no_grad()
def _categorical(measured: Measured, head: CategoricalHead, train: Latents, test: Latents) -> None:
    add, weight, log_decoder = measured.add, train.latent.double(), head.log_decoder().double()[None]
    add(["accuracy"], lambda: accuracy(train.logits, train.label))
    add(["test_accuracy"], lambda: accuracy(test.logits, test.label))
    _cross_entropies(measured, weight, log_decoder, train.label)
    add(["stochastic_error"], lambda: _stochastic_error(weight, log_decoder, train.label))
    add(Quantities._fields, lambda: tuple(categorical_quantities(weight, train.label)))


def _cross_entropies(measured: Measured, weight: Tensor, log_decoder: Tensor, label: Tensor) -> None:
    measured.add(
        ["decoder_cross_entropy", "prediction_cross_entropy"],
        lambda: (
            float(decoder_cross_entropy(weight, log_decoder, label)),
            float(prediction_cross_entropy(weight, log_decoder, label)),
        ),
    )


def _stochastic_error(
    weight: Float64[Tensor, "points latents"],
    log_decoder: Float64[Tensor, "#points latents classes"],
    label: Tensor,
) -> float:
    """Return the probability that a class drawn from p(y | x) is wrong (Observation 3)."""
    probability = (weight[:, :, None] * log_decoder.exp()).sum(dim=1)
    return 1 - float(probability.gather(1, label[:, None]).mean())


@torch.no_grad()
def _continuous(
    measured: Measured, head: BottleneckHead, train: Latents, test: Latents, *, images: ImageSet
) -> None:
    add, z, label = measured.add, train.latent.double(), train.label
    noisy = head.latent_noise != "none"
    add(["accuracy"], lambda: accuracy(train.logits, label))
    add(["test_accuracy"], lambda: accuracy(test.logits, test.label))
    add(["nearest_mean_accuracy"], lambda: collapse.nearest_mean_accuracy(z, label, z, label))
    add(["trace_within", "trace_between", "trace_ratio"], lambda: collapse.within_between_traces(z, label))
    add(["rms"], lambda: float(z.square().mean().sqrt()))
    if noisy:
        log_decoder = _sampled(head, train)
        weight = torch.full_like(log_decoder[:, :, 0], 1 / NOISE_SAMPLES)
        _cross_entropies(measured, weight, log_decoder, label)
        add(["stochastic_error"], lambda: _stochastic_error(weight, log_decoder, label))
        add(["noisy_accuracy"], lambda: accuracy(log_decoder.exp().mean(dim=1), label))
        add(["noisy_test_accuracy"], lambda: accuracy(_sampled(head, test).exp().mean(dim=1), test.label))
        found = gaussian_quantities(z, label, generator=_generator(z), points=min(DRAWN_POINTS, len(label)))
        add(Quantities._fields, lambda: tuple(found.quantities))
        add([f"{name}_error" for name in Quantities._fields], lambda: tuple(found.standard_error))
        z = z + ZERO_ENTROPY_SD * torch.randn(z.shape, generator=_generator(z), device=z.device)
    else:
        weight = torch.ones_like(z[:, :1])
        _cross_entropies(measured, weight, train.logits.double().log_softmax(dim=1)[:, None], label)
    k = neighbours(len(label), images.classes)
    add(["knn_entropy"], lambda: knn_entropy(z, k=k))
    add(["conditional_knn_entropy"], lambda: conditional_knn_entropy(z, label, k=k))
    add(["entropy_bound"], lambda: float(log_variance(z)))
    add(["conditional_entropy_bound"], lambda: float(conditional_log_variance(z, label)))


def _generator(like: Tensor) -> torch.Generator:
    return torch.Generator(like.device).manual_seed(0)


def _sampled(head: BottleneckHead, latents: Latents) -> Float64[Tensor, "points samples classes"]:
    """Return log p(y | z) at several samples of the noisy latent of every point."""
    weight, bias = head.classifier.weight.double(), head.classifier.bias.double()
    generator = _generator(weight)
    parts = []
    for _ in range(NOISE_SAMPLES):
        noise = ZERO_ENTROPY_SD * torch.randn(
            latents.latent.shape, generator=generator, device=weight.device, dtype=torch.float64
        )
        scores = (latents.latent.double() + noise) @ weight.T + bias
        parts.append(scores.log_softmax(dim=1))
    return torch.stack(parts, dim=1)
