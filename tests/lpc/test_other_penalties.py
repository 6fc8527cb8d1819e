"""Powers of norms, logits, learnt variances, spectral norms and temperatures: oracles, and in runs."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import softplus

from lpc.data import load_images
from lpc.heads import BottleneckHead, HeadOutput, VariationalOutput
from lpc.losses import norm_power, normal_divergence, squared_norm
from lpc.objectives import objective
from lpc.specs import DataSpec, ModelSpec, TrainSpec, Variant, canonical_json, run_key, variant_spec
from lpc.training.build import load_member
from lpc.training.cohorts import Cohort
from lpc.training.solo import Solo

DATA = DataSpec(name="digits", train_limit=96)
LAYER: dict[str, Any] = {"penultimate": "linear", "width": "intermediate"}
TABLE = {
    "LinPen": Variant(**LAYER),
    "Norm1": Variant(**LAYER, penalty="norm_power", norm_power=1.0, gamma=0.1),
    "Norm3": Variant(**LAYER, penalty="norm_power", norm_power=3.0, gamma=0.1),
    "Squeezed": Variant(**LAYER, penalty="logit_norm", gamma=0.01),
    "VIB": Variant(**LAYER, penalty="divergence", latent_noise="learnt", gamma=0.01),
    "Spectral": Variant(**LAYER, spectral_norm=True),
    "Temperature": Variant(**LAYER, logit_temperature=8.0),
}


def make(architecture, seed=0, **train):
    return variant_spec(
        architecture,
        data=DATA,
        backbone="mlp",
        backbone_width=12,
        train=TrainSpec(epochs=3, batch_size=32, learning_rate=5e-3, **train),
        seed=seed,
        variants=TABLE,
    )


@pytest.fixture
def latent():
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


def test_powers_of_the_norm(latent):
    for power in (1.0, 1.5, 3.0):
        expected = np.mean(np.linalg.norm(latent.double().numpy(), axis=1) ** power)
        assert float(norm_power(latent, power=power)) == pytest.approx(expected, rel=1e-6)
    assert float(norm_power(latent, power=2)) == pytest.approx(float(squared_norm(latent, reduction="sum")))
    zero = torch.zeros(2, 3, requires_grad=True)
    norm_power(zero, power=1).backward()
    assert zero.grad is not None and not zero.grad.any()
    with pytest.raises(ValueError, match=r"power is 0\.5"):
        norm_power(latent, power=0.5)


@pytest.mark.usefixtures("unhooked")
def test_the_divergence_is_torchs(latent):
    sd = latent.flip(0).abs() + 0.1
    expected = kl_divergence(Normal(latent, sd), Normal(0.0, 1.0)).sum(dim=1).mean()
    assert float(normal_divergence(latent, sd)) == pytest.approx(float(expected), rel=1e-5)
    assert float(normal_divergence(torch.zeros(2, 3), torch.ones(2, 3))) == 0
    with pytest.raises(ValueError, match=r"mean has shape \(7, 3\) and sd \(7, 2\)"):
        normal_divergence(latent, sd[:, :2])


def test_each_penalty_in_the_loss(latent):
    logits, label = latent @ torch.randn(3, 4), torch.tensor([0, 1, 1, 3, 3, 3, 0])
    sd = latent.abs() + 0.1
    cases = {
        "Norm3": (HeadOutput(latent, logits), latent.norm(dim=1).pow(3).mean()),
        "Squeezed": (HeadOutput(latent, logits), logits.square().sum(dim=1).mean()),
        "VIB": (VariationalOutput(latent, logits, latent, sd), normal_divergence(latent, sd)),
    }
    for name, (output, expected) in cases.items():
        spec = make(name)
        main, penalty = objective(spec.train, spec.model, classes=4)(output, label, gamma=0.5)
        assert float(penalty) == pytest.approx(0.5 * float(expected), rel=1e-5), name
        assert float(main) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, label)), rel=1e-5)
    spec = make("VIB")
    with pytest.raises(ValueError, match="no mean and sd"):
        objective(spec.train, spec.model, classes=4)(HeadOutput(latent, logits), label, gamma=0.5)


def test_a_head_with_a_learnt_variance():
    torch.manual_seed(0)
    head, features = BottleneckHead(5, 4, latent_width=3, latent_noise="learnt"), torch.randn(6, 5)
    noise = torch.randn(12, 3)
    found = head(features, noise=noise)
    assert head.spread is not None and head.penultimate is not None
    mean, sd = head.penultimate(features), softplus(head.spread(features) - 5)
    torch.testing.assert_close(found.latent, mean.repeat(2, 1) + sd.repeat(2, 1) * noise)
    torch.testing.assert_close(found[2:], (mean, sd))
    many = torch.stack([head(features).latent for _ in range(4000)])  # torch draws, in training
    torch.testing.assert_close(many.std(dim=0), sd, rtol=0.1, atol=0)
    assert torch.equal(head.eval()(features).latent, head(features).mean)


def test_a_spectral_norm_holds_the_largest_singular_value_at_one():
    torch.manual_seed(0)
    heads = {kind: BottleneckHead(20, 4, latent_width=6, spectral_norm=kind) for kind in (True, False)}
    largest = {}
    for kind, head in heads.items():
        layer = head.penultimate
        assert layer is not None
        with torch.no_grad():
            for _ in range(50):
                head(torch.randn(8, 20))
            head.eval()
            largest[kind] = float(torch.linalg.matrix_norm(layer.weight, ord=2))
    assert largest[True] == pytest.approx(1, rel=1e-3)
    assert not 0.9 < largest[False] < 1.1, "the control: this layer's own is another"
    double = copy.deepcopy(heads[True]).double()
    assert double(torch.randn(2, 20).double()).latent.dtype == torch.float64


def test_a_temperature_divides_the_logits():
    heads = []
    for temperature in (1.0, 8.0):
        torch.manual_seed(0)
        heads.append(BottleneckHead(5, 4, latent_width=3, logit_temperature=temperature))
    features = torch.randn(6, 5)
    plain, divided = (head(features) for head in heads)
    assert torch.equal(plain.latent, divided.latent)
    torch.testing.assert_close(plain.logits, 8 * divided.logits)


def test_fields_at_their_defaults_stay_out_of_the_key():
    plain = canonical_json(make("LinPen"))
    for name in ("norm_power", "spectral_norm", "logit_temperature"):
        assert f'"{name}"' not in plain
    assert len({run_key(make(name)) for name in TABLE}) == len(TABLE)
    assert run_key(make("Norm1")) != run_key(make("Norm3"))


@pytest.mark.usefixtures("unhooked")
def test_bad_specs_are_named():
    linear: dict[str, Any] = {"backbone": "mlp", "backbone_width": 4, "penultimate": "linear"}
    for wrong, words in (
        ({**linear, "logit_temperature": 0.0}, r"logit_temperature is 0\.0; expected a positive"),
        (
            {**linear, "penultimate": "none", "spectral_norm": True},
            "penultimate is 'none'; expected 'linear'",
        ),
        ({**linear, "penultimate": "nonlinear", "latent_noise": "learnt"}, "'linear' for noise of learnt"),
        ({**linear, "latent_noise": "learnt", "rescaled": True}, "rescaled is True; expected False"),
    ):
        with pytest.raises(ValueError, match=words):
            ModelSpec(**wrong)
    with pytest.raises(ValueError, match=r"norm_power is 0\.5; expected 1 or more"):
        TrainSpec(epochs=1, learning_rate=1.0, norm_power=0.5)
    vib, spectral = make("VIB"), make("Spectral")
    with pytest.raises(ValueError, match="latent_noise is 'none'; expected 'learnt'"):
        dataclasses.replace(vib, model=dataclasses.replace(vib.model, latent_noise="none"))
    with pytest.raises(ValueError, match=r"metrics is 'information'; expected"):
        dataclasses.replace(vib, train=dataclasses.replace(vib.train, metrics="information"))
    with pytest.raises(ValueError, match="spectral_norm is True; expected False"):
        dataclasses.replace(spectral, train=dataclasses.replace(spectral.train, optimizer="adamw_turned"))
    with pytest.raises(ValueError, match="'linear' for noise"):
        BottleneckHead(3, 2, penultimate="none", latent_noise="learnt")


def test_runs_go_on_to_the_same_bits_and_load_as_classifiers():
    images = load_images(DATA).train
    for name in ("VIB", "Spectral"):
        spec = make(name)
        run = Solo([spec], images)
        run.train_epoch()
        resumed = Solo([spec], images)
        resumed.load_state_dict(copy.deepcopy(run.state_dict()))
        for one in (run, resumed):
            one.train_epoch()
        ours, theirs = run.member_state(0), resumed.member_state(0)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        loaded = load_member(spec, images, ours)(images.normalised())
        torch.testing.assert_close(loaded.logits, run.outputs(images).logits[0], rtol=1e-4, atol=1e-5)


def test_a_cohort_agrees_with_runs_alone_and_refuses_a_spectral_norm():
    images = load_images(DATA).train
    for name in ("VIB", "Squeezed", "Temperature", "Norm3"):
        specs = [make(name, seed) for seed in (0, 1)]
        together, alone = Cohort(specs, images), Solo(specs[1:], images)
        both, own = together.train_epoch(), alone.train_epoch()
        torch.testing.assert_close(both.cross_entropy[1], own.cross_entropy[0], rtol=1e-3, atol=0)
        torch.testing.assert_close(both.penalty[1], own.penalty[0], rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="spectral_norm=True"):
        Cohort([make("Spectral", seed) for seed in (0, 1)], images)
