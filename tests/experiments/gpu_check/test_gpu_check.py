"""The check of a GPU: all of it on a pretended GPU, and what happens if a section goes wrong."""

import json
import os
import time
import warnings
from dataclasses import replace
from importlib import metadata

import pytest
import torch
from click.testing import CliRunner
from packaging.requirements import Requirement
from support.pretended_gpu import pretended_gpu

from experiments import __main__ as command_line
from experiments.commands import cli
from experiments.gpu_check import bring, choices, correctness, evaluations, results, running, speed
from experiments.gpu_check.amounts import FULL, TINY
from experiments.gpu_check.results import CUT_OFF, DONE, FAILED, NOT_RUN, PIECE
from experiments.gpu_check.sections import PLAN, SECTIONS, Section
from experiments.studies.profiles import PROFILES
from lpc.training.choices import CHOICES, VARIABLE

pytestmark = pytest.mark.slow
ONE_TEST = """
import pytest

@pytest.mark.gpu
def test_passes():
    pass

@pytest.mark.gpu
def test_is_skipped():
    pytest.skip("no GPU")

def test_is_not_asked_for():
    raise AssertionError
"""
FAILS = """
import pytest

@pytest.mark.gpu
def test_fails():
    assert 1 == 2, "first line\\nsecond"
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Return the folder of a whole check on the pretended device, its record, and the lines it printed."""
    folder = tmp_path_factory.mktemp("check")
    (folder / "tests").mkdir()
    (folder / "tests" / "test_one.py").write_text(ONE_TEST)
    amount = replace(TINY, store=folder / "runs", tests=folder / "tests")
    told: list[str] = []
    few = replace(PROFILES["smoke"], architectures=("IB",), learning_rates=(5e-3,), seeds=(0,))
    with pretended_gpu(), pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="networks are trained uncompiled")
        patch.setitem(PROFILES, "smoke", few)
        record = results.begin(PLAN, folder / "gpu")
        running.check(record, minutes=60, told=told.append, amount=amount, carry_out=running.here)
    return folder, record, told, amount


def rows(record, section):
    return {row["what"]: row for row in record.content["sections"][section]["rows"]}


def test_every_section_is_done_and_written(checked):
    folder, record, told, _ = checked
    assert {name: (record.status(name), record.content["sections"][name]["reason"]) for name in PLAN} == {
        name: (DONE, None) for name in PLAN
    }
    assert record.open() == [] and results.read(record.path).content == record.content
    (found,) = results.recorded(folder / "gpu")
    assert found.device == "pretended" and found.path.name == "pretended.json"
    page = found.path.with_suffix(".md").read_text()
    assert all(f"## {title}" in page for title in PLAN.values())
    assert os.uname().nodename not in page + found.path.read_text() or len(os.uname().nodename) < 4
    assert found.content["provenance"]["versions"]["torch"] == metadata.version("torch")
    assert sum(line.startswith("[") for line in told) == len(SECTIONS)


def test_on_a_pretended_device_bits_are_equal_and_results_agree(checked):
    _, record, *_ = checked
    bits = rows(record, "bits")
    assert len(bits) == 8 and all(row["equal to the bit"] and row["difference"] == 0 for row in bits.values())
    assert rows(record, "tests")["all"]["outcome"] == "1 passed, 0 failed, 1 skipped"
    attacked = rows(record, "deepfool").values()
    assert len(attacked) == 2 and all(row["decision changed"] == row["fooled"] == 1 for row in attacked)
    gained = rows(record, "choices")
    assert set(gained) == set(CHOICES) and gained["cudnn_trials"]["apart"] == 0
    assert gained["recorded_cohorts"]["apart"] < 1e-3 and gained["half_accuracies"]["apart"] < 0.5
    trained = rows(record, "runs")["smoke, seed 0"]
    assert trained["runs finished"] == trained["of"] == 1 and trained["epochs in this piece"] == 4


def test_rates_are_counted_from_the_seconds_of_an_epoch(checked):
    """Images per second, FLOP/s and steps refer to the same time; twice the runs count twice."""
    _, record, _, amount = checked
    alone = rows(record, "training")["small_cnn, graph"]
    spec = amount.run("paper-cifar10")
    assert alone["ms per step"] * alone["images/s"] == pytest.approx(1e3 * spec.train.batch_size)
    each = alone["TFLOP/s"] * 1e12 / alone["images/s"]
    first, others = 32**2 * 9 * 3 * 2, 16**2 * 9 * 2 * 4 + 8**2 * 9 * 4 * 8  # multiply-adds, forward
    assert each == pytest.approx(2 * (3 * (first + others) - first), rel=0.02)  # and a small head
    assert rows(record, "training")["small_cnn, compiled"]["images/s"] is None
    at_once = rows(record, "together")
    one = at_once["small_cnn, 1 at once"]
    assert one["over one"] == 1
    three = at_once["small_cnn, 3 at once"]
    assert three["over one"] == pytest.approx(three["images/s"] / one["images/s"])


def test_an_epochs_rate_is_of_all_runs(monkeypatch):
    monkeypatch.setattr(speed, "epoch_seconds", lambda train, amount, limit: (2.0, 3.0))
    monkeypatch.setattr(speed, "matmul_rate", lambda *_, **__: 1e12)
    with pretended_gpu():
        alone = dict(speed.alone(TINY, 60))["small_cnn, eager"]
        at_once = dict(speed.together(TINY, 60))
    images = TINY.batches * TINY.run("paper-cifar10").train.batch_size
    assert alone["images/s"] == images / 2 and alone["first epoch (s)"] == 3
    assert alone["of the product's"] == pytest.approx(alone["TFLOP/s"])
    assert [row["images/s"] for row in at_once.values()] == [images / 2, images, 3 * images / 2]


def test_the_median_epoch_counts_and_the_first_does_not(monkeypatch):
    taken = iter([(9.0, None), (1.0, None), (5.0, None), (2.0, None), (7.0, None)])
    monkeypatch.setattr(speed, "timed", lambda call: next(taken))
    amount = replace(TINY, epochs=3)
    assert speed.epoch_seconds(lambda: None, amount, 100.0) == (2.0, 9.0)
    taken = iter([(9.0, None), (4.0, None)])
    assert speed.epoch_seconds(lambda: None, amount, 3.0) == (4.0, 9.0)


def test_a_second_call_does_nothing_again_and_a_fresh_one_keeps_the_old_record(checked):
    _, record, _, amount = checked
    told: list[str] = []
    before = record.path.read_text()
    with pretended_gpu():
        again = results.begin(PLAN, record.path.parent)
        running.check(again, minutes=60, told=told.append, amount=amount, carry_out=never)
        assert all(line.endswith("already done") for line in told) and record.path.read_text() == before
        fresh = results.begin(PLAN, record.path.parent, fresh=True)
    assert fresh.content["sections"] == {} and not record.path.exists()
    kept = sorted(path.suffix for path in (record.path.parent / "earlier").iterdir())
    assert kept == [".json", ".md"]
    (old,) = (record.path.parent / "earlier").glob("*.json")
    old.rename(record.path)


def never(section, amount, seconds):
    raise AssertionError(f"{section.name} is done")


def test_a_record_of_other_versions_is_not_gone_on_with(checked, tmp_path):
    _, record, *_ = checked
    content = json.loads(record.path.read_text())
    content["provenance"]["gpu"]["driver"] = "1.2.3"
    (tmp_path / "pretended.json").write_text(json.dumps(content))
    with pretended_gpu(), pytest.raises(ValueError, match=r"pretended.json was made with other gpu.*--fresh"):
        results.begin(PLAN, tmp_path)
    (tmp_path / "pretended.json").write_text("{}")
    with pretended_gpu(), pytest.raises(ValueError, match="is not a record of gpu-check"):
        results.begin(PLAN, tmp_path)


def section(name, measure, *, minutes=0.001, limit=1.0, in_pieces=False):
    return Section(name, f"Title of {name}", minutes, limit, measure, in_pieces)


def good(amount, seconds):
    yield "a", {"x": 1.0}


def partly(amount, seconds):
    yield "a", {"x": float("nan")}
    raise RuntimeError("CUDA error: device-side assert\nsecond line")


def hanging(amount, seconds):
    yield "a", {"x": 2.0}
    time.sleep(3000)


def dying(amount, seconds):
    yield "a", {"x": 3.0}
    os._exit(7)


def pieces(amount, seconds):
    yield "a", {"finished": False}


def forked(one, amount, seconds):
    return running.in_process_of_its_own(one, amount, seconds, way="fork")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_section_that_fails_hangs_or_dies_is_recorded_and_the_rest_goes_on(tmp_path):
    sections = [
        section("partly", partly),
        section("hanging", hanging, limit=8 / 60),
        section("dying", dying),
        section("long", good, minutes=1000),
        section("pieces", pieces, in_pieces=True),
        section("good", good),
    ]
    plan = {one.name: one.title for one in sections}
    with pretended_gpu():
        record = results.begin(plan, tmp_path)
    with pretended_gpu():
        code = results.begin(plan, tmp_path)
        assert code.content["plan"] == plan
        run(record, sections)
    found = record.content["sections"]
    assert {name: one["status"] for name, one in found.items()} == {
        "partly": FAILED,
        "hanging": CUT_OFF,
        "dying": FAILED,
        "long": NOT_RUN,
        "pieces": PIECE,
        "good": DONE,
    }
    assert found["partly"]["reason"] == "RuntimeError: CUDA error: device-side assert"
    assert found["dying"]["reason"] == "its process ended without a message, with status 7"
    assert found["hanging"]["rows"] == [{"what": "a", "x": 2.0}] and found["dying"]["rows"][0]["x"] == 3.0
    assert found["partly"]["rows"] == [{"what": "a", "x": None}]
    assert "it takes about 60000 s" in found["long"]["reason"]
    assert record.open() == ["partly", "hanging", "dying", "long"]
    # what is repeated keeps what an earlier try has found
    with pretended_gpu():
        run(record, [section("hanging", partial_rows), section("pieces", pieces, in_pieces=True)])
    assert record.content["sections"]["hanging"]["rows"] == [{"what": "a", "x": 2.0}, {"what": "b", "x": 4.0}]
    assert record.content["sections"]["hanging"]["status"] == DONE


def partial_rows(amount, seconds):
    yield "b", {"x": 4.0}


def run(record, sections):
    running.check(record, minutes=9, told=lambda line: None, amount=TINY, carry_out=forked, sections=sections)


def test_tests_that_fail_are_named_with_what_they_say(tmp_path):
    (tmp_path / "test_two.py").write_text(FAILS)
    (tmp_path / "test_three.py").write_text("def test_is_not_marked(): raise AssertionError")
    assert [path.name for path in correctness.marked(tmp_path)] == ["test_two.py"]
    found = []
    with pytest.raises(RuntimeError, match="1 of 1 tests failed, 0 passed"):
        found.extend(correctness.tests(replace(TINY, tests=tmp_path), 60))
    (name, values), (_, counts) = found
    assert name.endswith("::test_fails") and values["outcome"] == "failure" and "first line" in values["said"]
    assert counts == {"outcome": "0 passed, 1 failed, 0 skipped"}


def test_the_project_has_tests_that_are_marked():
    assert len(correctness.marked(FULL.tests)) > 2


def test_the_difference_of_states_is_over_the_largest_entry():
    one, other = {"a": torch.tensor([4.0, 1.0])}, {"a": torch.tensor([4.0, 2.0])}
    assert correctness.compared(one, other) == {"equal to the bit": False, "difference": 0.25}
    assert correctness.compared(one, one) == {"equal to the bit": True, "difference": 0.0}


def test_a_choice_is_worth_taking_by_its_rule(checked):
    _, record, *_ = checked
    found = {
        args: choices.verdict("half_accuracies", *args)["worth taking"]
        for args in [(3.0, 2.0, 2e-3), (3.0, 2.1, 0.0), (3.0, 1.0, 3e-3)]
    }
    assert list(found.values()) == [True, False, False]
    other = results.Record(record.path, {**record.content, "sections": {}})
    assert results.worth_taking(other) == "No choice has been measured on this GPU."
    judged = [{"what": name, "worth taking": name == "cudnn_trials"} for name in CHOICES]
    other.content["sections"] = {"choices": {"rows": judged}}
    assert results.worth_taking(other) == f"These choices pay off on this GPU: {VARIABLE}=cudnn_trials"
    judged[1]["worth taking"] = False
    assert "without enough gain on this GPU: half_accuracies, cudnn_trials" in results.worth_taking(other)


def test_faiss_that_is_not_there_is_said(monkeypatch):
    def absent(points, *, k, norm, method="products"):
        if method == "faiss":
            raise ValueError("method is 'faiss', which is not installed: pip install ...\nmore")
        return torch.ones(len(points), device=points.device)

    monkeypatch.setattr(evaluations, "kth_distance", absent)
    with pretended_gpu():
        found = dict(evaluations.entropy(TINY, 60))
    notes = [row.get("note") for row in found.values()]
    assert notes == [None, "method is 'faiss', which is not installed: pip install ..."] * 3
    monkeypatch.setattr(evaluations, "kth_distance", lambda points, *, k, norm: points[:, 0])
    with pretended_gpu():
        found = dict(evaluations.entropy(TINY, 60))
    assert [row.get("note", "")[:12] for row in found.values()] == ["", "this version"] * 3


def test_what_faiss_finds_is_compared(monkeypatch):
    def found(points, *, k, norm, method):
        return points.new_full((len(points),), 2.0 if method == "faiss" else 1.0)

    monkeypatch.setattr(evaluations, "kth_distance", found)
    with pretended_gpu():
        rows = dict(evaluations.entropy(TINY, 60))
    assert [row.get("apart from torch") for row in rows.values()] == [None, 1.0] * 3


def test_without_a_gpu_one_line_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        command_line.main(["gpu-check"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert said.err.startswith("error: the device is 'cuda', but ") and said.err.count("\n") == 1


def test_a_dry_run_names_every_section_and_its_minutes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(cli, ["gpu-check", "--dry-run", "--minutes", "6"])
    assert done.exit_code == 0 and all(one.title in done.output for one in SECTIONS)
    assert f"{sum(one.minutes for one in SECTIONS):.1f} min  in total, of 6" in done.output
    assert sum(one.minutes for one in SECTIONS) <= 8 and all(one.minutes < one.limit <= 8 for one in SECTIONS)


def test_what_to_bring_is_what_the_project_asks_for():
    found = bring.wheels()
    asked = {Requirement(line).name.lower() for line in found["asked"]}
    assert {"torch", "numpy", "pytest", "submitit"} <= asked
    pinned = {Requirement(line).name.lower(): line for line in found["pinned"]}
    assert asked <= set(pinned)
    instead = {Requirement(line).name for line in found["instead"]}
    assert instead <= {"faiss-gpu"} and not instead & set(pinned)  # which excludes what the lock has
    assert all("==" in line for line in pinned.values()) and len(pinned) > len(asked)
    lines = bring.listing()
    assert "FashionMNIST/raw/train-images-idx3-ubyte.gz" in lines and "pip download" in lines
