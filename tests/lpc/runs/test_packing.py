"""Which runs train together, and what happens if memory runs out or a signal asks to stop."""

import dataclasses
import os
import re
import signal
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support import warm
from tqdm import tqdm

from lpc.computing.stopping import Stopped, stop_on_signal
from lpc.data import load_images
from lpc.runs import execute_all, packing, training_loop
from lpc.specs import (
    EMBEDDINGS,
    GAMMAS,
    METRIC_LEARNING,
    VARIANTS,
    DataSpec,
    TrainSpec,
    run_key,
    variant_spec,
)
from lpc.store import RunStore
from lpc.training.cohorts import Cohort
from lpc.training.solo import Solo

DATA = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
TRAIN = TrainSpec(
    epochs=3, batch_size=64, learning_rate=1e-2, record_every=1, gamma_maximum=1.0, metrics="geometry"
)


def make(architecture="IB", *, seed=0, backbone="mlp", width=12, variants=VARIANTS, **train):
    return variant_spec(
        architecture,
        data=DATA,
        backbone=backbone,
        backbone_width=width,
        train=dataclasses.replace(TRAIN, **train),
        seed=seed,
        variants=variants,
    )


def members(planned):
    return sorted(sorted((spec.architecture, spec.seed) for spec in plan.specs) for plan in planned)


def test_small_networks_share_a_program_and_resnets_train_alone(tmp_path):
    small = [make("IB"), make("LinPen", seed=1), make("WideIB")]
    resnets = [make(name, backbone="resnet18", width=2) for name in ("NarrowIB", "WideIB", "IB")]
    planned = packing.plan(small + resnets, RunStore(tmp_path))
    together = [[("IB", 0), ("LinPen", 1)], [("WideIB", 0)]]
    assert members(planned) == sorted(together + [[(spec.architecture, 0)] for spec in resnets])
    alone = [plan.specs[0] for plan in planned if plan.specs[0].model.backbone == "resnet18"]
    assert alone == resnets  # in the order they were declared in


def test_metric_learning_trains_alone_and_other_embeddings_together(tmp_path):
    specs = [make(name, variants=EMBEDDINGS) for name in EMBEDDINGS]
    planned = packing.plan(specs, RunStore(tmp_path))
    alone = {plan.specs[0].architecture for plan in planned if len(plan.specs) == 1}
    assert alone == {spec.architecture for spec in specs if spec.train.objective in METRIC_LEARNING}
    sizes = [len(plan.specs) for plan in planned if len(plan.specs) > 1]
    assert sizes == [2] * 7  # each width and kind of layer, with and without the squared norm
    gammas = [make(name, variants=GAMMAS) for name in GAMMAS]
    (together,) = packing.plan(gammas, RunStore(tmp_path))
    assert len(together.specs) == len(GAMMAS)


def test_many_alike_are_shared_out_evenly(tmp_path):
    planned = packing.plan([make(seed=seed) for seed in range(17)], RunStore(tmp_path))
    assert sorted(len(plan.specs) for plan in planned) == [8, 9]


def test_what_others_train_is_not_planned(tmp_path):
    store, alike = RunStore(tmp_path), [make(seed=seed) for seed in range(5)]
    begun = store.begin(alike[:2])
    held = {run_key(alike[1]), run_key(alike[2])}
    assert members(packing.plan(alike, store, held=held)) == [
        [("IB", 3), ("IB", 4)]
    ]  # a cohort is one's whole
    assert members(packing.plan(alike, store, held={run_key(alike[2])})) == [
        [("IB", 0), ("IB", 1)],
        [("IB", 3), ("IB", 4)],
    ]
    assert packing.plan(alike, store, held=set(map(run_key, alike))) == []
    assert len(packing.plan(alike, store)) == 2 and begun in store.cohorts()


def test_a_cohort_is_split_by_nobody_but_its_holder(tmp_path):
    store, alike = RunStore(tmp_path), [make(seed=seed) for seed in range(4)]
    store.begin(alike)
    (plan,) = packing.plan(alike, store)
    with store.lease(alike[3:]):
        assert packing.lowered([plan], 1, store) == 1
    assert packing.plan(alike, store) == [plan]
    with pytest.warns(UserWarning, match="continuing with 2 and 2"):
        assert packing.lowered([plan], 1, store) == 1
    halves = [[("IB", 0), ("IB", 2)], [("IB", 1), ("IB", 3)]]
    assert members(packing.plan(alike, store)) == halves and len(store.cohorts()) == 2
    assert packing.lowered([plan], 1, store) == 1  # split by another meanwhile
    assert members(packing.plan(alike, store)) == halves
    assert [store.attempts(spec) for spec in alike] == 4 * [[]]


def test_a_run_is_under_way_only_once_it_has_begun(tmp_path, monkeypatch):
    store, alike = RunStore(tmp_path), [make(), make("WideIB")]
    assert len(packing.plan(alike, store)) == 2 and store.frame().empty

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Solo, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute_all(alike, store, progress=False)
    assert store.frame()["status"].tolist() == ["training"]


def final(store, specs):
    return np.array([[store.result(spec)[name] for name in ("cross_entropy", "rms")] for spec in specs])


FOUR = [make(seed=seed) for seed in range(3)] + [make("LinPen")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store in which four runs were trained as one cohort."""
    store = RunStore(tmp_path_factory.mktemp("whole"))
    execute_all(FOUR, store, progress=False)
    return store


@pytest.mark.parametrize("fits_until", [0, 2])
def test_memory_that_runs_out_halves_the_cohort_and_says_so(whole, tmp_path, monkeypatch, fits_until):
    alike, small = FOUR, RunStore(tmp_path)
    train, sizes = Cohort._train, []

    def little_memory(self):
        if self.epoch >= fits_until and len(self) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append((len(self), self.epoch))
        return train(self)

    monkeypatch.setattr(Cohort, "_train", little_memory)
    with pytest.warns(UserWarning, match="with 4 runs in one cohort: continuing with 2 and 2"):
        execute_all(alike, small, progress=False)
    assert sizes == [(4, epoch) for epoch in range(fits_until)] + 2 * [(2, e) for e in range(fits_until, 3)]
    np.testing.assert_allclose(final(small, alike), final(whole, alike), rtol=2e-3)
    assert small.cohorts() == {} and len(small.history()) == 12
    assert {small.provenance(spec)["cohort_runs"] for spec in alike} == {2}


def test_fewer_processes_where_their_memory_does_not_suffice(tmp_path, monkeypatch):
    alike = [make(seed=seed) for seed in range(2)] + [make("WideIB")]
    asked = []

    def share(planned, store, device, workers, stop, bar):
        asked.append(workers)
        return planned[1:] if packing.in_turn(planned[:1], store, device, 1, stop, bar) == [] else planned

    monkeypatch.setattr(packing, "share", share)
    with pytest.warns(UserWarning, match="with 2 processes on it: continuing with 1"):
        execute_all(alike, RunStore(tmp_path), workers=2, progress=False)
    assert asked == [2]
    assert (RunStore(tmp_path).frame()["status"] == "finished").all()


def test_a_run_that_does_not_fit_alone_is_an_error_that_names_it(tmp_path, monkeypatch):
    def no_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Solo, "_train", no_memory)
    with pytest.raises(MemoryError, match=r"IB on digits does not fit .* batches of 64"):
        execute_all([make()], RunStore(tmp_path), progress=False)


SCRIPT = """
import multiprocessing, sys
from lpc.runs import execute_all
from lpc.specs import DataSpec, TrainSpec, variant_spec
from lpc.store import RunStore

if __name__ == "__main__":
    forks = multiprocessing.get_context("fork")  # which need not import what this process has imported
    multiprocessing.get_context = lambda kind: forks
    data = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
    train = TrainSpec(epochs=EPOCHS, batch_size=64, learning_rate=1e-2, record_every=10_000)
    specs = [
        variant_spec(name, data=data, backbone="mlp", backbone_width=12, train=train, seed=0)
        for name in ("IB", "WideIB")
    ]
    execute_all(specs, RunStore(sys.argv[1]), workers=int(sys.argv[2]))
"""


@pytest.mark.process
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_the_epoch_writes_checkpoints_and_leaves(tmp_path, workers):
    script = tmp_path / "long.py"
    script.write_text(textwrap.dedent(SCRIPT.replace("EPOCHS", "100_000")))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with warm.begin(script, tmp_path / "store", workers, cwd=tmp_path, env=environment) as process:
        while not re.search(r" [1-9]\d*/200000 ", process.err):
            assert process.poll() is None, process.err
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait()
        rest = process.err
    assert process.returncode == 1
    assert "SIGTERM: stopping after this epoch" in rest
    assert "lpc.computing.stopping.Stopped: stopped after epoch" in rest and "call again to continue" in rest
    store = RunStore(tmp_path / "store")
    begun = [store.load_state(cohort, "cpu") for cohort in store.cohorts()]
    epochs = [state["training"]["epoch"] for state in begun if state is not None]
    assert len(epochs) >= 1 and all(0 < epoch < 100_000 for epoch in epochs)


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    whole, broken, spec = RunStore(tmp_path / "whole"), RunStore(tmp_path / "broken"), make(epochs=4)
    execute_all([spec], whole, progress=False)
    (plan,) = packing.plan([spec], broken)
    splits = load_images(DATA)
    with pytest.raises(Stopped, match="after epoch 1 of 4"):
        training_loop.train_plans([plan], broken, splits, lambda _: None, lambda: True, workers=1)
    execute_all([spec], broken, progress=False)
    expected, found = whole.load_weights(spec), broken.load_weights(spec)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert broken.history()["epoch"].tolist() == [1, 2, 3, 4]


def test_a_signal_between_two_plans_begins_no_other(tmp_path):
    store, spec = RunStore(tmp_path / "store"), make()
    planned = packing.plan([spec], store)
    with tqdm(disable=True) as bar, pytest.raises(Stopped, match="before all was trained"):
        packing.in_turn(planned, store, torch.device("cpu"), 1, lambda: True, bar)
    assert not store.root.exists()


def test_the_second_signal_acts_as_usual():
    # a shell without job control starts what it puts in the background with SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _second_signal()
    finally:
        signal.signal(signal.SIGINT, before)


def _second_signal():
    with stop_on_signal() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_chance_is_the_last_stretch_at_the_share_of_the_largest_class():
    images = load_images(DATA).train  # 15 of each class: chance is a tenth, its limit 15 %

    def epoch_of(*shares):
        history = [{"epoch": e + 1, "accuracy": share} for e, share in enumerate(shares)]
        return training_loop._chance_epoch([*history[:1], {"epoch": 99}, *history[1:]], images)

    assert epoch_of(0.1, 0.5, 0.9) is None
    assert epoch_of(0.1, 0.5, 0.14, 0.1) == 3
    assert epoch_of(0.12, 0.11) == 1
    assert epoch_of(0.9, 0.1, 0.16) is None


def test_a_run_driven_to_chance_says_so(tmp_path, monkeypatch):
    """A bias alone decides: how near to chance a large gamma drives a run depends on its seed."""
    store = RunStore(tmp_path)
    lost = make(gamma_initial=1e9, gamma_maximum=1e9, epochs=4)
    outputs = Solo.outputs

    def biased(self, images, **options):
        found = outputs(self, images, **options)
        if self.specs == [lost]:
            found.logits[..., 3] += 1e6
        return found

    monkeypatch.setattr(Solo, "outputs", biased)
    with pytest.warns(UserWarning, match=r"IB, seed 0: gamma ends at 1e\+09.*the readout will be lost"):
        execute_all([lost, make("LinPen", epochs=20, record_every=20)], store, progress=False)
    result = store.result(lost)
    assert result["accuracy"] == pytest.approx(0.1) and result["at_chance"] and result["chance_epoch"] == 1
    fine = store.result(make("LinPen", epochs=20, record_every=20))  # accuracy 0.98 to 1 over six seeds
    assert not fine["at_chance"] and fine["chance_epoch"] is None
    assert store.provenance(lost)["run_epoch_seconds"] > 0 and run_key(lost) in set(store.frame()["key"])
