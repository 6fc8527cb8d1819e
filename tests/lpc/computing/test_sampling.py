"""Samples of dropout and noise: how they are laid out, their moments, and the stream they come from."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import kstest

from lpc.classifiers import build_classifier
from lpc.computing.sampling import ZERO_ENTROPY_SD, dropout_masks, repeated
from lpc.data import load_images
from lpc.specs import DataSpec, ModelSpec, RunSpec, TrainSpec
from lpc.training.draws import Draws

DATA = DataSpec(name="digits", train_limit=150)
MODEL = ModelSpec(backbone="mlp", backbone_width=8, penultimate="linear", latent_width=6)
TRAIN = TrainSpec(epochs=1, batch_size=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def images():
    return load_images(DATA).train


def draws(images, *, seed=0, data=DATA, model=MODEL, **train):
    spec = RunSpec(
        architecture="any", data=data, model=model, train=dataclasses.replace(TRAIN, **train), seed=seed
    )
    built = build_classifier(model, channels=1, size=8, classes=10, seed=seed)
    return Draws(spec, images, model=built)


def test_a_batch_is_repeated_whole():
    value = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(repeated(value, 9), torch.cat([value, value, value]))
    assert repeated(value, 3) is value
    images = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert torch.equal(repeated(images, 4), torch.cat([images, images]))
    with pytest.raises(ValueError, match="7 rows of masks or noise for a batch of 3; expected a multiple"):
        repeated(value, 7)


def test_masks_keep_the_mean_and_have_each_sites_own_probability():
    sites = ((0.25, 30), (0.5, 20), (0.9, 10))
    masks = dropout_masks(4000, sites, torch.Generator().manual_seed(0))
    assert masks.shape == (4000, 60)
    for (zeroing, _), mask in zip(sites, masks.split([30, 20, 10], dim=1), strict=True):
        drawn = mask.numel()
        assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - zeroing)])
        variance = zeroing / (1 - zeroing)
        assert mask.mean().item() == pytest.approx(1, abs=5 * math.sqrt(variance / drawn))
        assert mask.var().item() == pytest.approx(variance, rel=0.05)
    together = torch.corrcoef(masks.T) - torch.eye(60)
    assert together.abs().max() < 6 / math.sqrt(4000)


def test_equal_generators_give_equal_masks_and_others_do_not():
    first, again, other = (
        dropout_masks(50, [(0.5, 4)], torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("zeroing", [0.0, 0.1, 0.3, 0.5])
def test_a_run_without_later_choices_draws_what_it_always_drew(images, zeroing):
    """Order, then for every 16 batches flips and crops, noise, and the mask of the head, to the bit."""
    data = dataclasses.replace(DATA, flip=True, crop_padding=1, noise=0.01)
    ours = draws(images, seed=7, data=data, model=dataclasses.replace(MODEL, dropout=zeroing))
    found = [*ours.epoch(), *ours.epoch()]
    generator = torch.Generator().manual_seed((7 * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**63)
    expected = []
    for _ in range(2):
        for some in torch.randperm(150, generator=generator).split(8 * 16):
            shown = images.augmented(some, ours.augment, generator)
            keep = torch.ones(len(some), 6)
            if zeroing:
                drawn = torch.rand((len(some), 6), generator=generator)
                keep = (drawn >= zeroing).float() / (1 - zeroing)
            parts = (shown, images.label[some], keep)
            expected += list(zip(*(part.split(8) for part in parts), strict=True))
    assert len(found) == len(expected) == 38
    for batch, (shown, label, keep) in zip(found, expected, strict=True):
        assert torch.equal(batch.images, shown) and torch.equal(batch.label, label)
        assert set(batch.drawn) == ({"keep"} if zeroing else set())
        assert batch.keep is None or torch.equal(batch.keep, keep)


@pytest.mark.parametrize("samples", [1, 3])
def test_every_sample_has_its_own_noise_and_masks(images, samples):
    model = dataclasses.replace(
        MODEL, backbone="dropout_cnn", backbone_width=2, latent_noise="zero_entropy", dropout=0.5
    )
    batches = list(draws(images, model=model, samples=samples).epoch())
    assert [len(batch.label) for batch in batches] == [8] * 18 + [6]
    for batch in batches:
        rows = samples * len(batch.label)
        shapes = {name: tuple(part.shape) for name, part in batch.drawn.items()}
        assert shapes == {"keep": (rows, 6), "noise": (rows, 6), "mask": (rows, 4 * 2 * 2 + 8)}
        for part in batch.drawn.values():
            first, *others = part.split(len(batch.label))
            assert not any(torch.equal(first, other) for other in others)
    noise = torch.cat([batch.noise for batch in batches if batch.noise is not None])
    assert len(noise) == samples * 150
    values, sd = noise.flatten().double().numpy(), 1 / math.sqrt(2 * math.pi * math.e)
    assert kstest(values, "norm", args=(0, sd)).pvalue > 1e-3
    assert kstest(values, "norm", args=(0, 1.4 * sd)).pvalue < 1e-3
    assert math.isclose(ZERO_ENTROPY_SD, sd, rel_tol=1e-12)
    zeros = torch.cat([batch.mask for batch in batches if batch.mask is not None]) == 0
    assert zeros[:, :16].float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert zeros[:, 16:].float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_runs_and_epochs_differ_in_all_that_is_drawn(images):
    model = dataclasses.replace(MODEL, latent_noise="zero_entropy", dropout=0.5)
    one = draws(images, model=model)
    first, second = next(one.epoch()), next(one.epoch())
    again, other = (next(draws(images, model=model, seed=seed).epoch()) for seed in (0, 1))
    for name, part in first.drawn.items():
        assert torch.equal(part, again.drawn[name])
        assert not torch.equal(part, other.drawn[name]) and not torch.equal(part, second.drawn[name])
    assert not torch.equal(first.images, other.images)


def test_several_samples_of_nothing_random_are_refused(images):
    with pytest.raises(ValueError, match=r"TrainSpec\.samples is 3; expected 1 where neither"):
        draws(images, samples=3)
