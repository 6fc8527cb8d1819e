import importlib.util
import json
import multiprocessing
import os
import signal

import pandas as pd
import pytest
from support.warm_forks import fork_workers

from experiments.reporting import declarations
from experiments.studies import ablation, probing, recorded
from experiments.studies.probing import PROBES, ProbeError, ProbeKind, measure_all, measure_each
from experiments.studies.profiles import PROFILES
from lpc.computing.stopping import Stopped
from lpc.runs import measurements
from lpc.store import RunStore
from lpc.store.probes import Probe

HERE = __name__


def weigh(model, splits):
    """A quick probe: the sum of all weights, and one row per image."""
    assert not model.training and len(splits.test)
    total = sum(float(part.double().sum()) for part in model.state_dict().values())
    table = pd.DataFrame({"image": [0, 1], "third": [1 / 3, float("inf")]})
    return Probe({"sum": total, "none": None, "missing": {"none": "there is none"}}, table)


def fail(model, splits):
    raise RuntimeError("no luck")


def slow(model, splits):
    os.kill(os.getpid(), signal.SIGINT)  # while it runs, on any machine
    return Probe({"one": 1})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(measurements, "ATTACKED_IMAGES", 5)
    folder = tmp_path_factory.mktemp("store")
    ablation.study("smoke", seeds=2, only=("IB", "NoPen"), store=folder, workers=1, progress=False)
    patch.undo()
    return folder


@pytest.fixture
def study(store, monkeypatch):
    """The runs, with one probe that has not been made."""
    for path in (*store.glob("runs/*/*.probe"), *store.glob("runs/*/weigh.csv")):
        path.unlink()
    use(monkeypatch, weigh=ProbeKind(1, f"{HERE}:weigh"))
    return again(store)


def use(monkeypatch, **kinds):
    monkeypatch.setattr(probing, "PROBES", kinds)


def again(store):
    return ablation.existing("smoke", seeds=2, only=("IB", "NoPen"), store=store)


def do_in_worker(job, device):
    """Do what a worker does: it imports the book's probes, not those of this test."""
    assert multiprocessing.parent_process() is not None
    probing.PROBES = {"weigh": ProbeKind(1, f"{HERE}:weigh"), "fail": ProbeKind(1, f"{HERE}:fail")}
    DO(job, device)


DO = probing.do


def test_what_a_probe_finds_stands_beside_the_selected_runs(study):
    assert "weigh_sum" not in study.selected and study.probe_table("weigh") is None
    found = measure_all(study, workers=1, progress=False)
    assert len(found.selected) == 4 and found.selected["key"].tolist() == study.selected["key"].tolist()
    for row in found.selected.itertuples():
        weights = found.store.load_weights(found.store.spec(row.key))
        expected = sum(float(part.double().sum()) for part in weights.values())
        assert row.weigh_sum == pytest.approx(expected, rel=1e-12)
    assert found.selected["weigh_none"].isna().all() and "weigh_missing" not in found.selected
    assert len(found.frame.columns) == len(study.frame.columns), "runs that were not selected have no probes"
    table = found.probe_table("weigh")
    assert (
        table is not None
        and table.columns.tolist() == ["key", "architecture", "seed", "image", "third"]
        and len(table) == 8
    )
    assert table["third"].tolist() == pytest.approx([1 / 3, float("inf")] * 4, rel=1e-15)
    assert table["key"].drop_duplicates().tolist() == found.selected["key"].tolist()


def test_what_is_there_is_not_probed_again_and_another_version_is(study, store, monkeypatch):
    measure_all(study, workers=1, progress=False)
    stamps = {path: path.stat().st_mtime_ns for path in store.glob("runs/*/weigh.probe")}
    assert len(stamps) == 4
    assert probing.missing(again(store)) == []
    measure_all(again(store), workers=1, progress=False)
    assert stamps == {path: path.stat().st_mtime_ns for path in store.glob("runs/*/weigh.probe")}
    use(monkeypatch, weigh=ProbeKind(2, f"{HERE}:weigh"))
    other = again(store)
    assert "weigh_sum" not in other.selected and other.probe_table("weigh") is None
    assert len(probing.missing(other)) == 4
    assert "weigh_sum" in measure_all(other, workers=1, progress=False).selected
    assert json.loads(next(iter(stamps)).read_text())["version"] == 2


def test_runs_of_several_studies_are_probed_in_one_go_and_each_once(study, store, monkeypatch):
    done = []
    monkeypatch.setattr(probing, "do", lambda job, device: (done.append(job), DO(job, device)))
    some = ablation.existing("smoke", seeds=2, only=("IB",), store=store)
    first, second = measure_each([some, study], workers=1, progress=False)
    wanted = dict.fromkeys([*some.selected["key"], *study.selected["key"]])
    assert [job.key for job in done] == list(wanted) and len(wanted) == 4
    for found in (first, second):
        assert found.selected["weigh_sum"].notna().all() and len(found.selected)
    assert measure_each([], progress=False) == []


def test_some_runs_can_be_probed_alone_and_the_others_are_missing(study, store):
    measure_all(ablation.existing("smoke", seeds=1, only=("IB",), store=store), workers=1, progress=False)
    selected = again(store).selected.set_index(["architecture", "seed"])["weigh_sum"]
    assert selected.notna().to_dict() == {
        ("IB", 0): True, ("IB", 1): False, ("NoPen", 0): False, ("NoPen", 1): False,
    }  # fmt: skip
    table = again(store).probe_table("weigh")
    assert table is not None and set(table["architecture"]) == {"IB"}


def test_a_probe_that_takes_long_is_made_of_the_usual_runs_unless_of_all(study, store, monkeypatch):
    use(monkeypatch, weigh=ProbeKind(1, f"{HERE}:weigh", usual=("NoPen",)))
    usual = {key for key, _ in probing.missing(study)}
    assert usual == set(study.selected.loc[study.selected["architecture"] == "NoPen", "key"])
    assert {key for key, _ in probing.missing(study, usual=False)} == set(study.selected["key"])
    assert {key for key, _ in probing.missing(study, ["weigh"])} == usual, "as chapters name probes"
    use(monkeypatch, weigh=ProbeKind(1, f"{HERE}:weigh", usual=("NoPen",), usual_seeds=1))
    assert len(probing.missing(study)) == 1 and len(probing.missing(study, usual=False)) == 4


def test_the_usual_attacks_are_on_networks_that_claims_are_about():
    judged = [claim for claim in declarations.read() if str(claim.metric).startswith("attacks_")]
    assert judged and all({*claim.of, *claim.over} <= set(PROBES["attacks"].usual or ()) for claim in judged)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_probe_and_run_and_the_others_are_kept(study, store, monkeypatch, workers):
    use(monkeypatch, weigh=ProbeKind(1, f"{HERE}:weigh"), fail=ProbeKind(1, f"{HERE}:fail"))
    if workers > 1:
        monkeypatch.setattr(probing, "do", do_in_worker)
        fork_workers(monkeypatch, probing)
    with pytest.raises(ProbeError, match=r"probe fail of (IB|NoPen), seed \d: RuntimeError: no luck"):
        measure_all(again(store), workers=workers, progress=False)
    assert again(store).selected["weigh_sum"].notna().all() and not list(store.glob("runs/*/fail.probe"))


def test_a_signal_stops_after_the_run_under_way(study, store, monkeypatch, capsys):
    use(monkeypatch, slow=ProbeKind(1, f"{HERE}:slow"))
    with pytest.raises(Stopped, match="call again to continue"):
        measure_all(again(store), workers=1, progress=False)
    assert "SIGINT: stopping after the runs under way" in capsys.readouterr().err
    assert len(list(store.glob("runs/*/slow.probe"))) == 1
    assert len(probing.missing(again(store))) == 3


def test_probes_are_about_families_of_runs(study, monkeypatch):
    studies = {"a": ("ablation",), "b": ("gammas", "ablation"), "c": ("embedding",)}
    use(monkeypatch, **{name: ProbeKind(1, "m:f", about) for name, about in studies.items()})
    assert probing.applicable("laptop") == ["a", "b"]
    assert probing.applicable("laptop-gammas") == ["b"] and probing.applicable("laptop-embedding") == ["c"]
    assert probing.applicable("paper-cifar10") == ["a", "b"] and probing.applicable("laptop", ["b", "c"]) == [
        "b"
    ]
    with pytest.raises(ValueError, match="'d'"):
        probing.applicable("laptop", ["d"])
    with pytest.raises(ValueError, match="'d'"):
        study.probe_table("d")


def test_a_missing_extra_is_named_with_what_to_install(study, store, monkeypatch):
    use(monkeypatch, weigh=ProbeKind(1, f"{HERE}:weigh", extra="attacks"))
    monkeypatch.setattr(
        probing.importlib.util, "find_spec", lambda name: None if name == "foolbox" else importlib.util
    )
    with pytest.raises(ValueError, match=r"probe weigh needs foolbox, .* extra 'attacks': pip install"):
        measure_all(again(store), workers=1, progress=False)
    assert not list(store.glob("runs/*/weigh.probe"))


def test_every_probe_of_the_book_is_a_function_of_model_and_images():
    for name, kind in PROBES.items():
        assert name.isidentifier() and kind.version >= 1 and callable(kind.function)
        assert set(kind.studies) <= {probing.family(one) for one in PROFILES} and kind.studies
        assert kind.extra is None or kind.extra in probing.EXTRAS


def test_probes_of_runs_that_have_not_begun_are_refused(tmp_path):
    spec = ablation.declared("smoke", seeds=1, only=("IB",))[0]
    with pytest.raises(ValueError, match="a run that has begun"):
        RunStore(tmp_path).save_probe(spec, "weigh", Probe({}), version=1)
    RunStore(tmp_path).begin([spec])
    with pytest.raises(ValueError, match="identifier"):
        RunStore(tmp_path).save_probe(spec, "a/b", Probe({}), version=1)


def test_a_probe_cut_short_is_named(study, store):
    measure_all(study, workers=1, progress=False)
    path = next(iter(sorted(store.glob("runs/*/weigh.probe"))))
    path.write_text('{"version": 1, "val')
    with pytest.raises(ValueError, match=r"weigh\.probe is not whole JSON"):
        _ = again(store).selected


def test_probes_are_recorded_with_the_runs_and_old_versions_are_left_out(study, store, monkeypatch, tmp_path):
    monkeypatch.setattr(recorded, "RESULTS", tmp_path)
    monkeypatch.setattr(recorded, "PROBES", probing.PROBES)
    one = ablation.existing("smoke", seeds=1, only=("IB",), store=store)
    found = measure_all(one, workers=1, progress=False).selected.set_index("key")["weigh_sum"]
    recorded.record(ablation.existing("smoke", store=store, only=("IB", "NoPen")))
    (made,) = json.loads((recorded.RESULTS / "smoke" / "provenance.json").read_text())["probes"]["weigh"]
    assert made["runs"] == 1 and made["device"] == "cpu" and made["versions"]["torch"]
    assert made["commit"] is None or len(made["commit"]) == 40
    back = recorded.recorded("smoke")
    assert back is not None and len(back.selected) == 4
    kept = back.selected.set_index("key")["weigh_sum"].dropna()
    assert kept.to_dict() == found.to_dict(), "to the bit, and missing where nothing was probed"
    table = back.probe_table("weigh")
    assert table is not None and table["architecture"].tolist() == ["IB", "IB"]
    assert table["third"].tolist() == pytest.approx([1 / 3, float("inf")], rel=1e-5)
    assert back.probe_table("other") is None
    for rows, tabled in ((2, ("IB", "NoPen")), (0, ("NoPen",)), (0, ())):
        use(monkeypatch, weigh=ProbeKind(1, f"{HERE}:weigh", tabled=tabled))
        monkeypatch.setattr(recorded, "PROBES", probing.PROBES)
        recorded.record(ablation.existing("smoke", store=store, only=("IB", "NoPen")))
        again_ = recorded.recorded("smoke")
        assert (
            again_ is not None
            and again_.selected.set_index("key")["weigh_sum"].dropna().to_dict() == found.to_dict()
        )
        table = again_.probe_table("weigh")
        assert (0 if table is None else len(table)) == rows
        assert (tmp_path / "smoke" / "weigh.csv").exists() == bool(rows)
    use(monkeypatch, weigh=ProbeKind(2, f"{HERE}:weigh"))
    later = recorded.recorded("smoke")
    assert later is not None and "weigh_sum" not in later.selected and later.probe_table("weigh") is None
    recorded.record(ablation.existing("smoke", store=store, only=("IB", "NoPen")))
    assert not (tmp_path / "smoke" / "weigh.csv").exists()
