"""Training on a GPU, as far as a pretended one shows: the same runs, recorded, resumed, without waits."""

import dataclasses
import io
from typing import Any, get_args

import pytest
import torch
from support.pretended_gpu import pretended_gpu

from lpc import specs
from lpc.data import load_images
from lpc.specs import VARIANTS, DataSpec, ModelSpec, RunSpec, TrainSpec, variant_spec
from lpc.training import compiling, optimizers, recording, solo, trainer
from lpc.training.cohorts import Cohort
from lpc.training.solo import Solo
from lpc.training.together import SideBySide

DATA = DataSpec(name="digits", validation=100, train_limit=100, noise=0.01)
TRAIN = TrainSpec(
    epochs=4,
    batch_size=32,
    learning_rate=2.0**-8,  # in float32, as a GPU holds rates, a power of two is what it is in float64
    gamma_maximum=1.0,
    decay_start=2,
    decay_every=1,
)
RESNET: dict[str, Any] = {"backbone": "resnet18", "width": 2, "batch_size": 64}


def make(architecture="IB", *, seed=0, backbone="mlp", width=12, **train):
    changed = dataclasses.replace(TRAIN, **train)
    return variant_spec(
        architecture, data=DATA, backbone=backbone, backbone_width=width, train=changed, seed=seed
    )


@pytest.fixture
def gpu():
    with pretended_gpu() as kernels:
        yield kernels


def trained(specs, device, *, epochs=4, **options):
    """Return what has trained, every epoch's loss, and the final logits on the CPU."""
    training = trainer(specs, load_images(DATA, device=device).train, **options)
    for _ in range(epochs):
        training.train_epoch()
    return training, torch.tensor(training.losses), training.outputs(training.images).logits.cpu()


def on_gpu(specs, **options):
    with pretended_gpu():
        return trained(specs, "cuda", compiled=False, **options)[1:]


CASES = {name: [make(name)] for name in VARIANTS}
CASES |= {
    "bfloat16": [make("LinPenDropout", precision="bfloat16", **RESNET)],
    "cohort": [make("IB"), make("LinPenDropout", seed=1)],
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_on_a_gpu_is_the_run_on_the_cpu(case):
    """To the bit, with a decay inside its epochs: a pretended GPU computes as the CPU does."""
    specs = CASES[case]
    _, losses, logits = trained(specs, "cpu", epochs=3)
    found = on_gpu(specs, epochs=3)
    assert torch.equal(found[0], losses) and torch.equal(found[1], logits)
    if len(specs) == 1:
        found = on_gpu(specs, epochs=3, graphed=False)
        assert torch.equal(found[0], losses) and torch.equal(found[1], logits)


CATEGORICAL: dict[str, Any] = {"encoder": "categorical", "decoder": "network", "decoder_width": 8}
OPTIMAL: dict[str, Any] = {"encoder": "categorical", "decoder": "optimal"}
INFORMED: dict[str, Any] = {"metrics": "information"}
NOISY: dict[str, Any] = {"latent_noise": "zero_entropy"}
CHOICES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (CATEGORICAL, INFORMED),
    (CATEGORICAL, {"objective": "prediction_cross_entropy", **INFORMED}),
    (OPTIMAL, {"objective": "decoder_uncertainty", **INFORMED}),
    ({"dropout": 0.3}, {"objective": "prediction_cross_entropy", "samples": 2}),
    (NOISY, {"penalty": "log_variance", "samples": 2}),
    (NOISY, {"penalty": "conditional_log_variance"}),
    ({**NOISY, "rescaled": True}, {"latent_sd": 3.0, "latent_sd_factor": 0.1}),
    ({}, {"penalty": "weight_l1"}),
    ({}, {"penalty": "squared_norm", "plateau_factor": 0.8, "plateau_patience": 0}),
    ({}, {"penalty": "centre", "label_smoothing": 0.1}),
    ({}, {"penalty": "norm_power", "norm_power": 3.0}),
    ({"logit_temperature": 4.0}, {"penalty": "logit_norm"}),
    ({"latent_noise": "learnt"}, {"penalty": "divergence", "samples": 2}),
    ({"spectral_norm": True}, {"penalty": "none"}),
    *(({}, {"penalty": "squared_norm", "optimizer": name}) for name in get_args(specs.Optimizer)),
    ({}, {"objective": "supervised_contrastive"}),
    ({}, {"objective": "contrastive_cross_entropy"}),
    ({"classifier": "cosine"}, {"objective": "arcface"}),
    ({"classifier": "cosine"}, {"objective": "cosface", "decay": "cosine"}),
]
"""Every objective, penalty, encoder, decoder and noise, of Kirsch et al. and of metric learning."""


def test_the_choices_are_all_that_a_spec_can_name():
    for options, place, default in (
        (specs.Objective, 1, "objective"),
        (specs.Penalty, 1, "penalty"),
        (specs.Decay, 1, "decay"),
        (specs.Optimizer, 1, "optimizer"),
        (specs.Encoder, 0, "encoder"),
        (specs.Decoder, 0, "decoder"),
        (specs.LatentNoise, 0, "latent_noise"),
        (specs.LastLayer, 0, "classifier"),
    ):
        spec = (ModelSpec, TrainSpec)[place]
        known = {item.name: item.default for item in dataclasses.fields(spec)}[default]
        assert {choice[place].get(default, known) for choice in CHOICES} == set(get_args(options))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: ", ".join(map(str, choice[1].values())))
def test_every_objective_and_penalty_on_a_gpu_is_that_of_the_cpu(choice):
    model, train = choice
    plain = ModelSpec(backbone="relu_mlp", backbone_width=12, penultimate="linear", latent_width=12, **model)
    two = [
        RunSpec(
            architecture="any", data=DATA, model=plain, seed=seed, train=dataclasses.replace(TRAIN, **train)
        )
        for seed in range(2)
    ]
    for members in ([two[0]],) if two[0].alone else ([two[0]], two):
        _, losses, logits = trained(members, "cpu", epochs=2)
        found = on_gpu(members, epochs=2)
        assert torch.equal(found[0], losses) and torch.equal(found[1], logits)


def shared_rate(train, named, **options):
    optimizer = optimizers.of_run(train, named, **options)
    for group in optimizer.param_groups:
        group["lr"] = optimizer.param_groups[0]["lr"]
    return optimizer


def rates_as_numbers(train, named, **options):
    optimizer = optimizers.of_run(train, named, **options)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    return optimizer


FAULTS = {
    "one rate for both groups": (solo, "of_run", shared_rate, [False, False, True, True]),
    "a rate that is a number": (solo, "of_run", rates_as_numbers, [False, False, True, True]),
    "no warm-up": (recording, "WARM_UP", 0, [True] * 4),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_comparison_finds(monkeypatch, fault):
    """The controls: in which epochs, of which the third is the first of the decay, losses are wrong."""
    losses = on_gpu([make()])[0]
    module, name, wrong, expected = FAULTS[fault]
    monkeypatch.setattr(module, name, wrong)
    assert (on_gpu([make()])[0] != losses)[0].tolist() == expected


@pytest.mark.parametrize("graphed", [True, False])
def test_an_epoch_waits_as_often_however_many_steps_it_has(gpu, graphed):
    found = []
    for batch_size in (16, 64):
        training = trainer(
            [make("LinPenDropout", batch_size=batch_size)],
            load_images(DATA, device="cuda").train,
            **{"compiled": False, "graphed": graphed},
        )
        training.train_epoch()
        gpu.waits.clear()
        training.train_epoch()
        found.append(dict(gpu.waits))
    assert found[0] == found[1]
    assert 0 < sum(found[0].values()) < 10


def test_a_wait_in_a_step_is_found(gpu, monkeypatch):
    step = Solo._step

    def waiting(self: Any, batch: Any) -> None:
        step(self, batch)
        self.totals.sum().item()

    monkeypatch.setattr(Solo, "_step", waiting)
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense .* stream is capturing"):
        trained([make()], "cuda", compiled=False)
    gpu.waits.clear()
    trained([make()], "cuda", compiled=False, graphed=False, epochs=1)
    assert sum(count for (what, _), count in gpu.waits.items() if what == "_local_scalar_dense") >= 4


def test_a_recorded_step_is_one_launch_and_a_smaller_batch_is_taken_as_it_is(gpu):
    training = Solo([make(batch_size=16)], load_images(DATA, device="cuda").train, compiled=False)
    training.train_epoch()
    full, odd = divmod(len(training.images), 16)
    assert full == 6 and odd

    def launches() -> dict[str, int]:
        gpu.launches.clear()
        training.train_epoch()
        names = {what for what, _ in gpu.launches}
        return {name: sum(n for (what, _), n in gpu.launches.items() if what == name) for name in names}

    recorded = launches()
    training.recording = None
    plain = launches()
    assert recorded["replay"] == full and "replay" not in plain
    assert plain["mm"] == (full + 1) * recorded["mm"] > 0


@pytest.mark.parametrize("specs", [[make("LinPenDropout")], CASES["cohort"]], ids=["alone", "cohort"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_on_a_gpu_too_four_epochs_are_two_and_two(gpu, specs, device):
    """On the pretended GPU to the bit, wherever the checkpoint is loaded."""
    whole, *_ = trained(specs, "cuda", compiled=False, epochs=2)
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = trainer(specs, whole.images, compiled=False)
    resumed.load_state_dict(torch.load(buffer, map_location=device, weights_only=True))
    for training in (whole, resumed):
        while not training.finished:
            training.train_epoch()
    assert resumed.losses == whole.losses and resumed.epoch == 4
    assert torch.equal(*(one.outputs(whole.images).logits.cpu() for one in (whole, resumed)))


def test_training_rounds_nothing_to_tf32(gpu):
    training = Solo([make("IB", **RESNET)], load_images(DATA, device="cuda").train, compiled=False)
    training.train_epoch()
    training.outputs(training.images)
    assert any(name == "convolution_backward" for name, _ in gpu.launches)
    assert not gpu.rounded
    training.model(training.images.normalised(slice(0, 4)))
    assert gpu.rounded  # the control: a network that is called outside


@pytest.mark.parametrize("specs", [[make()], CASES["cohort"]], ids=["alone", "cohort"])
@pytest.mark.parametrize("came_from", ["cpu", "cuda"])
def test_a_checkpoint_of_another_kind_of_device_is_refused_and_changes_nothing(gpu, specs, came_from):
    goes_to = "cuda" if came_from == "cpu" else "cpu"
    half, *_ = trained(specs, came_from, compiled=False, epochs=1)
    other = trainer(specs, load_images(DATA, device=goes_to).train, compiled=False)
    before = other.member_state(0)
    with pytest.raises(ValueError, match=rf"written on .* this is the device '{goes_to}'.*LPC_DEVICE"):
        other.load_state_dict(half.state_dict())
    assert all(torch.equal(before[name], value) for name, value in other.member_state(0).items())
    assert other.epoch == 0


def test_steps_are_recorded_on_the_stream_that_warmed_up(gpu, monkeypatch):
    used = []
    step = Solo._step
    monkeypatch.setattr(Solo, "_step", lambda self, batch: (used.append(gpu.stream), step(self, batch))[1])
    training = Solo([make(batch_size=16)], load_images(DATA, device="cuda").train, compiled=False)
    training.train_epoch()
    assert training.recording is not None
    assert used[: recording.WARM_UP] == [training.recording.stream] * recording.WARM_UP
    assert gpu.captured_on == [training.recording.stream]


@pytest.fixture
def compiler(monkeypatch):
    """What stands in for ``torch.compile``: it notes its options, and the batches that its networks see."""
    seen: dict[str, Any] = {"options": [], "batches": set()}

    def compile(function: Any, **options: Any) -> Any:
        seen["options"].append(options)

        def compiled(images: torch.Tensor, **masks: torch.Tensor) -> torch.Tensor:
            seen["batches"].add(len(images))
            return function(images, **masks)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    compiling.compiles.cache_clear()
    yield seen
    compiling.compiles.cache_clear()


def test_a_smaller_last_batch_is_not_compiled_for(compiler):
    images = load_images(DATA).train
    assert len(images) % 32
    plain, compiled = (Solo([make()], images, compiled=compiled) for compiled in (False, True))
    losses = [training.train_epoch().cross_entropy for training in (plain, compiled)]
    assert compiler == {"options": [{"dynamic": False}], "batches": {32}}
    assert torch.equal(*losses)


def test_where_a_device_cannot_compile_a_warning_says_why_once(gpu, compiler, monkeypatch):
    images = load_images(DATA, device="cuda").train
    monkeypatch.setattr(compiling, "has_triton", lambda: True)
    assert Solo([make()], images).packing()["compiled"]
    assert Solo([make()], images).compiled and len(compiler["options"]) == 3  # one try, two networks

    def no_compiler(function: Any, **options: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one")

    monkeypatch.setattr(torch, "compile", no_compiler)
    compiling.compiles.cache_clear()
    with pytest.warns(UserWarning, match=r"uncompiled.* RuntimeError: Failed to find C compiler\.$"):
        assert not Solo([make()], images).packing()["compiled"]
    assert not Solo([make()], images).compiled
    compiling.compiles.cache_clear()
    monkeypatch.setattr(compiling, "has_triton", lambda: False)
    with pytest.warns(UserWarning, match="Triton is not installed, or does not support this card"):
        assert not Solo([make()], images).compiled


def test_runs_side_by_side_are_the_runs_alone(gpu):
    """Of different sizes, recorded or not, each on a stream of its own; the controls share one."""
    specs = [make("IB"), make("LinPenDropout", seed=1), make("NoPen", batch_size=64)]
    alone = [trained([spec], "cuda", compiled=False) for spec in specs]
    images = load_images(DATA, device="cuda").train
    members = [Solo([spec], images, compiled=False, graphed=place < 2) for place, spec in enumerate(specs)]
    both = SideBySide(members)
    used: list[Any] = []
    for member in members:
        member.draws[0].epoch = noting(member.draws[0].epoch, used, gpu)  # type: ignore[method-assign]
    losses = [both.train_epoch() for _ in range(4)]
    for place, (training, expected, logits) in enumerate(alone):
        assert torch.equal(torch.tensor(members[place].losses), expected)
        assert torch.equal(members[place].outputs(images).logits.cpu(), logits)
        assert float(sum(losses[-1][place])) == pytest.approx(expected[0, -1].item())
        assert members[place].epoch == training.epoch == 4
    assert used[:6] == both.streams + both.streams and len(set(both.streams)) == 3  # in turn


def noting(epoch, used, gpu):
    """Return an epoch of draws that notes on which stream every batch is asked for."""

    def noted():
        for batch in epoch():
            used.append(gpu.stream)
            yield batch

    return noted


def test_runs_side_by_side_wait_no_more_than_alone(gpu):
    def waits(count):
        images = load_images(DATA, device="cuda").train
        both = SideBySide([Solo([make(seed=seed)], images, compiled=False) for seed in range(count)])
        both.train_epoch()
        gpu.waits.clear()
        both.train_epoch()
        return sum(gpu.waits.values())

    assert waits(3) == 3 * waits(1) > 0


def test_runs_on_two_devices_are_not_side_by_side(gpu):
    members = [Solo([make()], load_images(DATA, device=device).train) for device in ("cpu", "cpu")]
    both = SideBySide(members)
    assert both.streams == [None, None] and len(both.train_epoch()) == 2
    members[1] = Solo([make()], load_images(DATA, device="cuda").train, compiled=False)
    for wrong, named in ((members, "cpu, cuda:0"), ([], "no device")):
        with pytest.raises(ValueError, match=f"the runs are on {named}; expected runs on one device"):
            SideBySide(wrong)


def test_a_recorded_cohort_is_the_cohort_in_fewer_launches(gpu):
    specs = CASES["cohort"]
    images = load_images(DATA, device="cuda").train
    recorded, plain = (Cohort(specs, images, graphed=True) for _ in range(2))
    plain.recording = None  # the same optimizer, whose steps are taken one by one
    launched = {}
    for name, training in (("recorded", recorded), ("plain", plain)):
        for _ in range(2):
            training.train_epoch()
        gpu.launches.clear()
        training.train_epoch()
        launched[name] = sum(gpu.launches.values())
    assert recorded.losses == plain.losses
    assert torch.equal(recorded.outputs(images).logits, plain.outputs(images).logits)
    assert launched["recorded"] < launched["plain"] / 2
    assert recorded.packing()["graphed"] and not trainer(specs, images).packing()["graphed"]
    resumed = trainer(specs, images, graphed=True)
    buffer = io.BytesIO()
    torch.save(recorded.state_dict(), buffer)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, map_location="cpu", weights_only=True))
    assert resumed.train_epoch().cross_entropy.equal(recorded.train_epoch().cross_entropy)
    usual = torch.tensor(trained(specs, "cpu", epochs=3)[0].losses)
    assert torch.allclose(torch.tensor(plain.losses), usual, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="graphed is True, but a CUDA graph needs a GPU"):
        trainer(specs, load_images(DATA).train, graphed=True)


def test_a_wait_in_a_cohorts_step_is_found(gpu, monkeypatch):
    move = Cohort._move
    monkeypatch.setattr(Cohort, "_move", lambda self: (move(self), self.totals.sum().item())[0])
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense .* stream is capturing"):
        trained(CASES["cohort"], "cuda", graphed=True)
