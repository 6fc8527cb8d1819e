"""Choices that are faster on some GPUs: used when named, recorded, and otherwise the same run."""

import dataclasses
import warnings

import pytest
import torch
from support.pretended_gpu import pretended_gpu

from lpc.computing.precision import cudnn_trials, exact_float32
from lpc.computing.stopping import Stopped
from lpc.data import load_images
from lpc.runs import execute, execute_all, packing, training_loop
from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore
from lpc.store.ownership import Held
from lpc.training import choices, trainer
from lpc.training.solo import Solo

DATA = DataSpec(name="digits", validation=100, train_limit=150)
TRAIN = TrainSpec(epochs=4, batch_size=64, learning_rate=2.0**-8, gamma_maximum=1.0, record_every=4)

UNCOMPILED = pytest.mark.filterwarnings("ignore:networks are trained uncompiled")  # no Triton is pretended


def make(**train):
    changed = dataclasses.replace(TRAIN, **train)
    return variant_spec("IB", data=DATA, backbone="resnet18", backbone_width=2, train=changed, seed=0)


@pytest.fixture
def gpu():
    with pretended_gpu() as kernels:
        yield kernels


def test_a_choice_is_named_and_known(monkeypatch):
    assert choices.taken() == ()
    monkeypatch.setenv("LPC_FASTER", "cudnn_trials, half_accuracies")
    assert choices.taken() == ("half_accuracies", "cudnn_trials")
    monkeypatch.setenv("LPC_FASTER", "cudnn_trial")
    with pytest.raises(ValueError, match=r"unknown choice in LPC_FASTER 'cudnn_trial'\. Did you mean"):
        choices.taken()


def test_on_a_cpu_nothing_is_chosen(monkeypatch):
    monkeypatch.setenv("LPC_FASTER", ",".join(choices.CHOICES))
    images = load_images(DATA).train
    packed = trainer([make(precision="bfloat16")], images).packing()
    assert packed == {"compiled": False, "graphed": False}
    assert not trainer([make(), make()], images).packing()["graphed"]


def test_a_cohort_is_recorded_where_that_is_chosen(gpu, monkeypatch):
    images = load_images(DATA, device="cuda").train
    assert not trainer([make(), make()], images).packing()["graphed"]
    monkeypatch.setenv("LPC_FASTER", "recorded_cohorts")
    packed = trainer([make(), make()], images).packing()
    assert packed == {"compiled": False, "graphed": True, "faster": ["recorded_cohorts"]}


def test_cudnn_tries_only_where_asked_and_only_what_repeats(gpu, monkeypatch):
    seen = []
    step = Solo._step

    def noting(self, batch):
        seen.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic))
        step(self, batch)

    monkeypatch.setattr(Solo, "_step", noting)
    for named, expected in (("", (False, True)), ("cudnn_trials", (True, True))):
        monkeypatch.setenv("LPC_FASTER", named)
        seen.clear()
        trainer([make()], load_images(DATA, device="cuda").train, compiled=False, graphed=False).train_epoch()
        assert set(seen) == {expected}
        assert not torch.backends.cudnn.benchmark
    with exact_float32(), cudnn_trials(False):
        assert not torch.backends.cudnn.benchmark


def test_a_glance_is_in_bfloat16_and_what_is_measured_is_not(gpu, monkeypatch):
    images = load_images(DATA, device="cuda").train
    kinds = []

    def trained(named, precision):
        monkeypatch.setenv("LPC_FASTER", named)
        training = Solo([make(precision=precision)], images, compiled=False, graphed=False)
        training.train_epoch()
        convolution = next(part for part in training.model.modules() if isinstance(part, torch.nn.Conv2d))
        convolution.register_forward_hook(lambda _, __, output: kinds.append(output.dtype))
        return training

    for named, precision, expected in (
        ("half_accuracies", "bfloat16", torch.bfloat16),
        ("half_accuracies", "float32", torch.float32),
        ("", "bfloat16", torch.float32),
    ):
        training = trained(named, precision)
        assert training.glances == (expected == torch.bfloat16)
        kinds.clear()
        exact, glanced = training.outputs(images).logits, training.glance(images).logits
        assert set(kinds[: len(kinds) // 2]) == {torch.float32} and set(kinds[len(kinds) // 2 :]) == {
            expected
        }
        assert glanced.dtype == torch.float32
        assert torch.equal(exact, glanced) == (expected == torch.float32)
        assert torch.allclose(exact, glanced, atol=0.1 * float(exact.abs().max()))


@pytest.mark.parametrize("reached", [0.5, 0.995])
def test_accuracies_between_recorded_epochs_are_glances_but_near_the_terminal_phase(
    gpu, monkeypatch, tmp_path, reached
):
    """Recorded epochs are measured in float32 whatever was chosen, and so is what decides on the phase."""
    calls = []
    for name in ("outputs", "glance"):
        own = getattr(Solo, name)
        monkeypatch.setattr(
            Solo, name, lambda self, images, own=own, name=name: (calls.append(name), own(self, images))[1]
        )
    monkeypatch.setattr(training_loop, "accuracy", lambda logits, label: reached)
    monkeypatch.setattr("lpc.training.solo.compiles", lambda device: False)
    monkeypatch.setattr(training_loop, "latent_metrics", lambda *_, **__: training_loop.Measured())
    monkeypatch.setenv("LPC_FASTER", "half_accuracies")
    spec = make(precision="bfloat16", metrics="geometry")
    store = RunStore(tmp_path)
    monkeypatch.setattr(training_loop, "_result", lambda *_: {})
    execute(spec, store)
    near = reached > training_loop.TERMINAL_ACCURACY - training_loop.NEAR
    between = ["glance", "outputs"] if near else ["glance"]
    assert calls == [*between * 3, "outputs", "outputs", "outputs"]  # recorded; at the end train, validation
    assert store.provenance(spec)["faster"] == ["half_accuracies"] and run_key(spec) == run_key(
        make(precision="bfloat16", metrics="geometry")
    )


def differing():
    """Return runs alone of one data set that end at different epochs, and one of other data."""
    other = dataclasses.replace(DATA, train_limit=120)
    train = dataclasses.replace(TRAIN, precision="bfloat16", metrics="geometry")  # such runs train alone
    shorter = dataclasses.replace(train, epochs=3, record_every=3)
    return [
        variant_spec("IB", data=data, backbone="mlp", backbone_width=12, train=chosen, seed=seed)
        for seed, (data, chosen) in enumerate([(DATA, train), (DATA, shorter), (DATA, train), (other, train)])
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """How runs end that train one by one."""
    store, specs = RunStore(tmp_path_factory.mktemp("alone")), differing()
    with pretended_gpu(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "networks are trained uncompiled")
        execute_all(specs, store, progress=False)
    return ended(store, specs)


def ended(store, specs):
    return [(store.result(spec), store.load_weights(spec)) for spec in specs]


def assert_equal(found, expected):
    for (result, weights), (same, as_before) in zip(found, expected, strict=True):
        assert result == same
        assert all(torch.equal(weights[name], as_before[name]) for name in as_before)


@UNCOMPILED
def test_runs_alone_train_in_twos_where_that_is_chosen_and_end_the_same(alone, gpu, monkeypatch, tmp_path):
    specs, groups, twos = differing(), [], RunStore(tmp_path)
    inner = packing.train_plans

    def noting(plans, *args, **options):
        groups.append(sorted(plan.specs[0].seed for plan in plans))
        inner(plans, *args, **options)

    monkeypatch.setattr(packing, "train_plans", noting)
    monkeypatch.setenv("LPC_FASTER", "side_by_side")
    execute_all(specs, twos, progress=False)
    assert groups == [[0, 1], [2], [3]]
    assert_equal(ended(twos, specs), alone)
    told = [twos.provenance(spec) for spec in specs]
    assert [one.get("side_by_side") for one in told] == [2, 2, None, None]
    assert all(one["faster"] == ["side_by_side"] for one in told)


@UNCOMPILED
def test_of_two_runs_side_by_side_both_are_stopped_and_go_on(alone, gpu, monkeypatch, tmp_path):
    specs, twos = differing()[:2], RunStore(tmp_path)
    plans = packing.plan(specs, twos)
    splits = load_images(DATA, device="cuda")
    told = []
    with pytest.raises(Stopped, match=r"stopped after epoch 2 of 4, 2 of 3; checkpoints are written"):
        training_loop.train_plans(plans, twos, splits, told.append, lambda: len(told) >= 2, workers=1)
    assert sorted(twos.epochs_done().values()) == [2, 2]
    training_loop.train_plans(plans, twos, splits, told.append, lambda: False, workers=1)
    assert_equal(ended(twos, specs), alone[:2])


@UNCOMPILED
def test_a_run_that_another_program_has_leaves_the_other_one_to_train(gpu, tmp_path):
    specs, store = differing()[:2], RunStore(tmp_path)
    plans, splits = packing.plan(specs, store), load_images(DATA, device="cuda")
    with store.lease(specs[:1]), pytest.raises(Held, match=f"run {run_key(specs[0])} is held by"):
        training_loop.train_plans(plans, store, splits, lambda _: None, lambda: False, workers=1)
    assert [store.finished(spec) for spec in specs] == [False, True]


@UNCOMPILED
def test_two_runs_that_do_not_fit_train_one_by_one(gpu, monkeypatch, tmp_path):
    specs, store = differing()[:2], RunStore(tmp_path)
    monkeypatch.setenv("LPC_FASTER", "side_by_side")

    def full(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training_loop.SideBySide, "train_epoch", full)
    with pytest.warns(UserWarning, match="two runs side by side: continuing with one"):
        execute_all(specs, store, progress=False)
    assert all(store.finished(spec) for spec in specs)
    assert [store.provenance(spec).get("side_by_side") for spec in specs] == [None, None]
