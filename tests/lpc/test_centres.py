"""Centre loss against its definition, against another library's, and in a run."""

import copy
import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy

from lpc.centres import centre_distance, moved_centres
from lpc.data import load_images
from lpc.heads import HeadOutput
from lpc.objectives import objective
from lpc.specs import DataSpec, ModelSpec, TrainSpec, Variant, run_key, variant_spec
from lpc.training.cohorts import Cohort
from lpc.training.solo import Solo

DATA = DataSpec(name="digits", train_limit=96)
TABLE = {
    "Centre": Variant(penultimate="linear", width="intermediate", penalty="centre", gamma=0.3),
    "Smoothed": Variant(label_smoothing=0.1),
    "NoPen": Variant(),
}


def make(architecture, **train):
    return variant_spec(
        architecture,
        data=DATA,
        backbone="mlp",
        backbone_width=12,
        train=TrainSpec(epochs=4, batch_size=32, learning_rate=5e-3, **train),
        seed=0,
        variants=TABLE,
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    latent, centres = torch.randn(7, 3, generator=generator), torch.randn(4, 3, generator=generator)
    return latent, torch.tensor([0, 1, 1, 3, 3, 3, 0]), centres


def test_the_distance_is_that_of_the_definition_and_of_pytorch_ood(batch):
    latent, label, centres = batch
    expected = sum(float((z - centres[y]).square().sum()) for z, y in zip(latent, label, strict=True)) / 7
    assert float(centre_distance(latent, label, centres)) == pytest.approx(expected, rel=1e-6)
    theirs = pytest.importorskip("pytorch_ood.loss").CenterLoss(n_classes=4, n_dim=3)
    with torch.no_grad():
        theirs.centers.params.copy_(centres)
        found = theirs(theirs.distance(latent), label) * 4  # it averages over classes too
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_centres_move_as_wen_et_al_say(batch):
    latent, label, centres = batch
    moved = moved_centres(centres, latent, label, rate=0.5)
    for k, members in {0: [0, 6], 1: [1, 2], 3: [3, 4, 5]}.items():
        delta = sum((centres[k] - latent[n]) for n in members) / (1 + len(members))
        torch.testing.assert_close(moved[k], centres[k] - 0.5 * delta)
    assert torch.equal(moved[2], centres[2]), "a class that is not in the batch"
    at_rest = torch.stack([latent[label == k].mean(dim=0) if k != 2 else centres[2] for k in range(4)])
    torch.testing.assert_close(moved_centres(at_rest, latent, label, rate=0.5), at_rest)


@pytest.mark.usefixtures("unhooked")
def test_bad_values_are_named(batch):
    latent, label, centres = batch
    with pytest.raises(ValueError, match=r"centres has shape \(4, 2\)"):
        centre_distance(latent, label, centres[:, :2])
    with pytest.raises(ValueError, match=r"rate is 1\.5; expected"):
        moved_centres(centres, latent, label, rate=1.5)
    with pytest.raises(ValueError, match=r"centre_rate is 0\.0; expected above 0"):
        make("Centre", centre_rate=0.0)
    loss = objective(make("Centre").train, make("Centre").model, classes=4)
    with pytest.raises(ValueError, match="centres is None"):
        loss(HeadOutput(latent, centres @ latent.T), label, gamma=1.0)


def test_label_smoothing_is_torchs_and_the_definition(batch):
    latent, label, centres = batch
    logits = latent @ centres.T
    model = ModelSpec(backbone="mlp", backbone_width=2)
    train = TrainSpec(epochs=1, learning_rate=1.0, label_smoothing=0.2)
    main, penalty = objective(train, model, classes=4)(HeadOutput(latent, logits), label, gamma=0.0)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.2)(logits, label)
    assert float(main) == pytest.approx(float(expected)) and float(penalty) == 0
    shares = torch.full((7, 4), 0.05).scatter(1, label[:, None], 0.85)
    assert float(main) == pytest.approx(-float((shares * logits.log_softmax(dim=1)).sum(dim=1).mean()))
    assert float(main) != pytest.approx(float(cross_entropy(logits, label)), rel=1e-2)
    with pytest.raises(ValueError, match=r"label_smoothing is 0\.2; expected 0, except for"):
        dataclasses.replace(train, samples=2)


def test_new_fields_rename_only_the_runs_that_use_them():
    plain, smoothed, centred = (run_key(make(name)) for name in ("NoPen", "Smoothed", "Centre"))
    assert plain == run_key(dataclasses.replace(make("NoPen")))
    assert len({plain, smoothed, centred}) == 3
    held = make("Centre").train
    assert (held.gamma_initial, held.gamma_factor, held.gamma_maximum) == (0.3, 1.0, 0.3)


def test_a_run_pulls_latents_to_their_centres_and_goes_on_to_the_same_bits():
    images = load_images(DATA).train
    spec = make("Centre")
    run = Solo([spec], images)
    first = run.train_epoch()
    with pytest.raises(ValueError, match="train the run alone"):
        Cohort([spec], images)
    resumed = Solo([spec], images)
    resumed.load_state_dict(copy.deepcopy(run.state_dict()))
    for one in (run, resumed):
        last = [one.train_epoch() for _ in range(3)][-1]
    assert run.centres is not None and resumed.centres is not None
    assert torch.equal(run.centres, resumed.centres) and float(run.centres.norm()) > 0
    ours, theirs = run.member_state(0), resumed.member_state(0)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert float(first.penalty[0]) > 0 and float(last.penalty[0]) > 0
