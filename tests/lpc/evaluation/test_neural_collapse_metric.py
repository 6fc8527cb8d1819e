import builtins
import importlib
import pickle
import sys
from typing import Any

import pytest
import torch
from support.two_processes import in_two
from torchmetrics import MeanMetric, MetricCollection, MetricTracker
from torchmetrics.wrappers import BootStrapper, Running

from lpc.evaluation.class_moments import ClassMoments
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.evaluation.neural_collapse_metric import NeuralCollapseMetric

MEASURES = (
    "nc1",
    "nc1_per_node",
    "nc1_per_rank",
    "trace_ratio",
    "equinorm",
    "equiangularity",
    "max_angle",
    "nc3",
)


def sample(points=300):
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 4, (points,), generator=generator)
    noise = torch.randn(points, 6, generator=generator) * (1 + label[:, None])
    return torch.randn(4, 6, generator=generator)[label] + 0.2 * noise + 3, label


def weight():
    return torch.arange(24.0).reshape(4, 6).cos()


def metric(**options):
    return NeuralCollapseMetric(classes=4, width=6, **options)


def fed(latent, label, *, batch=50, **options):
    result = metric(**options)
    for part, index in zip(latent.split(batch), label.split(batch), strict=True):
        result.update(part, index)
    return result


def assert_same(value, expected, *, rel=1e-12):
    for name in MEASURES:
        target = getattr(expected, name)
        if target is None:
            assert name not in value
        else:
            assert float(value[name]) == pytest.approx(target, rel=rel), name


@pytest.mark.parametrize("convention", ["paper", "released"])
def test_equals_the_one_shot_measures(convention):
    latent, label = sample()
    value = fed(latent, label, convention=convention, classifier_weight=weight).compute()
    assert set(value) == set(MEASURES)
    assert_same(value, neural_collapse(latent, label, convention=convention, classifier_weight=weight()))
    assert_same(fed(latent, label).compute(), neural_collapse(latent, label))


def test_reset_forgets_and_forward_measures_its_batch():
    latent, label = sample()
    one = fed(latent * 2, label.flip(0))
    one.reset()
    for part, index in zip(latent.split(60), label.split(60), strict=True):
        assert_same(one(part, index), neural_collapse(part, index))
    assert_same(one.compute(), neural_collapse(latent, label))


def test_a_refused_batch_loses_nothing():
    latent, label = sample()
    one = fed(latent, label)
    bad = latent[:5].clone()
    bad[2, 3] = float("nan")
    for add in (one.update, one.forward):
        with pytest.raises(ValueError, match="NaN"):
            add(bad, label[:5])
        with pytest.raises(ValueError, match="labels go from 4 to 4"):
            add(latent[:1], torch.tensor([4]))
    assert one.moments().points == 300
    assert_same(one.compute(), neural_collapse(latent, label))


def test_points_without_measures_are_nan_with_a_reason_and_are_kept():
    latent, label = sample()
    one = metric(classifier_weight=weight)
    with pytest.warns(
        UserWarning, match=f"NaN: label holds one class, .{int(label[0])}.; expected 2"
    ) as said:
        value = one(latent[:1], label[:1])
    assert len(said) == 1 and set(value) == set(MEASURES)
    assert all(bool(number.isnan()) for number in value.values())
    with pytest.warns(UserWarning, match="one class"):
        assert bool(one.compute()["nc1"].isnan())
    one.update(latent[1:], label[1:])
    assert_same(one.compute(), neural_collapse(latent, label, classifier_weight=weight()))
    with pytest.raises(ValueError, match="classifier_weight has width 5"):  # no matter of the points
        fed(latent, label, classifier_weight=lambda: weight()[:, :5]).compute()


@pytest.mark.parametrize("measure", ["nc1", "equinorm", "nc3"])
def test_one_measure_is_a_scalar_for_torchmetrics_wrappers(measure):
    latent, label = sample()
    expected = getattr(neural_collapse(latent, label, classifier_weight=weight()), measure)
    one = metric(measure=measure, classifier_weight=weight)
    batch = one(latent, label)
    assert isinstance(batch, torch.Tensor) and float(batch) == pytest.approx(expected, rel=1e-12)
    assert float(one.compute()) == pytest.approx(expected, rel=1e-12)

    tracker = MetricTracker(metric(measure=measure, classifier_weight=weight), maximize=False)
    for scale in (1.0, 3.0):
        tracker.increment()
        noise = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
        tracker.update(latent + (scale - 1) * noise, label)
    best: Any = tracker.best_metric()
    every: Any = tracker.compute_all()
    assert float(best) == pytest.approx(min(every.tolist()))

    torch.manual_seed(0)
    again = BootStrapper(metric(measure=measure, classifier_weight=weight), num_bootstraps=4)
    again.update(latent, label)
    assert float(again.compute()["mean"]) == pytest.approx(expected, rel=0.5)

    figure, _ = one.plot()
    assert figure is not None


def test_running_keeps_the_last_batches():
    latent, label = sample()
    running = Running(metric(measure="nc1"), window=2)
    for some in (slice(0, 100), slice(100, 200), slice(200, 300)):
        running.update(latent[some], label[some])
    expected = neural_collapse(latent[100:], label[100:]).nc1
    assert float(running.compute()) == pytest.approx(expected, rel=1e-12)


def test_a_collection_has_one_scalar_a_measure():
    latent, label = sample()
    both = NeuralCollapseMetric.collection("nc1", "equinorm", classes=4, width=6)
    both.update(latent, label)
    expected = neural_collapse(latent, label)
    value = {name: float(number) for name, number in both.compute().items()}
    assert value == pytest.approx({"nc1": expected.nc1, "equinorm": expected.equinorm}, rel=1e-12)
    assert set(NeuralCollapseMetric.collection(classes=4, width=6)) == set(MEASURES) - {"nc3"}
    with pytest.raises(ValueError, match=r"measure is 'nc2'; expected 'nc1'"):
        metric(measure="nc2")
    with pytest.raises(ValueError, match="measure is 'nc3', which needs classifier_weight"):
        metric(measure="nc3")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["log", "log_dict", "compute"])
def test_lightnings_sanity_check_on_one_class_does_not_stop_training(how, tmp_path):
    lightning = pytest.importorskip("lightning")
    latent = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    label = torch.arange(64) // 16  # in the order of the classes: the sanity check sees one
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(latent, label), 8)
    logged = {}

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 4)
            self.one, self.all = metric(measure="nc1"), metric()
            self.some = NeuralCollapseMetric.collection("nc1", classes=4, width=6)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-2)

        def training_step(self, batch, index):
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def validation_step(self, batch, index):
            chosen = {"log": self.one, "log_dict": self.some, "compute": self.all}[how]
            chosen.update(*batch)
            if how == "log":
                self.log("nc1", self.one)
            elif how == "log_dict":
                self.log_dict(self.some)

        def on_validation_epoch_end(self):
            if how == "compute":
                self.log_dict(self.all.compute())
                self.all.reset()

        def on_train_end(self):
            logged.update(self.trainer.callback_metrics)

    off = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False
    )
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, num_sanity_val_steps=2, default_root_dir=tmp_path, **off
    )
    trainer.fit(Module(), data, data)
    assert float(logged["nc1"]) == pytest.approx(neural_collapse(latent, label).nc1, rel=1e-5)


def test_merging_states():
    latent, label = sample()
    one, other, third = (fed(latent[p], label[p]) for p in (slice(0, 90), slice(90, 100), slice(100, 300)))
    assert_same(one.compute(), neural_collapse(latent[:90], label[:90]))
    one.merge_state(other)
    one.merge_state(third.metric_state)
    assert_same(one.compute(), neural_collapse(latent, label))
    fresh = metric()
    fresh.merge_state(one)
    assert_same(fresh.compute(), neural_collapse(latent, label))
    with pytest.raises(ValueError, match="dict of count, origin, offset, scatter"):
        one.merge_state({"count": label})
    with pytest.raises(ValueError, match="incoming_state is a MeanMetric"):
        one.merge_state(MeanMetric())
    with pytest.raises(ValueError, match="convention: cannot merge 'released' into 'paper'"):
        one.merge_state(metric(convention="released"))


def test_states_stay_float64():
    latent, label = sample()
    one = fed(latent, label)
    before = [state.clone() for state in one.moments().sums]
    one.half().to(torch.float16).set_dtype(torch.bfloat16).float()
    assert all(torch.equal(old, new) for old, new in zip(before, one.moments().sums, strict=True))
    assert one.scatter.dtype == torch.float64
    one.update(latent, label)
    assert one.compute()["nc1"].dtype == torch.float64
    one.reset()
    assert one.scatter.dtype == torch.float64
    assert fed(latent, label).to("meta").scatter.device.type == "meta"


def test_in_a_collection_that_shares_states():
    latent, label = sample()
    collection = MetricCollection(
        {
            "paper": metric(),
            "released": metric(convention="released"),
            "duality": metric(classifier_weight=weight),
        },
        prefix="train/",
    )
    for _ in range(2):
        for part, index in zip(latent.split(50), label.split(50), strict=True):
            collection.update(part, index)
        value = collection.compute()
        expected = neural_collapse(latent, label)
        assert float(value["train/paper_nc1"]) == pytest.approx(expected.nc1, rel=1e-12)
        released = neural_collapse(latent, label, convention="released")
        assert float(value["train/released_nc1"]) == pytest.approx(released.nc1, rel=1e-12)
        duality = neural_collapse(latent, label, classifier_weight=weight()).nc3
        assert float(value["train/duality_nc3"]) == pytest.approx(duality, rel=1e-12)
        collection.reset()
    assert_same(MetricCollection(metric())(latent, label), neural_collapse(latent, label))


def test_pickled_cloned_and_saved():
    latent, label = sample()
    one = fed(latent, label, classifier_weight=weight)
    expected = neural_collapse(latent, label, classifier_weight=weight())
    for copy in (pickle.loads(pickle.dumps(one)), one.clone()):
        assert_same(copy.compute(), expected)
    one.persistent(True)
    loaded = metric(classifier_weight=weight)
    loaded.load_state_dict(one.state_dict())
    loaded.update(latent, label)
    twice = neural_collapse(latent.repeat(2, 1), label.repeat(2), classifier_weight=weight())
    assert_same(loaded.compute(), twice)


def test_moments_give_nc4_in_a_second_pass():
    latent, label = sample()
    moments = fed(latent, label).moments()
    wrong = sum(moments.disagreements(part, classifier_weight=weight()) for part in latent.split(70))
    expected = neural_collapse(latent, label, classifier_weight=weight())
    assert wrong / moments.points == expected.nc4
    assert isinstance(moments, ClassMoments)


def work(rank):
    """One of two processes; the first has the points of classes 0 to 2, the second the rest in one batch."""
    latent, label = sample()
    own = (label < 3) if rank == 0 else (label == 3)
    values = []
    for convention in ("paper", "released"):
        one = fed(latent[own], label[own], batch=40 if rank == 0 else 300, convention=convention)
        values.append({name: float(value) for name, value in one.compute().items()})
        assert one.moments().points == int(own.sum())  # its own again
        one.update(latent[own], label[own])
        values.append({name: float(value) for name, value in one.compute().items()})
    one.sync()
    assert one.moments().points == 2 * len(label)
    with pytest.raises(ValueError, match="unsync"):
        one.update(latent, label)
    one.unsync()
    return values


@pytest.mark.process
def test_two_processes_give_the_value_of_one(tmp_path):
    latent, label = sample()
    first, second = in_two(work, tmp_path)
    assert first == second
    for value, convention, times in zip(
        first, ("paper", "paper", "released", "released"), (1, 2, 1, 2), strict=True
    ):
        assert_same(
            value, neural_collapse(latent.repeat(times, 1), label.repeat(times), convention=convention)
        )


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="dist_sync_on_step"):
        metric(dist_sync_on_step=True)
    with pytest.raises(ValueError, match="no function; expected one that returns weights"):
        metric(classifier_weight=torch.nn.Linear(6, 4))
    with pytest.raises(ValueError, match="need 3355443200 bytes"):
        NeuralCollapseMetric(classes=100, width=2048, convention="released")


def test_without_torchmetrics_the_import_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "torchmetrics":
            raise ModuleNotFoundError("No module named 'torchmetrics'", name="torchmetrics")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "lpc.evaluation.neural_collapse_metric")
    with pytest.raises(
        ImportError, match=r"class_moments\) needs torchmetrics, .*pip install '\.\[metrics\]'"
    ):
        importlib.import_module("lpc.evaluation.neural_collapse_metric")
