import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from support import warm
from torchmetrics.classification import MulticlassCalibrationError

from experiments.studies.ablation import study
from experiments.studies.learning_rates import select
from lpc import runs
from lpc.computing.devices import default_workers
from lpc.data import load_images
from lpc.evaluation.collapse import within_between_traces
from lpc.latents import collect
from lpc.runs import execute, execute_all, measure, measurements, training_loop
from lpc.runs.measurements import Measured, accuracy
from lpc.specs import DataSpec, TrainSpec, run_key, variant_spec
from lpc.store import RunStore
from lpc.training import Trainer

TRAIN = TrainSpec(epochs=3, batch_size=64, learning_rate=1e-2, record_every=1, gamma_maximum=1.0)


def make(architecture="IB", *, seed=0, **train):
    return variant_spec(
        architecture,
        data=DataSpec(name="digits", validation=100, train_limit=150, noise=0.01),
        backbone="mlp",
        backbone_width=12,
        train=dataclasses.replace(TRAIN, **train),
        seed=seed,
    )


@pytest.fixture(scope="module", autouse=True)
def cheap():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(measurements, "ATTACKED_IMAGES", 10)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with one finished run, measured on the test set, and what execute and measure returned."""
    store = RunStore(tmp_path_factory.mktemp("finished"))
    result = execute(make(), store)
    assert not store.measured(make())
    return store, result, measure(make(), store)


ALIKE = [make("IB", metrics="geometry"), make("LinPenDropout", seed=1, metrics="geometry")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store in which a cohort was trained without an interruption."""
    store = RunStore(tmp_path_factory.mktemp("whole"))
    execute_all(ALIKE, store, progress=False)
    return store


def results(store):
    """Return the last measurements, which for runs of `geometry` have no entropy and no mixture."""
    columns = ["key", "trace_ratio", "knn_entropy", "validation_cross_entropy", "nc1", "binarity_mu"]
    frame = store.frame()
    return frame[[name for name in columns if name in frame]].sort_values("key").reset_index(drop=True)


def test_a_finished_key_is_a_no_op(finished):
    store, result, _ = finished
    path = store.directory(run_key(make())) / "result.json"
    written = path.stat().st_mtime_ns
    assert execute(make(), store) == result
    assert path.stat().st_mtime_ns == written
    assert result["status"] == "finished" and result["epoch"] == 3
    assert store.cohorts() == {}


def test_recorded_metrics_are_those_of_the_stored_weights(finished):
    store, result, _ = finished
    splits = load_images(make().data)
    latents = collect(runs.load_model(make(), store, splits.train), splits.train)
    traces = within_between_traces(latents.latent, latents.label)
    assert result["trace_ratio"] == pytest.approx(traces.ratio, rel=1e-3)
    assert result["accuracy"] == accuracy(latents.logits, latents.label)
    history = store.history()
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["gamma"].tolist() == pytest.approx([1e-2, 1.05e-2, 1.05**2 * 1e-2])
    assert history["trace_ratio"].iloc[-1] == result["trace_ratio"]


def test_geometry_is_collapse_without_entropies_and_mixtures(finished, tmp_path):
    everything, part = finished[1], execute(make(metrics="geometry"), RunStore(tmp_path))
    left_out = {name for name in everything if name.startswith(("knn_entropy", "binarity"))}
    assert len(left_out) > 4 and set(part) == set(everything) - left_out
    assert {name: everything[name] for name in part if name != "missing"} == {
        name: value for name, value in part.items() if name != "missing"
    }


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_cohort_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch, after):
    broken = RunStore(tmp_path)
    original = Trainer.train_epoch

    def interrupted(self):
        if self.epoch == after:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Trainer, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute_all(ALIKE, broken, progress=False)
    assert broken.frame()["status"].tolist() == ["training", "training"]
    monkeypatch.setattr(Trainer, "train_epoch", original)
    execute_all(ALIKE[:1], broken, progress=False)  # asking for one resumes the cohort it began with
    assert results(whole).equals(results(broken))
    for spec in ALIKE:
        expected, found = whole.load_weights(spec), broken.load_weights(spec)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_kill_between_two_results_loses_nothing(whole, tmp_path, monkeypatch):
    broken = RunStore(tmp_path)
    original = RunStore.finish
    done = []

    def dying(self, spec, **parts):
        if done:
            raise KeyboardInterrupt
        done.append(spec)
        original(self, spec, **parts)

    monkeypatch.setattr(RunStore, "finish", dying)
    with pytest.raises(KeyboardInterrupt):
        execute_all(ALIKE, broken, progress=False)
    monkeypatch.setattr(RunStore, "finish", original)
    execute_all(ALIKE, broken, progress=False)
    assert results(whole).equals(results(broken))


SCRIPT = """
import sys, time
from experiments.studies.ablation import study
from lpc.training import Trainer

train_epoch = Trainer.train_epoch
def to_the_middle(self):
    if self.epoch == self.specs[0].train.epochs // 2:
        time.sleep(600)  # it is killed here, however late
    return train_epoch(self)

Trainer.train_epoch = to_the_middle
study("smoke", seeds=1, only=["IB", "LinPen"], store=sys.argv[1], workers=1, progress=False)
"""


@pytest.mark.process
def test_kill_minus_nine_in_the_middle_of_training(tmp_path):
    """The whole program is killed; the next call ends with the results of an undisturbed one."""
    root = Path(__file__).parents[3]
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with warm.begin(script, tmp_path / "killed", cwd=root, env=environment) as victim:
        while not list((tmp_path / "killed").glob("cohorts/*/state.pt")):
            assert victim.poll() is None, victim.err
            time.sleep(0.05)
        victim.send_signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
    killed = RunStore(tmp_path / "killed")
    began = killed.frame()
    assert (began["status"] == "training").any()
    for name in ("killed", "whole"):  # one process: how runs are packed does not depend on it
        study("smoke", seeds=1, only=["IB", "LinPen"], store=tmp_path / name, workers=1, progress=False)
    assert (killed.frame()["status"] == "finished").all()
    assert results(killed).equals(results(RunStore(tmp_path / "whole")))
    again = began.loc[began["status"] == "training", "key"]
    assert {killed.provenance(killed.spec(str(key)))["attempts"] for key in again} == {2}


def test_a_run_whose_loss_is_not_a_number_is_marked_and_the_others_go_on(tmp_path):
    store = RunStore(tmp_path)
    wild, tame = make("IB", learning_rate=1e30, metrics="geometry"), make("LinPen", metrics="geometry")
    with pytest.warns(UserWarning, match="the readout will be lost"):  # and much else
        execute_all([wild, tame], store, progress=False)
    frame = store.frame().set_index("architecture")
    assert frame["status"].to_dict() == {"IB": "failed", "LinPen": "finished"}
    failed = store.result(wild)
    assert failed["reason"] == f"the loss or the logits were not finite in epoch {failed['epoch']}"
    assert execute(wild, store) == failed
    assert select(store.frame())["architecture"].tolist() == ["LinPen"]


@pytest.mark.process
def test_workers_give_what_one_process_gives(tmp_path):
    chosen = [make("IB", metrics="geometry"), make("NoPen", seed=1, metrics="geometry")]
    one, two = RunStore(tmp_path / "one"), RunStore(tmp_path / "two")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        execute_all(chosen, one, progress=False)
    finally:
        torch.set_num_threads(threads)
    execute_all(chosen, two, workers=2, progress=False)
    assert results(one).equals(results(two))


BROKEN = """
import dataclasses, multiprocessing, sys
from lpc.runs import execute_all
from lpc.specs import DataSpec, TrainSpec, variant_spec
from lpc.store import RunStore

forks = multiprocessing.get_context("fork")  # which need not import what this process has imported
multiprocessing.get_context = lambda kind: forks
data = DataSpec(name="digits", validation=100, train_limit=150)
train = TrainSpec(epochs=1, learning_rate=1e-2)
good, bad = (
    variant_spec(name, data=data, backbone="mlp", backbone_width=12, train=train, seed=0)
    for name in ("NoPen", "IB")
)
bad = dataclasses.replace(bad, data=DataSpec(name="digits", validation=3))
try:
    execute_all([bad, good], RunStore(sys.argv[1]), workers=2, progress=False)
except ValueError as error:
    print(type(error.__cause__).__name__, error)
"""


@pytest.mark.process
def test_an_error_in_a_worker_reaches_the_caller(tmp_path):
    done = warm.run("-c", BROKEN, tmp_path, cwd=Path(__file__).parents[3])
    assert "_RemoteTraceback" in done.stdout and "validation asks for 3" in done.stdout, done.stderr


def test_a_truncated_checkpoint_stops_the_next_call_and_says_what_to_remove(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    monkeypatch.setattr(Trainer, "finished", property(lambda self: self.epoch >= 1))
    monkeypatch.setattr(
        training_loop._Training, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        execute(make(), store)
    monkeypatch.undo()
    (path,) = tmp_path.glob("cohorts/*/state.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{path.name} is truncated .* remove {path.parent}"):
        execute(make(), store)


def test_provenance_says_where_a_result_came_from(finished):
    store = finished[0]
    text = (store.directory(run_key(make())) / "provenance.json").read_text()
    for word in (
        "commit",
        "dirty",
        "torch",
        "device",
        "data_checksum",
        "cohort_runs",
        "cohort_seconds",
        "seed",
    ):
        assert f'"{word}"' in text
    assert str(Path.home()) not in text and str(store.root) not in text


def test_test_metrics_are_measured_once(finished):
    store, _, first = finished
    path = store.directory(run_key(make())) / "test.json"
    written = path.stat().st_mtime_ns
    assert measure(make(), store) == first and path.stat().st_mtime_ns == written
    assert 0 <= first["accuracy"] <= 1 and first["deepfool_images"] == 10
    row = store.frame().iloc[0]
    assert row["test_deepfool_relative_norm"] == first["deepfool_relative_norm"] > 0


def test_reliability_of_a_run_is_that_of_its_stored_weights(finished):
    store, _, found = finished
    splits = load_images(make().data)
    test = collect(runs.load_model(make(), store, splits.test), splits.test)
    right = (test.predicted == test.label).numpy()
    score = (test.logits.double() / 100).softmax(dim=1).amax(dim=1).numpy()
    assert 0 < right.mean() < 1
    assert found["auroc_odin"] == pytest.approx(roc_auc_score(right, score), abs=1e-12)
    assert found["aupr_error_odin"] == pytest.approx(average_precision_score(~right, -score), abs=1e-12)
    fpr, tpr, _ = roc_curve(right, score, drop_intermediate=False)
    assert found["fpr95_odin"] == fpr[tpr >= 0.95][0]
    wrong = ~right[np.argsort(-score, kind="stable")]
    risk = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    assert found["aurc_odin"] == pytest.approx(risk.mean(), rel=1e-9)
    oracle = MulticlassCalibrationError(10, n_bins=15)
    expected = float(oracle(test.logits.double().softmax(dim=1), test.label))
    assert found["ece"] == pytest.approx(expected, abs=1e-5)
    for name in ("mahalanobis", "mahalanobis_shrunk"):
        values = [found[f"{metric}_{name}"] for metric in ("auroc", "aupr_error", "fpr95", "aurc")]
        reasons = {found["missing"].get(f"{metric}_{name}") for metric in ("auroc", "aurc")}
        assert values == [None] * 4 if None in values else reasons == {None}
        assert len(reasons) == 1, "one confidence, one reason"


def test_what_cannot_be_computed_is_missing_with_its_reason():
    measured = Measured()

    def impossible():
        raise ValueError("no such thing")

    measured.add(["a", "b"], impossible)
    measured.add(["c"], lambda: 1.0)
    measured.add(["d", "e"], lambda: (float("nan"), 2))
    assert measured.as_dict() == {
        "a": None,
        "b": None,
        "c": 1.0,
        "d": None,
        "e": 2,
        "missing": {"a": "no such thing", "b": "no such thing", "d": "the value is nan"},
    }


@pytest.mark.parametrize(("asked", "expected"), [(None, 3), ("", 3), ("2", 2), ("64", 3)])
def test_workers_are_the_cores_that_a_job_asked_for_and_has(asked, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if asked is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", asked)
    assert default_workers() == expected
