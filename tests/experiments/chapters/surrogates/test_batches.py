import math

import numpy as np
import pytest
import torch
from torch import nn

from experiments.chapters.surrogates.batches import in_a_batch, pull, terms, too_low
from lpc.computing.sampling import ZERO_ENTROPY_SD
from lpc.latents import Latents
from lpc.losses import batch_conditional_log_variance


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def latents(scale, *, total=1000, width=5):
    latent = scale * torch.randn(total, width, generator=source(1))
    return Latents(latent, torch.zeros(total, 2), torch.arange(total) % 2)


def decoder(scale, width=5):
    layer = nn.Linear(width, 2, bias=False)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[0, 0] = scale
    return layer


def chi(width):
    """Mean length of a standard normal vector."""
    return math.sqrt(2) * math.exp(math.lgamma((width + 1) / 2) - math.lgamma(width / 2))


@pytest.mark.parametrize("scale", [0.05, 1.0, 10.0])
def test_pulls_of_gaussian_latents_are_in_closed_form(scale):
    sd = math.hypot(scale, ZERO_ENTROPY_SD)
    every = terms(decoder(0.0), classes=2)
    found = {name: pull(term, latents(scale), batch=500, generator=source()) for name, term in every.items()}
    assert found["E‖Z‖²"] == pytest.approx(2 * sd * chi(5), rel=0.05)
    assert found["log Var[Z]"] == pytest.approx(chi(5) / sd, rel=0.05)
    assert found["log Var[Z|Y]"] == pytest.approx(chi(5) / sd, rel=0.05)
    assert found["cross-entropy"] == 0
    stronger = found["E‖Z‖²"] > found["log Var[Z]"]
    assert stronger == (sd**2 > 0.5)  # equal where a node has variance one half


def test_pull_of_the_cross_entropy_is_the_classifiers_weight_times_what_is_wrong():
    one = latents(1e-6)  # logits of noise alone, nearly equal: half of the probability is wrong
    found = pull(terms(decoder(0.01), classes=2)["cross-entropy"], one, batch=1000, generator=source())
    assert found == pytest.approx(0.5 * 0.01, rel=0.01)


def test_pull_does_not_depend_on_the_batch_and_leaves_the_rest_out():
    one, term = latents(1.0), terms(decoder(0.0), classes=2)["E‖Z‖²"]
    alike = [pull(term, one, batch=batch, generator=source()) for batch in (100, 500)]
    assert alike[0] == pytest.approx(alike[1], rel=0.03)
    far = Latents(one.latent.clone(), one.logits, one.label)
    far.latent[900:] = 1e6
    assert pull(term, far, batch=300, generator=source()) == pytest.approx(alike[0], rel=0.1)
    for batch in (1, 1001):
        with pytest.raises(ValueError, match=f"batch is {batch} of 1000 images"):
            pull(term, one, batch=batch, generator=source())


@pytest.mark.parametrize("images", [2, 4, 13])
def test_log_of_a_sample_variance_is_too_low_by_its_closed_form(images):
    draw = torch.randn(200_000, images, generator=source(), dtype=torch.float64)
    bound = 0.5 * draw.var(dim=1).log()
    assert -float(bound.mean()) == pytest.approx(too_low(np.array([images]))[0], abs=0.01)


def test_a_variance_needs_two_images():
    with pytest.raises(ValueError, match="a variance of 1 images"):
        too_low(np.array([3, 1]))


def test_numbers_of_classes_in_a_batch_are_those_of_random_batches():
    label = torch.tensor([0] * 30 + [1] * 50 + [2] * 20)
    found = in_a_batch(label, batch=8, width=4)
    alone, few, low = [], [], []
    generator = source(3)
    for _ in range(3000):
        own = label[torch.randperm(100, generator=generator)[:8]]
        count = own.bincount(minlength=3)
        alone.append(int((count == 1).sum()))
        few.append(int(((count == 2) | (count == 3)).sum()))
        z = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        penalty = batch_conditional_log_variance(z, own, classes=3)
        shared = int(count[count > 1].sum())
        low.append((shared, 0.5 * 4 * math.log(2 * math.pi * math.e) - float(penalty)))
    assert found["alone"] == pytest.approx(np.mean(alone), abs=0.05)
    assert found["few"] == pytest.approx(np.mean(few), abs=0.06)
    weight, off = np.array(low).T
    assert found["conditional"] == pytest.approx(float(weight @ off / weight.sum()), abs=0.08)
    assert found["whole"] == pytest.approx(4 * too_low(np.array([8]))[0])


def test_batches_must_fit():
    for batch in (1, 11):
        with pytest.raises(ValueError, match=f"batch is {batch} of 10 images"):
            in_a_batch(torch.zeros(10, dtype=torch.int64), batch=batch, width=2)
