import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from support.ended_runs import altered, end
from support.pretended_runs import pretend

from experiments.reporting import claims, paper, scoreboard, tables
from experiments.reporting.verdicts import WORDS
from experiments.studies import recorded
from experiments.studies.ablation import ABLATION, declared, existing
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.probing import PROBES
from experiments.studies.profiles import PROFILES
from lpc.specs import VARIANTS, run_key
from lpc.store import RunStore
from lpc.store.probes import Probe

TWO = ("IB", "NoPen")
COLUMNS = {"trace_ratio": "ratio", "accuracy": "accuracy", "test_accuracy": "test"}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """An empty folder for results that are not committed."""
    monkeypatch.setattr(recorded, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A store of two architectures of the profile smoke, as if trained."""
    store = RunStore(tmp_path_factory.mktemp("written") / "runs")
    rng = np.random.default_rng(0)
    for spec in declared("smoke", only=TWO):
        pretend(store, spec, rng)
    for key in set(store.frame()["key"]) - set(existing("smoke", only=TWO, store=store.root).selected["key"]):
        (store.directory(key) / "test.json").unlink()
    return store.root


@pytest.fixture
def live(written, tmp_path):
    """The same runs in a store of the test's own."""
    shutil.copytree(written, tmp_path / "runs")
    return existing("smoke", only=TWO, store=tmp_path / "runs")


def record(live, **options):
    return recorded.record(existing("smoke", store=live.store.root, **{"only": TWO, **options}))


def read():
    found = recorded.recorded("smoke")
    assert found is not None
    return found


def same(ours, theirs):
    """Return whether two tables have the same values to the bit, in the same order; missing ones match."""
    shown = [name for name in ours.columns if name != "missing"]
    assert [name for name in theirs.columns if name != "missing"] == shown
    for name in shown:
        pairs = zip(ours[name], theirs[name], strict=True)
        assert all(a == b or (pd.isna(a) and pd.isna(b)) for a, b in pairs), name


def test_what_is_read_is_what_was_run_to_the_bit(live):
    record(live)
    found = read()
    same(live.frame, found.frame)
    same(live.selected, found.selected)
    lines = live.history[live.history["trace_ratio"].notna()].sort_values(["key", "epoch"])
    same(lines, found.history)
    assert len(found.history) < len(live.history)
    assert found.frame["readout_lost"].dtype == bool and found.frame["data.flip"].dtype == bool
    assert set(found.frame["train.penalty"]) == {"squared_norm", "none"}, (
        "none is a name, not a missing value"
    )
    unselected = ~found.frame["key"].isin(found.selected["key"])
    assert found.frame.loc[unselected, "test_accuracy"].isna().all()


def test_recorded_runs_are_read_once_until_a_file_changes_and_stay_as_they_are(live, monkeypatch):
    folder, reads, read_whole = record(live, seeds=1), [], recorded._read_whole
    monkeypatch.setattr(recorded, "_read_whole", lambda *given: reads.append(given) or read_whole(*given))
    found = read().frame
    found.loc[:, "seed"] = 7
    assert set(read().frame["seed"]) == {0} and len(reads) == 1
    path = folder / "runs.csv"
    path.write_text(path.read_text().replace("finished", "failed"))
    assert set(read().frame["status"]) == {"failed"} and len(reads) == 2


def test_tables_do_not_tell_recorded_from_live(live):
    record(live)
    assert_frame_equal(tables.measured(live, COLUMNS, others=()), tables.measured(read(), COLUMNS, others=()))


def test_recording_again_repeats_every_byte_and_more_runs_replace_fewer(live):
    folder = record(live, seeds=1)
    few = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(read().selected) == 2 and set(few) == {"runs.csv", "history.csv", "provenance.json"}
    record(live, seeds=1)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == few
    record(live)
    assert len(read().selected) == 4 and list(recorded.RESULTS.iterdir()) == [folder]


def test_nothing_finished_is_refused_and_leaves_what_is_there(live, tmp_path):
    folder = record(live)
    before = (folder / "runs.csv").read_bytes()
    with pytest.raises(ValueError, match="no run of profile smoke has finished"):
        recorded.record(existing("smoke", store=tmp_path / "empty"))
    assert (folder / "runs.csv").read_bytes() == before


def test_runs_that_are_missing_are_named_before_anything_is_recorded(live):
    lost = live.specs[3]
    shutil.rmtree(live.store.directory(run_key(lost)))
    named = rf"1 of 8 runs .* have not ended in .*: {lost.architecture}, seed {lost.seed}, .*--partial$"
    with pytest.raises(ValueError, match=named):
        record(live)
    assert not recorded.RESULTS.exists()
    recorded.record(existing("smoke", store=live.store.root, only=TWO), partial=True)
    assert len(read().frame) == 7


def test_what_is_not_recorded_is_none_and_unknown_names_are_errors(live):
    assert recorded.recorded("fashion") is None
    assert recorded.all_recorded() == [] and recorded.summary().empty
    with pytest.raises(ValueError, match=r"smok.*smoke"):
        recorded.recorded("smok")
    record(live)
    assert [one.profile.name for one in recorded.all_recorded()] == ["smoke"]
    assert recorded.all_recorded(beside="smoke") == []


def test_a_part_of_the_architectures_stands_beside_a_profile_once_it_is_probed(live, monkeypatch):
    table = {name: PROFILES["smoke"].variants[name] for name in TWO}
    part = dataclasses.replace(PROFILES["smoke"], name="smoke-part", variants=table, architectures=())
    monkeypatch.setitem(PROFILES, "smoke-part", part)
    record(live)
    recorded.record(existing("smoke-part", store=live.store.root))
    assert [one.profile.name for one in recorded.all_recorded(beside="laptop")] == ["smoke"]
    assert recorded.all_probed("corruptions", beside="laptop") == []
    key = str(live.selected["key"].iloc[0])
    version = PROBES["corruptions"].version
    live.store.save_probe(live.store.spec(key), "corruptions", Probe({"mean": 0.5}), version=version)
    recorded.record(existing("smoke-part", store=live.store.root))
    (found,) = recorded.all_probed("corruptions", beside="laptop")
    assert found.profile.name == "smoke-part" and (found.selected["corruptions_mean"] == 0.5).sum() == 1
    assert recorded.all_probed("attacks", beside="laptop") == []
    assert recorded.all_probed("corruptions", beside="smoke-part") == []
    beside = tables.measured(live, {"accuracy": "accuracy"}, others=[found])
    assert list(beside.index) == list(VARIANTS)
    assert set(beside.loc["WideIB"]) == {tables.NOT_RUN} and tables.NOT_RUN not in set(beside.loc["IB"])


def test_runs_that_the_profile_no_longer_declares_are_an_error(live, monkeypatch):
    record(live)
    longer = dataclasses.replace(PROFILES["smoke"].train, epochs=5)
    monkeypatch.setitem(PROFILES, "smoke", dataclasses.replace(PROFILES["smoke"], train=longer))
    with pytest.raises(ValueError, match=r"8 of 8 recorded runs of profile smoke .* record it again"):
        recorded.recorded("smoke")


def test_files_of_different_recordings_are_an_error(live):
    folder = record(live)
    history = (folder / "history.csv").read_bytes()
    record(live, seeds=1)
    (folder / "history.csv").write_bytes(history)
    with pytest.raises(ValueError, match="belong to different runs"):
        recorded.recorded("smoke")


def test_a_failed_run_keeps_its_reason_and_is_not_selected(live, tmp_path):
    spec = live.specs[0]
    made = live.store.provenance(spec)
    (live.store.directory(run_key(spec)) / "result.json").unlink()  # which training never replaces
    end(live.store, spec, provenance=made, status="failed", reason="not finite", epoch=3)
    record(live)
    found = read()
    row = found.frame[found.frame["key"] == run_key(spec)].iloc[0]
    assert (row["status"], row["reason"]) == ("failed", "not finite") and pd.isna(row["readout_lost"])
    assert {type(lost) for lost in found.frame["readout_lost"].dropna()} == {bool}
    assert run_key(spec) not in set(found.selected["key"])


def test_where_it_was_run_is_told_and_a_dirty_commit_too(live):
    changed = {"commit": "0123456789ab", "dirty": True, "device": "Some GPU"}
    changed |= {"cohort_runs": 2, "cohort_seconds": 7200.0}
    altered(live.store, live.specs[0], provenance=changed)
    folder = record(live)
    made = json.loads((folder / "provenance.json").read_text())
    assert [entry["runs"] for entry in made["data"]] == [8] and len(made["code"]) == 2
    assert sum(entry["runs"] for entry in made["code"]) == made["runs"] == 8
    assert {entry["device"] for entry in made["machine"]} >= {"Some GPU"}
    others = [live.store.provenance(spec) for spec in live.specs[1:]]
    seconds = 3600 + sum(one["cohort_seconds"] / one["cohort_runs"] for one in others)
    assert made["run_seconds"] == pytest.approx(seconds, abs=0.06)
    row = recorded.summary().T["smoke"]
    assert "01234567 with local changes" in row["code"] and "Some GPU" in row["device"]
    assert row["runs finished"] == "8 of 40" and row["run-hours"] == "1.0"


def test_a_hundred_runs_are_well_under_a_megabyte(live):
    folder = record(live)
    rows, epochs = ((folder / name).read_text().splitlines() for name in ("runs.csv", "history.csv"))
    widest = [max(map(len, lines[1:])) for lines in (rows, epochs)]
    assert 100 * widest[0] + 40 * 17 * widest[1] < 800_000  # 40 of them selected, 17 records each


def test_runs_that_were_trained_again_are_the_selected_ones(tmp_path, rng, monkeypatch):
    again = dataclasses.replace(PROFILES["smoke"], name="again", architectures=TWO, retrain=True, seeds=(0,))
    monkeypatch.setitem(PROFILES, "again", again)
    store = RunStore(tmp_path / "runs")
    for spec in declared("again"):
        pretend(store, spec, rng)
    for spec in existing("again", store=store.root).retrainings:
        pretend(store, spec, rng)
    recorded.record(existing("again", store=store.root))
    found, back = existing("again", store=store.root), recorded.recorded("again")
    assert back is not None and back.selected["data.validation"].tolist() == [0, 0]
    assert back.selected["key"].tolist() == found.selected["key"].tolist()
    assert back.frame["key"].tolist() == found.frame["key"].tolist()
    assert len(back.history) == 4 and recorded.summary().T["again"]["runs finished"] == "4 of 4"


def beside(live, name):
    """Return the same runs as if recorded for another profile."""
    return recorded.Recorded(ABLATION, PROFILES[name], live.frame, live.selected, live.history, {})


def test_recorded_columns_stand_between_ours_and_the_papers(live):
    alone = tables.measured(live, COLUMNS, others=())
    assert alone.columns.tolist() == list(COLUMNS.values())
    found = [beside(live, "fashion-cpu"), beside(live, "paper-cifar10")]
    table = tables.beside_paper(live, COLUMNS, "sigma_w", others=found)
    assert [first for first, _ in table.columns] == [
        *["smoke (ours)"] * 3,
        "fashion-cpu (ours)",
        "paper-cifar10 (ours)",
        tables.REPORTED,
        tables.REPORTED_AND_RUN,
        tables.REPORTED,
    ]
    assert table["fashion-cpu (ours)", "ratio"].tolist() == alone["ratio"].tolist()
    assert table[tables.REPORTED_AND_RUN].columns.tolist() == ["CIFAR10"]
    mean, sd = paper.value("CIFAR10", "IB", "sigma_w")
    assert table[tables.REPORTED_AND_RUN, "CIFAR10"]["IB"] == "1.23e-12 ± 4.8e-13", (mean, sd)


def test_a_table_with_columns_of_its_own_goes_under_its_profile_and_nothing_changes_without_others(live):
    own = tables.measured(live, COLUMNS, others=()).loc[["NoPen", "IB"]]
    own.insert(0, "width", ["12", "8"])
    assert tables.beside_recorded(own, live, COLUMNS, others=()) is own
    table = tables.beside_recorded(own, live, COLUMNS, others=[beside(live, "fashion")])
    assert table["smoke (ours)", "width"].tolist() == ["12", "8"]
    assert table.index.tolist() == ["NoPen", "IB"]
    assert table["fashion (ours)", "ratio"].tolist() == own["ratio"].tolist()
    assert table["fashion (ours)"].columns.tolist() == ["ratio", "accuracy"], (
        "two columns of one, one of several"
    )


def test_ratios_and_the_names_of_profiles_have_recorded_ones_too(live):
    found = [beside(live, "fashion")]
    table = tables.ratios(live, "test_accuracy", "deepfool_relative_norm", others=found)
    ours, theirs = (table[f"{name} (ours)"]["ratio"].tolist() for name in ("smoke", "fashion"))
    assert ours == theirs and ours[list(table.index).index("NoPen")] == "1.00, 1.00"
    assert tables.profiles_of(live, others=found) == "smoke, fashion (recorded)"
    assert tables.profiles_of(live, others=[]) == "smoke"


def ledger_of(live, *names):
    return claims.ledger(live, others=[beside(live, name) for name in names])


def test_the_tally_counts_every_claim_once(live):
    table = ledger_of(live, "fashion-cpu")
    tally = scoreboard.tally(table)
    names = dict.fromkeys((*PROFILES, *BOTTLENECK_PROFILES, "no run"))
    judged = {claim.profile for claim in claims.read()}
    assert tally.index.tolist() == [name for name in names if name in judged or name == "no run"]
    assert tally.T["no run"].tolist() == [
        "CIFAR10, CIFAR100, SVHN", "3", "–", "2", "–", "3 not attempted",
    ]  # fmt: skip
    asked = sum(claim.profile == "fashion" and claim.kind == "claim" for claim in claims.read())
    assert tally.T["fashion"]["open"] == f"{asked} not attempted"
    own = table[(table["profile"] == "fashion-cpu") & (table["kind"] == "claim")]
    fashion = own["verdict"].value_counts()
    for mark, word in zip("✓◐✗?", (*WORDS[True], "undecided"), strict=True):
        assert tally.T["fashion-cpu"][mark] == str(fashion.get(word, "–"))


def test_alike_claims_stand_together_and_waiting_ones_apart(live):
    table = ledger_of(live, "fashion-cpu")
    shown = scoreboard.verdicts(table)
    at = shown["claim"].str.startswith("DeepFool needs a perturbation at least 10").tolist().index(True)
    first, second = (shown.iloc[place] for place in (at, at + 1))
    assert (first["runs"], first["in the paper"]) == ("digits (laptop)", "Table 2: 29 to 52 times")
    assert (second["runs"], second["claim"]) == ("Fashion-MNIST (fashion-cpu)", "the same")
    assert second["in the paper"] == "on a CPU subset"
    assert not shown["runs"].str.contains("(fashion)", regex=False).any()
    svhn = sum(claim.profile == "paper-svhn" for claim in claims.read())
    assert shown["runs"].str.contains("paper-svhn").sum() == svhn > 0, (
        "a claim on the paper's data stays in sight"
    )
    waiting = scoreboard.waiting(table)
    hidden = set(table["id"]) - set(table[~scoreboard.is_waiting(table)]["id"])
    profiles = {claim.profile for claim in claims.read() if claim.id in hidden}
    assert "fashion" in profiles and not any(name.startswith("paper-") for name in profiles)
    alike = {claim.like or claim.id for claim in claims.read() if claim.id in hidden}
    assert len(waiting) == len(alike) and waiting["profiles"].str.len().all()


def test_claims_of_a_page_are_side_by_side_only_where_several_profiles_judge_them(live):
    for alone in (ledger_of(live), ledger_of(live, "fashion-cpu")):
        assert scoreboard.styled(scoreboard.side_by_side(alone, "collapse")) is None
    shown = scoreboard.side_by_side(ledger_of(live, "fashion-cpu", "fashion", "paper-svhn"), "robustness")
    styled = scoreboard.styled(pd.DataFrame({"claim": ["a < b"]}), "caption")
    assert styled is not None and "&lt;" in styled.to_html()
    assert shown.columns.tolist() == ["holds at", "claim", "paper-svhn", "fashion-cpu", "fashion"]
    row = shown[shown["claim"].str.startswith("The collapse costs no accuracy")].iloc[0]
    assert row["fashion"] == row["fashion-cpu"] and row["fashion"][0] in "✓◐✗?" and row["paper-svhn"] == "–"
