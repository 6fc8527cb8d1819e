import copy
import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import warm
from torch.nn.functional import cross_entropy

from lpc.classifiers import build_classifier
from lpc.data import load_images
from lpc.evaluation.collapse import rescale_to_unit_rms, within_between_traces
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.latents import collect
from lpc.losses import squared_norm
from lpc.schedules import learning_rate
from lpc.specs import DataSpec, TrainSpec, variant_spec
from lpc.training import load_member, trainer
from lpc.training.cohorts import Cohort, part_of_state, shape_of
from lpc.training.solo import Solo

DATA = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
TRAIN = TrainSpec(
    epochs=4, batch_size=64, learning_rate=5e-3, decay_start=2, decay_every=1, gamma_maximum=1.0
)


def make(architecture, *, seed=0, rate=5e-3, data=DATA, backbone="mlp", width=16, **train):
    changed = dataclasses.replace(TRAIN, learning_rate=rate, **train)
    return variant_spec(
        architecture, data=data, backbone=backbone, backbone_width=width, train=changed, seed=seed
    )


@pytest.fixture(scope="module")
def splits():
    return load_images(DATA)


def trained(specs, images, epochs=4, kind: Callable[..., Any] = Cohort):
    cohort = kind(specs, images)
    losses = [cohort.train_epoch() for _ in range(epochs)]
    return cohort, losses


def test_learning_rate_halves_as_appendix_c_says():
    train = TrainSpec(epochs=800, learning_rate=1.0, decay_start=250, decay_every=50)
    rates = [learning_rate(epoch, train) for epoch in (0, 249, 250, 299, 300, 799)]
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.5**11]


@pytest.mark.parametrize("kind", [Cohort, Solo])
def test_one_run_is_what_a_plain_loop_gives(splits, kind):
    """Against torch's own AdamW with one parameter group a rate."""
    data = dataclasses.replace(DATA, noise=0.0)
    spec = make("IB", data=data)
    cohort = kind([spec], splits.train)
    orders = torch.Generator().set_state(cohort.draws[0].generator.get_state())
    model = build_classifier(spec.model, channels=1, size=8, classes=10, seed=0)
    head: Any = model.head
    classifier = list(head.classifier.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("head.classifier.")]
    optimizer = torch.optim.AdamW([{"params": rest}, {"params": classifier}], lr=5e-3, weight_decay=0.5e-4)
    model.train()
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = learning_rate(epoch, spec.train)
        gamma = 1e-2 * 1.05**epoch
        total = 0.0
        for index in torch.randperm(150, generator=orders).split(64):
            output = model(splits.train.normalised(index))
            entropy = cross_entropy(output.logits, splits.train.label[index])
            loss = entropy + gamma * squared_norm(output.latent, reduction="sum")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += entropy.item() * len(index)
        assert cohort.train_epoch().cross_entropy.item() == pytest.approx(total / 150, rel=1e-4)
    ours, theirs = cohort.member_state(0), model.state_dict()
    assert ours.keys() == theirs.keys()
    before = build_classifier(spec.model, channels=1, size=8, classes=10, seed=0).state_dict()
    # Weights of a pixel that never varies have no gradient (batch norm takes constants out), but for
    # rounding, which Adam makes steps of full length from.
    pixels = splits.train.normalised().flatten(start_dim=1)
    dead = (pixels == pixels[0]).all(dim=0)
    for state in (ours, theirs, before):
        state["backbone.layers.1.weight"] = state["backbone.layers.1.weight"][:, ~dead]
    for name in dict(model.named_parameters()):
        assert (ours[name] - theirs[name]).norm() < 1e-3 * (theirs[name] - before[name]).norm(), name


def test_a_run_alone_and_in_a_cohort_agree(splits):
    alike = [make("IB"), make("LinPen", seed=1, rate=1e-2), make("LinPenDropout", seed=2)]
    together, _ = trained(alike, splits.train)
    for member, spec in enumerate(alike):
        alone, _ = trained([spec], splits.train)
        expected = alone.outputs(splits.train).logits[0]
        found = together.outputs(splits.train).logits[member]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    different = together.outputs(splits.train).logits
    assert (different[0] - different[1]).abs().max() > 0.1


def test_same_packing_gives_the_same_bits(splits):
    alike = [make("NoPen"), make("NoPenDropout", seed=1)]
    first, second = (trained(alike, splits.train)[0].member_state(1) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


RESNET = {"backbone": "resnet18", "width": 2}


@pytest.mark.parametrize(
    "alike",
    [
        [make("IB"), make("LinPenDropout", seed=1)],
        [make("LinPenDropout", **RESNET)],
        [make("NonLinPenL1", precision="bfloat16", **RESNET)],
    ],
    ids=["cohort", "alone", "alone in bfloat16"],
)
def test_four_epochs_are_two_and_two_to_the_bit(splits, alike):
    whole, _ = trained(alike, splits.train, epochs=2, kind=trainer)
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = trainer(alike, splits.train)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    assert resumed.epoch == 2
    losses, again = ([one.train_epoch() for _ in range(2)] for one in (whole, resumed))
    assert torch.equal(again[1].cross_entropy, losses[1].cross_entropy)
    for member in range(len(alike)):
        expected = whole.member_state(member)
        assert all(torch.equal(expected[k], v) for k, v in resumed.member_state(member).items())


@pytest.mark.parametrize("architecture", ["IB", "LinPenDropout", "NonLinPenL1", "NoPen"])
def test_a_run_alone_is_a_cohort_of_one(splits, architecture):
    spec = make(architecture, penalty_reduction="mean", l1=1e-3)
    alone, losses = trained([spec], splits.train, kind=Solo)
    cohort, expected = trained([spec], splits.train)
    assert isinstance(trainer([spec], splits.train), Solo)
    for ours, theirs in zip(losses, expected, strict=True):
        torch.testing.assert_close(ours.cross_entropy, theirs.cross_entropy, rtol=1e-3, atol=0)
        torch.testing.assert_close(ours.penalty, theirs.penalty, rtol=1e-3, atol=0)
    found, wanted = (one.outputs(splits.train) for one in (alone, cohort))
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-2, atol=1e-2)
    other, _ = trained([make(architecture, seed=1)], splits.train, kind=Solo)
    assert (found.logits - other.outputs(splits.train).logits).abs().max() > 0.1


COMPILED = """
import functools, sys
import torch
from lpc.data import load_images
from lpc.training.solo import Solo
from lpc.specs import DataSpec, TrainSpec, variant_spec

torch.compile = functools.partial(torch.compile, backend=sys.argv[1])
data = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
train = TrainSpec(epochs=2, batch_size=64, learning_rate=5e-3)
spec = variant_spec("IB", data=data, backbone="mlp", backbone_width=8, train=train, seed=0)
images = load_images(data).train
for compiled in (False, True):
    solo = Solo([spec], images, compiled=compiled)
    first, second = solo.train_epoch(), solo.train_epoch()
    print(solo.packing()["compiled"], second.cross_entropy.item(), *sorted(solo.member_state(0)))
"""


@pytest.mark.process
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.nightly)])
def test_a_compiled_run_is_the_same_run(backend):
    """In a process of its own: the suite's shape checks are not there to be compiled.

    Graphs are traced and differentiated for either backend; kernels are generated and built by the second.
    """
    ran = warm.run("-c", COMPILED, backend, cwd=Path(__file__).parents[3])
    assert ran.returncode == 0, ran.stderr
    (eager, loss, *names), (compiled, other, *others) = (line.split() for line in ran.stdout.splitlines())
    assert (eager, compiled) == ("False", "True") and names == others
    assert float(other) == pytest.approx(float(loss), rel=1e-4)


def test_a_recorded_step_needs_a_gpu(splits):
    with pytest.raises(ValueError, match=r"graphed is True.*cpu"):
        Solo([make("IB")], splits.train, graphed=True)


def test_half_of_a_cohort_goes_on_as_the_whole_would(splits):
    alike = [make("IB"), make("LinPenDropout", seed=1), make("LinPen", seed=2)]
    whole, _ = trained(alike, splits.train, epochs=2)
    part = Cohort(alike[::2], splits.train)
    part.load_state_dict(part_of_state(copy.deepcopy(whole.state_dict()), [0, 2]))
    for _ in range(2):
        whole.train_epoch()
        losses = part.train_epoch()
    assert part.epoch == 4 and len(losses.cross_entropy) == 2
    for member, place in enumerate((0, 2)):
        expected, found = (one.outputs(splits.train).logits[m] for one, m in ((whole, place), (part, member)))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_bfloat16_is_the_backbones_alone(splits):
    solo = Solo([make("IB", precision="bfloat16", **RESNET)], splits.train)
    seen = {}
    solo.model.backbone.register_forward_hook(lambda _, __, out: seen.update(features=out.dtype))
    solo.model.head.register_forward_hook(
        lambda _, __, out: seen.update(latent=out.latent.dtype, logits=out.logits.dtype)
    )
    solo.train_epoch()
    assert seen == {"features": torch.bfloat16, "latent": torch.float32, "logits": torch.float32}
    assert {value.dtype for value in solo.model.parameters()} == {torch.float32}
    moments = solo.optimizer.state_dict()["state"][0]
    assert moments["exp_avg"].dtype == moments["exp_avg_sq"].dtype == torch.float32
    assert solo.outputs(splits.train).latent.dtype == torch.float32
    seen.clear()
    solo.outputs(splits.train)
    assert seen["features"] == torch.float32  # measured without bfloat16's rounding


def test_a_cohort_refuses_bfloat16_which_vmap_would_ignore(splits):
    with pytest.raises(ValueError, match=r"precision is 'bfloat16'; a cohort computes in float32"):
        Cohort([make("IB", precision="bfloat16")], splits.train)


def test_a_last_batch_of_one_is_refused(splits):
    with pytest.raises(ValueError, match=r"batch_size is 149: with 150"):
        trainer([make("IB", batch_size=149)], splits.train)


@pytest.mark.parametrize(("architecture", "limit"), [("IB", 135e6), ("WideIB", 150e6)])
def test_checkpoint_of_a_resnet18_stays_under_150_megabytes(splits, architecture, limit):
    images = dataclasses.replace(splits.train, images=splits.train.images[:8], label=splits.train.label[:8])
    solo = Solo([make(architecture, batch_size=8, backbone="resnet18", width=64)], images)
    solo.train_epoch()
    buffer = io.BytesIO()
    torch.save(solo.state_dict(), buffer)
    parameters = sum(value.numel() for value in solo.model.parameters())
    assert 12 * parameters < buffer.getbuffer().nbytes < limit


def test_a_foreign_state_is_refused_and_changes_nothing(splits):
    cohort = Cohort([make("IB")], splits.train)
    before = cohort.member_state(0)
    with pytest.raises(ValueError, match="shapes"):
        cohort.load_state_dict(Cohort([make("NarrowIB")], splits.train).state_dict())
    assert all(torch.equal(before[name], value) for name, value in cohort.member_state(0).items())


def test_reductions_differ_by_the_width(splits):
    gamma: dict[str, Any] = {"gamma_initial": 1e-3, "gamma_factor": 1.0, "gamma_maximum": 1e-3}
    scaled: dict[str, Any] = {"gamma_initial": 8e-3, "gamma_factor": 1.0, "gamma_maximum": 8e-3}
    summed = make("IB", penalty_reduction="sum", **gamma)
    mean = make("IB", penalty_reduction="mean", **scaled)
    cohort, losses = trained([summed, mean], splits.train, epochs=2)
    torch.testing.assert_close(losses[-1].penalty[0], losses[-1].penalty[1], rtol=1e-4, atol=0)
    assert losses[-1].penalty[0] > 0
    assert cohort.gamma() == pytest.approx([1e-3, 8e-3])


def test_weight_l1_shrinks_the_penultimate_weights(splits):
    plain, penalised = make("NonLinPen"), make("NonLinPenL1", l1=1e-2)
    cohort, losses = trained([plain, penalised], splits.train)
    weights = [cohort.member_state(m)["head.penultimate.weight"].abs().sum() for m in range(2)]
    assert weights[1] < 0.9 * weights[0]
    assert losses[0].penalty[0] == 0 and losses[0].penalty[1] > 0


def test_dropout_drops_only_in_training_and_only_where_asked(splits):
    with_noise = [make("NoPenDropout"), make("NoPen")]
    cohort = Cohort(with_noise, splits.train)
    drawn = [next(draws.epoch()) for draws in cohort.draws]
    keep = cohort._drawn(drawn)["keep"]
    assert keep is not None and set(keep[0].unique().tolist()) == {0.0, 2.0}
    assert keep[0].mean().item() == pytest.approx(1.0, abs=0.15)
    assert bool((keep[1] == 1).all())
    assert "keep" not in cohort._drawn(drawn[1:])
    assert torch.equal(cohort.outputs(splits.train).logits, cohort.outputs(splits.train).logits)


def test_outputs_are_those_of_the_saved_classifier(splits):
    alike = [make("IB"), make("LinPen", seed=3)]
    cohort, _ = trained(alike, splits.train, epochs=1)
    outputs = cohort.outputs(splits.test)
    for member, spec in enumerate(alike):
        latents = collect(load_member(spec, splits.test, cohort.member_state(member)), splits.test)
        torch.testing.assert_close(latents.latent, outputs.latent[member], rtol=1e-4, atol=1e-5)
        assert torch.equal(latents.label, splits.test.label)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            lambda state, images: (state, dataclasses.replace(images, classes=12)),
            r"for 12 classes: head\.classifier",
        ),
        (
            lambda state, images: ({k: v for k, v in state.items() if "bias" not in k}, images),
            "has shape none",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(splits, changed, words):
    spec = make("IB")
    state, images = changed(Solo([spec], splits.train).member_state(0), splits.test)
    with pytest.raises(ValueError, match=words):
        load_member(spec, images, state)


def test_a_cohort_of_different_shapes_is_an_error(splits):
    with pytest.raises(ValueError, match="share"):
        Cohort([make("IB"), make("NoPen")], splits.train)
    with pytest.raises(ValueError, match="at least one"):
        Cohort([], splits.train)
    assert shape_of(make("IB")) == shape_of(make("LinPenDropout", seed=4, rate=1.0))
    assert shape_of(make("IB")) != shape_of(make("IB", weight_decay=0.0))


@pytest.mark.slow
def test_collapse_of_a_bfloat16_backbone_is_that_of_float32_within_the_spread_of_seeds():
    """Scale-free metrics and those with a scale, of runs that differ in the backbone's arithmetic alone."""
    data = DataSpec(name="digits", validation=100, train_limit=300, noise=0.01)
    images = load_images(data).train
    shape: dict[str, Any] = {"data": data, "backbone": "small_cnn", "width": 4}
    schedule: dict[str, Any] = {"epochs": 30, "gamma_factor": 1.2, "decay_start": 15, "decay_every": 5}
    found: dict[str, list[list[float]]] = {"float32": [], "bfloat16": []}
    for precision, rows in found.items():
        for seed in range(4):
            spec = make("IB", seed=seed, rate=1e-2, precision=precision, **shape, **schedule)
            alone, _ = trained([spec], images, epochs=30, kind=Solo)
            latent, logits = (output[0] for output in alone.outputs(images))
            traces = within_between_traces(latent, images.label)
            collapse = neural_collapse(latent, images.label)
            rows.append(
                [
                    math.log(traces.ratio),
                    math.log(traces.within),
                    math.log(collapse.nc1_per_rank),
                    collapse.equinorm,
                    knn_entropy(rescale_to_unit_rms(latent), k=3),
                    float(cross_entropy(logits, images.label)),
                ]
            )
    ours, theirs = (np.array(found[precision]) for precision in ("bfloat16", "float32"))
    apart, spread = ours.mean(axis=0) - theirs.mean(axis=0), theirs.std(axis=0, ddof=1)
    assert bool((np.abs(apart) < spread).all()), (apart, spread)
    assert bool((ours[:, :2] != theirs[:, :2]).all())
    assert theirs[:, 0].max() < math.log(0.15)  # collapsed: a class's spread is small beside the distances
