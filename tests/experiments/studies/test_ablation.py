import dataclasses

import pandas as pd
import pytest

from experiments.studies.ablation import ABLATION, existing, study
from experiments.studies.learning_rates import retrained, select
from experiments.studies.profiles import PROFILES, resolve, specs
from experiments.studies.progress import of_study
from experiments.studies.study import Study
from lpc.runs import execution, measurements, packing
from lpc.specs import run_key
from lpc.store import RunStore


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(measurements, "ATTACKED_IMAGES", 10)


@pytest.fixture
def again(monkeypatch):
    """A profile as small as smoke that retrains its selected rates."""
    chosen = dataclasses.replace(
        PROFILES["smoke"], name="again", architectures=("IB", "NoPen"), retrain=True, seeds=(0,)
    )
    monkeypatch.setitem(PROFILES, "again", chosen)
    return chosen


def pretend(store, spec, *, accuracy, status="finished"):
    """Write a run as if it had been trained."""
    store.begin([spec])
    result = {"status": status, "validation_accuracy": accuracy, "validation_cross_entropy": 1.0}
    store.finish(spec, result=result, history=[], provenance={}, weights={})


def test_selection_is_by_validation_accuracy_then_cross_entropy():
    frame = pd.DataFrame(
        {
            "architecture": "IB",
            "seed": [0, 0, 0, 0, 1],
            "status": ["finished", "finished", "finished", "failed", "failed"],
            "validation_accuracy": [0.9, 0.95, 0.95, None, None],
            "validation_cross_entropy": [0.1, 0.4, 0.3, None, None],
            "key": list("abcde"),
        }
    )
    assert select(frame)["key"].tolist() == ["c"]
    assert select(frame.iloc[3:]).empty
    without = frame.assign(validation_accuracy=pd.Series([None, 0.95, 0.95, None, None], dtype=float))
    for damaged in (without, frame.drop(columns="validation_accuracy")):
        with pytest.raises(ValueError, match=r"lack validation_accuracy .* in runs/a/result.json"):
            select(damaged)


def test_smoke_study_has_every_architecture_and_repeats_nothing(tmp_path, monkeypatch):
    found = study("smoke", seeds=1, only=("IB", "NoPen"), store=tmp_path, workers=1, progress=False)
    assert sorted(found.selected["architecture"]) == ["IB", "NoPen"]
    assert found.selected["test_accuracy"].notna().all()
    assert len(found.frame) == 2 * len(PROFILES["smoke"].learning_rates)
    assert found.retrainings == [] and found.retrained.empty and found.needed == found.specs
    unselected = found.frame[~found.frame["key"].isin(found.selected["key"])]
    assert unselected["test_accuracy"].isna().all(), "the test set is touched by selected runs only"
    with monkeypatch.context() as patch:
        patch.setattr(packing, "in_turn", lambda *_: pytest.fail("trained again"))
        patch.setattr(packing, "share", lambda *_: pytest.fail("trained again"))
        patch.setattr(execution, "table2_metrics", lambda *_: pytest.fail("measured again"))
        again = study("smoke", seeds=1, only=("IB", "NoPen"), store=tmp_path, progress=False)
    assert again.frame.equals(found.frame) and again.selected.equals(found.selected)
    assert found.latents("IB", 0).latent.shape == (200, 8)
    with pytest.raises(ValueError, match="no finished run of LinPen, seed 0"):
        found.spec("LinPen", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "labtop"}, "'labtop'. Did you mean laptop"),
        ({"name": "paper"}, "'paper' is a group .* paper-svhn, paper-cifar10, paper-cifar100"),
        ({"name": "smoke", "seeds": 9}, "seeds is 9; profile smoke has 1 to 2"),
        ({"name": "smoke", "only": ["IBB"]}, "'IBB'. Did you mean IB"),
    ],
)
def test_unknown_choices_are_named_before_anything_is_written(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        study(**arguments, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_run_on_the_full_train_set_is_another_run():
    keys = [run_key(spec) for chosen in resolve("paper") for spec in specs(chosen)]
    full = [run_key(retrained(spec)) for chosen in resolve("paper") for spec in specs(chosen)]
    assert len({*keys, *full}) == 1200
    spec = specs(PROFILES["paper-svhn"])[7]
    assert retrained(spec).data == dataclasses.replace(spec.data, validation=0)
    assert (retrained(spec).train, retrained(spec).model) == (spec.train, spec.model)
    assert (retrained(spec).seed, retrained(spec).architecture) == (spec.seed, spec.architecture)


def test_the_paper_needs_120_runs_on_the_full_train_sets(tmp_path):
    found = [existing(chosen.name, store=tmp_path) for chosen in resolve("paper")]
    needed = [spec for one in found for spec in one.needed]
    assert len({run_key(spec) for spec in needed}) == len(needed) == 600 + 120
    full = [spec for spec in needed if spec.data.validation == 0]
    assert len(full) == 120 == len({(spec.data.name, spec.architecture, spec.seed) for spec in full})


def test_selected_rates_are_trained_again_and_those_runs_are_measured(again, tmp_path):
    found = study("again", store=tmp_path, workers=1, progress=False)
    assert len(found.frame) == 4 and set(found.frame["data.validation"]) == {100}
    best = select(found.frame)
    chosen = found.selected
    assert chosen["architecture"].tolist() == ["IB", "NoPen"] and set(chosen["data.validation"]) == {0}
    assert chosen["train.learning_rate"].tolist() == best["train.learning_rate"].tolist()
    assert chosen["selected_validation_accuracy"].tolist() == best["validation_accuracy"].tolist()
    assert chosen["validation_accuracy"].isna().all() and chosen["test_accuracy"].notna().all()
    assert "test_accuracy" not in found.frame or found.frame["test_accuracy"].isna().all()
    assert found.spec("IB", 0).data.validation == 0
    assert found.images.validation is None and len(found.images.train) == 200
    assert sorted(map(run_key, found.needed)) == sorted([*found.frame["key"], *chosen["key"]])
    assert set(found.history["key"]) == set(chosen["key"])
    table = of_study(existing("again", store=tmp_path))
    assert table[["declared", "finished", "to retrain", "retrained"]].sum().tolist() == [4, 4, 2, 2]


def test_nothing_is_selected_before_every_rate_has_ended(again, tmp_path):
    store, (low, high) = RunStore(tmp_path), specs(again, only=("IB",))
    pretend(store, low, accuracy=0.9)
    found = existing("again", store=tmp_path)
    assert found.chosen.empty and found.selected.empty and found.retrainings == []
    placeholder = [spec for spec in found.needed if spec.data.validation == 0]
    assert [spec.train.learning_rate for spec in placeholder] == [again.learning_rates[0]] * 2
    store.begin([high])
    assert existing("again", store=tmp_path).chosen.empty, "a run under way has not ended"
    pretend(store, high, accuracy=0.95)
    found = existing("again", store=tmp_path)
    assert found.chosen["key"].tolist() == [run_key(high)] and found.selected.empty
    assert found.retrainings == [retrained(high)] and retrained(high) in found.needed
    assert found.history.empty


def test_a_failed_rate_has_ended_and_a_failed_retraining_is_not_selected(again, tmp_path):
    store, (low, high) = RunStore(tmp_path), specs(again, only=("IB",))
    pretend(store, low, accuracy=0.9)
    pretend(store, high, accuracy=None, status="failed")
    found = existing("again", store=tmp_path)
    assert found.retrainings == [retrained(low)]
    pretend(store, retrained(low), accuracy=None, status="failed")
    found = existing("again", store=tmp_path)
    assert found.retrained["status"].tolist() == ["failed"] and found.selected.empty
    assert of_study(existing("again", store=tmp_path)).T["IB"][["to retrain", "retrained"]].tolist() == [
        1,
        0,
    ]


def test_an_empty_store_has_a_frame_without_rows(tmp_path):
    for name in ("smoke", "paper-cifar10"):
        found = existing(name, store=tmp_path)
        assert found.frame.empty and found.selected.empty and found.history.empty
        table = of_study(existing(name, store=tmp_path))
        assert table["missing"].sum() == len(found.specs) and table["finished"].sum() == 0


def test_one_seed_of_everything_is_trained_first(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("experiments.studies.study.execute_all", lambda specs, *_, **__: asked.append(specs))
    for name in ("fashion", "smoke"):
        with pytest.raises(ValueError, match=rf"profile {name} are missing .* IB, seed 0, learning"):
            study(name, store=tmp_path)
    assert [{spec.seed for spec in part} for part in asked] == [{0}, {1}, {2}, {0, 1}]
    assert [spec for part in asked[:3] for spec in part] == specs(PROFILES["fashion"])


def test_workers_are_passed_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "experiments.studies.study.execute_all", lambda *_, workers, **__: asked.append(workers)
    )
    with pytest.raises(ValueError, match=r"missing .*; and 35 more; if nobody removed them, train"):
        study("smoke", store=tmp_path, workers=7)
    assert asked == [7]


def test_a_study_is_its_specs_not_the_whole_store(tmp_path):
    store = RunStore(tmp_path)
    first, *_ = specs(PROFILES["smoke"])
    pretend(store, first, accuracy=0.5)
    assert Study(PROFILES["smoke"], [first], store, ABLATION).frame["key"].tolist() == [run_key(first)]
    assert existing("laptop", store=tmp_path).frame.empty
