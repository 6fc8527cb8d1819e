import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.__main__ import main
from experiments.studies import ablation
from experiments.studies.profiles import GROUPS, PROFILES
from lpc.specs import run_key
from lpc.store import RunStore

RATES = PROFILES["smoke"].learning_rates
VALIDATION = {
    ("IB", 0): (0.7, 0.9),
    ("IB", 1): (0.8, 0.6),
    ("NoPen", 0): (0.5, 0.4),
    ("NoPen", 1): (0.1, 0.2),
}
"""By architecture and seed, for the lower and the higher rate."""
BEST = {("IB", 0): RATES[1], ("IB", 1): RATES[0], ("NoPen", 0): RATES[0], ("NoPen", 1): RATES[1]}


@pytest.fixture
def profile(monkeypatch):
    """Two architectures, two seeds and two rates; a group has the names of two data sets."""
    one = replace(PROFILES["smoke"], name="small", architectures=("IB", "NoPen"))
    monkeypatch.setitem(PROFILES, "small", one)
    monkeypatch.setitem(PROFILES, "again", replace(one, name="again", retrain=True))
    return one


@pytest.fixture
def export(capsys, tmp_path):
    """Export a store; return the table and what was printed, or the error."""

    def run(*arguments, store="runs", output="table.csv", status=0):
        path = tmp_path / output
        with pytest.raises(SystemExit) as caught:
            main(["export", "--store", str(tmp_path / store), "--output", str(path), *arguments])
        printed = capsys.readouterr()
        assert caught.value.code == status, printed
        if status:
            return printed.err
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path), printed.out

    return run


def finish(store, spec, **result):
    values = {"status": "finished", "missing": {}, "validation_cross_entropy": 1.0, **result}
    store.end(store.begin([spec]))
    lines = [{"epoch": epoch, "gamma": 0.1} for epoch in (1, 2)]
    store.finish(spec, result=values, history=lines, provenance={}, weights={"w": torch.zeros(1)})


@pytest.fixture
def store(profile, tmp_path):
    """The searched runs of both profiles, with validation accuracies by which no rate wins everywhere."""
    found = RunStore(tmp_path / "runs")
    for spec in ablation.declared("small"):
        rate = RATES.index(spec.train.learning_rate)
        accuracy = VALIDATION[spec.architecture, spec.seed][rate]
        finish(found, spec, validation_accuracy=accuracy, accuracy=accuracy / 2)
    return found


def test_every_run_says_whether_it_was_selected(export, store):
    table, printed = export("--profile", "small")
    assert printed.startswith("8 rows") and table["selected"].sum() == 4
    chosen = table[table["selected"]].set_index(["architecture", "seed"])["train.learning_rate"]
    assert chosen.to_dict() == pytest.approx(BEST)


def test_a_table_does_not_depend_on_other_runs_of_the_store(export, store, tmp_path):
    export("--profile", "small", output="alone.csv")
    other = replace(ablation.declared("small")[0], seed=7)
    other = replace(other, model=replace(other.model, latent_width=None))
    finish(store, other, validation_accuracy=0.5, accuracy=0.5, of_another_kind=1.0)
    export("--profile", "small", output="beside.csv")
    assert (tmp_path / "beside.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_selected_runs_come_one_an_architecture_and_seed_with_what_selected_them(export, store, kind):
    for spec in ablation.existing("small", store=store.root).specs:
        if BEST[spec.architecture, spec.seed] == spec.train.learning_rate:
            store.save_test(spec, {"accuracy": 0.3 + spec.seed})
    table, printed = export("--profile", "small", "--selected", "--format", kind, output=f"best.{kind}")
    assert "4 rows" in printed and len(printed.splitlines()) == 1
    first = ["data.name", "architecture", "seed", "train.learning_rate", "selected_validation_accuracy"]
    assert list(table.columns[:5]) == first and table.columns.is_unique
    rows = table.set_index(["architecture", "seed"])
    assert rows["train.learning_rate"].to_dict() == pytest.approx(BEST)
    best = {pair: max(values) for pair, values in VALIDATION.items()}
    assert rows["selected_validation_accuracy"].to_dict() == pytest.approx(best)
    assert rows["accuracy"].to_dict() == pytest.approx({pair: value / 2 for pair, value in best.items()})
    assert rows["test_accuracy"].to_dict() == pytest.approx({pair: 0.3 + pair[1] for pair in best})
    assert "selected" not in table and "missing" not in table


def test_rates_trained_again_are_told_with_the_accuracy_that_selected_them(export, store):
    study = ablation.existing("again", store=store.root)
    for spec in study.retrainings[:3]:
        finish(store, spec, validation_accuracy=None, accuracy=0.99)
    table, printed = export("--profile", "again", "--selected", "--partial")
    assert "3 rows" in printed and "1 of 4 architectures and seeds have no selected run yet" in printed
    assert "not ended" not in printed
    rows = table.set_index(["architecture", "seed"])
    done = [(spec.architecture, spec.seed) for spec in study.retrainings[:3]]
    assert rows["train.learning_rate"].to_dict() == pytest.approx({pair: BEST[pair] for pair in done})
    best = {pair: max(VALIDATION[pair]) for pair in done}
    assert rows["selected_validation_accuracy"].to_dict() == pytest.approx(best)
    assert set(rows["data.validation"]) == {0} and set(rows["accuracy"]) == {0.99}
    everything, _ = export("--profile", "again", "--partial")
    keys = [run_key(spec) for spec in study.retrainings[:3]]
    assert set(everything.loc[everything["selected"], "key"]) == set(keys) and len(everything) == 8 + 3


def test_nothing_is_selected_while_a_run_to_select_from_is_missing(export, profile, tmp_path, capsys):
    store = RunStore(tmp_path / "runs")
    first, second, *_ = ablation.declared("small", only=("NoPen",), seeds=1)
    finish(store, first, validation_accuracy=0.5)
    store.begin([second])
    asked = ("--profile", "small", "--only", "NoPen", "--seeds", "1")
    message = export(*asked, status=1)
    named = f"NoPen, seed 0, learning rate {second.train.learning_rate:g}"
    assert message.startswith("error: 1 of 2 runs of profile small have not ended in ") and named in message
    assert "--partial" in message and len(message.splitlines()) == 1 and not (tmp_path / "table.csv").exists()
    with pytest.raises(SystemExit, match="0"):
        main(["status", "--store", str(tmp_path / "runs"), *asked])
    assert f"1 interrupted, 0 missing\nnot ended: {named}\n" in capsys.readouterr().out
    table, printed = export(*asked, "--partial")
    assert table["status"].tolist() == ["finished", "training"] and not table["selected"].any()
    assert "1 of 1 architectures and seeds have no selected run yet" in printed
    assert f"1 of 2 runs to select from have not ended: {named}\n" in printed
    finish(store, second, validation_accuracy=0.25)
    table, printed = export(*asked, "--selected")
    assert table["key"].tolist() == [run_key(first)] and len(printed.splitlines()) == 1
    shutil.rmtree(store.directory(run_key(first)))
    assert "have not ended" in export(*asked, status=1)
    table, printed = export(*asked, "--partial")
    assert table["key"].tolist() == [run_key(second)] and not table["selected"].any()
    assert "1 of 2 runs to select from have not ended" in printed


def test_profiles_of_a_group_become_one_table(export, store, monkeypatch):
    monkeypatch.setitem(GROUPS, "both", ("small", "again"))
    for spec in ablation.existing("again", store=store.root).retrainings:
        finish(store, spec, validation_accuracy=None)
    table, printed = export("--profile", "both", "--selected")
    assert len(table) == 8 and len(printed.splitlines()) == 1
    assert table["selected_validation_accuracy"].notna().all()
    assert table["data.validation"].tolist() == [100] * 4 + [0] * 4


def test_epochs_are_those_of_the_selected_runs(export, store):
    table, _ = export("--profile", "small", "--epochs")
    same, _ = export("--profile", "small", "--epochs", "--selected")
    pd.testing.assert_frame_equal(table, same)
    assert table["epoch"].tolist() == [1, 2] * 4 and set(table["key"]) == {
        run_key(spec)
        for spec in ablation.declared("small")
        if BEST[spec.architecture, spec.seed] == spec.train.learning_rate
    }


def test_nothing_to_export_is_an_error(export, profile, store, tmp_path):
    assert "error: no run of profile small in" in export("--profile", "small", store="none", status=1)
    message = export("--profile", "again", "--selected", status=1)
    assert "error: no selected run of profile again in" in message
    assert not list(Path(tmp_path).glob("table.*"))


def test_failed_and_open_runs_are_not_selected(export, profile, tmp_path):
    store = RunStore(tmp_path / "runs")
    first, second, *_ = ablation.declared("small", only=("IB",), seeds=1)
    finish(store, first, status="failed", reason="loss is nan", validation_accuracy=0.9)
    store.begin([second])
    table, _ = export("--profile", "small", "--partial")
    assert table["status"].tolist() == ["failed", "training"] and not table["selected"].any()
    assert "no selected run of profile small" in export("--profile", "small", "--selected", status=1)


def test_bottleneck_runs_are_not_selected(export):
    message = export("--profile", "smoke", "--study", "bottlenecks", "--selected", status=1)
    assert "error: --selected is given, but the bottleneck runs have no learning rate to select" in message


def test_a_path_that_cannot_be_written_is_an_error(export, store, tmp_path):
    message = export("--profile", "small", output="nowhere/table.csv", status=1)
    assert (
        f"error: --output is '{tmp_path}/nowhere/table.csv', but {tmp_path}/nowhere is not a folder"
        in message
    )
    message = export("--profile", "small", output="runs", status=2)
    assert "is a directory" in message


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_without_permission_is_an_error(export, store, tmp_path, monkeypatch, kind):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied", f"table.{kind}")

    monkeypatch.setattr(pd.DataFrame, f"to_{kind}", refused)  # tests may run as root, who may write anywhere
    message = export("--profile", "small", output=f"table.{kind}", status=1)
    assert message.startswith("error: ") and "no permission to write there" in message


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_written_whole_or_not_at_all_and_its_mode_follows_the_umask(
    export, store, tmp_path, monkeypatch, kind
):
    path, write = tmp_path / f"table.{kind}", getattr(pd.DataFrame, f"to_{kind}")
    path.write_text("as it was")

    def cut_short(table, place, **options):
        write(table, place, **options)
        with Path(place).open("r+b") as stream:
            stream.truncate(100)
        assert path.read_text() == "as it was", "what is being written lies beside it"
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, f"to_{kind}", cut_short)
        message = export("--profile", "small", output=path.name, status=1)
    assert "the disk is full" in message and path.read_text() == "as it was"
    assert [one.name for one in tmp_path.iterdir() if one.name != "runs"] == [path.name]
    before = os.umask(0o027)
    try:
        export("--profile", "small", output=path.name)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
