import dataclasses
import hashlib
import os
import signal
import time

import pandas as pd
import pytest
from click.testing import CliRunner
from support import warm

from experiments.__main__ import cli, main
from experiments.paths import ROOT
from experiments.studies import ablation, recorded
from experiments.studies.profiles import GROUPS, PROFILES
from experiments.studies.selection import Selection
from lpc.computing import stopping
from lpc.computing.stopping import Stopped
from lpc.datasets import load_raw
from lpc.runs import measurements


@pytest.fixture
def call(capsys):
    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        output = capsys.readouterr()
        assert caught.value.code == status, output
        return output.err if status else output.out

    return run


@pytest.mark.parametrize("verb", ["fetch", "train", "status", "time", "record", "export"])
def test_every_verb_of_a_profile_has_an_example_and_takes_a_data_set(verb):
    output = CliRunner().invoke(cli, [verb, "--help"]).output
    assert f"python -m experiments {verb}" in output and "--dataset" in output


def test_status_of_the_whole_paper_looks_at_each_run_of_an_empty_store_once(call, tmp_path, monkeypatch):
    looks = []

    def noting(look):
        def noted(path=".", *options, **more):
            looks.append(str(path))
            return look(path, *options, **more)

        return noted

    with monkeypatch.context() as patch:
        for name in ("stat", "listdir", "scandir", "open"):
            patch.setattr(os, name, noting(getattr(os, name)))
        output = call("status", "--profile", "paper", "--store", str(tmp_path))
    inside = [path for path in looks if path.startswith(str(tmp_path))]
    assert 720 <= len(inside) < 800, "once for each run, and a few times more"
    assert [output.count(f"{name}: ") for name in GROUPS["paper"]] == [1, 1, 1]
    assert (
        output.count(
            "0 of 200 runs finished, 0 failed, 0 under way, 0 interrupted, 200 missing, 0 of 40 trained again"
        )
        == 3
    )
    assert not list(tmp_path.iterdir())


def test_a_data_set_picks_one_profile_of_a_group(call, tmp_path):
    output = call("status", "-P", "paper", "--dataset", "cifar10", "--only", "IB", "--store", str(tmp_path))
    assert output.startswith("paper-cifar10: ") and "paper-svhn" not in output
    assert "0 of 25 runs finished" in output and "0 of 5 trained again" in output


def test_status_of_siblings_lists_their_own_architectures(call, tmp_path):
    output = call("status", "-P", "paper-embedding", "--dataset", "CIFAR100", "--store", str(tmp_path))
    assert "SupConLPC" in output and "IB" not in output.split() and "0 of 525 runs finished" in output
    output = call("status", "-P", "laptop-gammas", "--seeds", "1", "--store", str(tmp_path))
    assert "gamma1e-2" in output and "0 of 7 runs finished" in output
    for verb in ("train", "status", "submit", "export"):
        help_text = "".join(
            CliRunner().invoke(cli, [verb, "--help"]).output.split()
        )  # lines break at hyphens
        assert "oragroup:paper,paper-embedding." in help_text


def test_retrained_runs_are_trained_shown_exported_and_recorded(call, monkeypatch, tmp_path):
    chosen = dataclasses.replace(
        PROFILES["smoke"], name="again", architectures=("IB", "NoPen"), retrain=True, seeds=(0,)
    )
    monkeypatch.setitem(PROFILES, "again", chosen)
    monkeypatch.setattr(measurements, "ATTACKED_IMAGES", 10)
    monkeypatch.setattr(recorded, "RESULTS", tmp_path / "results")
    store = ["--profile", "again", "--store", str(tmp_path / "runs")]
    assert "again: 6 runs, 2 selected and measured, 0 failed" in call("train", *store, "--workers", "1")
    output = call("status", *store)
    assert "4 of 4 runs finished" in output and "2 of 2 trained again" in output
    assert "nothing is left to train" in output
    path = tmp_path / "runs.csv"
    assert "6 rows" in call("export", *store, "--output", str(path))
    table = pd.read_csv(path)
    assert table["data.validation"].tolist() == [100] * 4 + [0] * 2
    assert table["test_accuracy"].notna().tolist() == [False] * 4 + [True] * 2
    assert table["validation_accuracy"].notna().tolist() == [True] * 4 + [False] * 2
    assert table["selected_validation_accuracy"].notna().tolist() == [False] * 4 + [True] * 2
    call("record", *store)
    again = recorded.recorded("again")
    assert again is not None and set(again.selected["data.validation"]) == {0}


def test_fetch_prints_images_and_a_checksum(call):
    raw = load_raw("digits")
    images = raw.train_images.tobytes() + raw.train_label.astype("uint8").tobytes()
    images += raw.test_images.tobytes() + raw.test_label.astype("uint8").tobytes()
    expected = f"digits: 1,437 train and 360 test images, SHA-256 {hashlib.sha256(images).hexdigest()}\n"
    assert call("fetch", "--profile", "laptop") == expected


def test_training_that_was_stopped_says_where_it_stands_and_exits_with_130(call, monkeypatch):
    def stopped(*_, **__):
        raise Stopped("stopped after epoch 7 of 400")

    monkeypatch.setattr("experiments.studies.study.Study.trained", stopped)
    monkeypatch.setattr(stopping, "_last", None)  # other tests raise signals
    assert call("train", status=130) == "stopped after epoch 7 of 400\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_state_and_is_the_exit_status(tmp_path, number, status):
    store = tmp_path / "runs"
    runs = ("--only", "NoPen", "--seeds", "1", "--workers", "1", "--store", store)
    with warm.begin("-m", "experiments", "train", *runs, cwd=ROOT) as process:
        while not list(store.glob("cohorts/*/members.json")):
            assert process.poll() is None, process.err
            time.sleep(0.05)
        process.send_signal(number)
        process.wait()
        said = process.err
    assert process.returncode == status, said
    assert "checkpoints are written, call again to continue" in said and "Traceback" not in said
    assert len(list(store.glob("cohorts/*/state.pt"))) == 1 and not list(store.glob("heartbeats/*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--profile", "paper", "--dataset", "CIFAR"], "Did you mean cifar10 or cifar100"),
        (["status", "--profile", "laptop", "--dataset", "svhn"], "data set of profile laptop 'svhn'"),
        (["fetch", "--profile", "papre"], "unknown profile 'papre'. Did you mean paper"),
        (["book", "--profile", "paper"], "paper-svhn, paper-cifar10, paper-cifar100"),
        (["chapters", "collapse", "-p", "profile", "paper"], "paper-svhn, paper-cifar10, paper-cifar100"),
        (["train", "--profile", "paper", "--only", "NonLinIB"], "profile paper-svhn 'NonLinIB'"),
        (["record", "--profile", "smoke", "--store", "nowhere"], "train it before you record it"),
        (["train", "--profile", "laptop-embeding"], "'laptop-embeding'. Did you mean laptop-embedding"),
        (["train", "--profile", "laptop-embedding", "--only", "IB"], "of profile laptop-embedding 'IB'"),
        (["status", "--profile", "laptop", "--only", "SupCon"], "architecture of profile laptop 'SupCon'"),
        (["book", "--profile", "laptop-gammas"], "not made from profile laptop-gammas but from laptop"),
        (["chapters", "collapse", "-p", "profile", "laptop-gammas"], "but from laptop, whose sibling"),
        (["book", "--profile", "paper-embedding"], "paper-cifar10-embedding, paper-cifar100-embedding"),
        (
            ["status", "--profile", "smoke", "--store", __file__],
            "test_commands.py is a file, expected a folder;",
        ),
        (["status", "--profile", "smoke", "--store", "x" * 5000], "File name too long"),
        (["train", "--profile", "smoke", "--only", ""], "--only is ''; expected names"),
        (["train", "--profile", "smoke", "--only", " , "], "--only is ' , '; expected names"),
        (["status", "--profile", "smoke", "--store", ""], "--store is empty; expected a folder"),
        (["export", "--output", "x.txt"], "--output is 'x.txt'; expected an ending, .csv or .parquet"),
        (["export", "--output", "x.csv", "--format", "parquet"], "'x.csv', but --format is parquet"),
        (["chapters", "collapse", "-p", "profile", "{{1}}"], "unknown profile '{{1}}'"),
        (["chapters", "collapse", "-p", "profile", "{1}"], "parameter profile is {1}; expected text"),
        (["chapters", "collapse", "-p", "store", "a\nb"], "a\\nb'; expected a path without control"),
        (["status", "--store", "a\nb"], "--store is 'a\\nb'; expected a path without control characters"),
        (["export", "--output", "a\nb.csv"], "--output is 'a\\nb.csv'; expected a path without control"),
        (["submit", "--resources", "a\nb"], "--resources is 'a\\nb'; expected a path without control"),
        (["submit", "--workers", "2"], "--workers is for --cluster local"),
        (
            [
                "export",
                "-P",
                "paper-cifar10-embedding",
                "--store",
                "nowhere",
                "--selected",
                "--output",
                "x.csv",
            ],
            "no selected run of profile paper-cifar10-embedding in nowhere: train it first",
        ),
    ],
)
def test_what_a_user_gets_wrong_is_one_message(arguments, words, call):
    error = call(*arguments, status=1)
    assert error.startswith("error: ") and words in error and len(error.splitlines()) == 1


def test_no_workers_are_refused(call):
    assert "0 is not in the range" in call("train", "--workers", "0", status=2)


def test_a_store_is_the_users_on_the_command_line_and_the_projects_in_a_chapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Selection(profile="smoke").studies()[0].store.root == tmp_path / "runs"
    assert ablation.existing("smoke").store.root == ROOT / "runs"
    assert ablation.existing("smoke", store=tmp_path / "own").store.root == tmp_path / "own"
    with pytest.raises(ValueError, match="the folder's name is ''; expected a path"):
        ablation.existing("smoke", store="")


def test_the_words_that_ask_for_the_same_runs(tmp_path):
    assert Selection().options() == ["--profile", "laptop"]
    asked = Selection(profile="smoke", seeds=2, only=("IB", "NoPen"), study="ablation", store=tmp_path)
    assert asked.options() == (
        ["--profile", "smoke", "--seeds", "2", "--only", "IB,NoPen", "--store", str(tmp_path)]
    )


def test_models_without_an_epoch_time_are_named_once_with_one_command(call, tmp_path):
    output = call("status", "--profile", "paper", "--store", str(tmp_path))
    assert output.count("no epoch time was measured for") == 1
    line = next(line for line in output.splitlines() if "no epoch time" in line)
    assert all(name in line for name in ("svhn", "cifar10", "cifar100"))
    assert line.endswith("run python -m experiments time --profile paper")


def test_missing_data_are_looked_for_before_anything_is_trained(call, tmp_path, monkeypatch):
    def unavailable(name):
        raise ValueError(f"data set {name!r} is not here")

    monkeypatch.setattr("experiments.studies.study.absent_files", lambda name: [tmp_path / name])
    monkeypatch.setattr("experiments.studies.study.load_raw", unavailable)
    monkeypatch.setattr("experiments.studies.study.execute_all", lambda *_, **__: pytest.fail("trained"))
    error = call("train", "--profile", "smoke", "--store", str(tmp_path / "runs"), status=1)
    assert error == "error: data set 'digits' is not here\n"


def test_a_dry_run_on_this_machine_says_what_it_would_take(call, tmp_path):
    asked = ["submit", "--cluster", "local", "--dry-run", "--profile", "smoke", "--only", "IB"]
    output = call(*asked, "--store", str(tmp_path / "runs"))
    assert output.startswith("smoke: 4 of 4 runs are missing\n") and " kept, and " in output
    assert not (tmp_path / "runs" / "runs").exists()
