"""Which chapter is made from which profile, in stores whose completeness is known."""

import threading
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from support import warm
from support.ended_runs import end
from support.warm_forks import warm_kernels as warm_kernels

from experiments.paths import ROOT
from experiments.publishing import build, header_footer
from experiments.publishing import (
    plan as pages,
)
from experiments.publishing.executing import execution
from experiments.publishing.executing.execution import execute
from experiments.publishing.executing.staleness import is_current, read_stamp
from experiments.publishing.places import Places
from experiments.studies import ablation, bottlenecks, probing, profiles
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.learning_rates import retrained
from lpc.specs import GAMMAS, run_key
from lpc.store import RunStore
from lpc.store.probes import Probe

PAPER = "paper-digits"
HEAD = """---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
{lpc}---

# {title}

```{{code-cell}} ipython3
:tags: [parameters]
{parameters}
```

```{{code-cell}} ipython3
{code}
```
"""
RUNS = 'profile = "laptop"\nseeds = None\nstore = "runs"'
BESIDE = f'{RUNS}\nbeside = "laptop"'
CHAPTERS = {
    "index": ("lpc: {needs: [ablation, bottlenecks]}\n", BESIDE),
    "collapse": ("", RUNS),
    "cost": ("lpc: {alone: true}\n", 'profile = "laptop"'),
    "errata": ("lpc: {live: true}\n", RUNS),
    "noise": ("lpc: {needs: [bottlenecks]}\n", RUNS),
    "quantities": ("", "seed = 0"),
}


class Book:
    """Chapters that print their parameters, and a store of runs that end as tests say."""

    def __init__(self, root: Path) -> None:
        self.places = Places(sources=root / "book", toc=root / "_toc.yml", output=root / "build")
        self.sources, self.store = self.places.sources, root / "store"
        self.sources.mkdir()
        self.write(CHAPTERS)

    def write(self, chapters: dict[str, tuple[str, str]], code: str = "print(dict(vars()).get('profile'))"):
        for path in self.sources.glob("*.md"):
            path.unlink()
        for name, (lpc, parameters) in chapters.items():
            text = HEAD.format(title=name, lpc=lpc, parameters=parameters, code=code)
            self.sources.joinpath(f"{name}.md").write_text(text)
        names = "".join(f"  - file: {name}\n" for name in chapters if name != "index")
        self.places.toc.write_text(
            "format: jb-book\nroot: index\n" + (f"chapters:\n{names}" if names else "")
        )

    def end(self, specs, *, status="finished", tested=False) -> None:
        """Write runs as ended; of the learning rates, the largest has the best validation accuracy."""
        store = RunStore(self.store)
        for spec in specs:
            values = {"status": status, "validation_accuracy": spec.train.learning_rate}
            end(store, spec, **values, validation_cross_entropy=1.0)
            if tested:
                store.save_test(spec, {"accuracy": 1.0})

    def plan(self, profile=PAPER, **options):
        found = pages.plan(profile, store=self.store, places=self.places, **{"beside": "smoke", **options})
        assert [page.chapter for page in found] == list(CHAPTERS), "every chapter, in the book's order"
        return {page.chapter: page for page in found}

    def lacking(self, profile=PAPER, **options):
        return pages.lacking(profile, store=self.store, **options)


@pytest.fixture
def made(tmp_path, monkeypatch, warm_kernels):
    """A profile like the paper's: two rates, two seeds, retrained, in the group ``paper``."""
    smoke = profiles.PROFILES["smoke"]
    small = replace(smoke, architectures=("IB", "LinPen"), learning_rates=(5e-3, 1e-2))
    longer = replace(small.train, epochs=small.train.epochs + 1)  # runs of its own
    monkeypatch.setitem(profiles.PROFILES, PAPER, replace(small, name=PAPER, train=longer, retrain=True))
    monkeypatch.setitem(profiles.PROFILES, "smoke", replace(small, seeds=(0,)))
    monkeypatch.setitem(profiles.GROUPS, "paper", (*profiles.GROUPS["paper"], PAPER))
    return Book(tmp_path)


def selected(profile=PAPER, seeds=None):
    """Return the runs that retrain the largest rate, which stores made by :meth:`Book.end` select."""
    rate = max(profiles.PROFILES[profile].learning_rates)
    return [
        retrained(one) for one in ablation.declared(profile, seeds=seeds) if one.train.learning_rate == rate
    ]


def test_a_profile_lacks_runs_then_retrainings_then_test_metrics_then_nothing(made):
    declared = ablation.declared(PAPER)
    assert len(declared) == 8
    made.end(declared[:-1])
    assert made.lacking() == f"1 of 8 runs of profile {PAPER} have not ended"
    made.end(declared[-1:], status="failed")
    assert made.lacking().startswith(f"4 of 4 selected runs of profile {PAPER} have not been retrained")
    chosen = ablation.existing(PAPER, store=made.store).retrainings
    made.end(chosen)
    assert made.lacking() == f"4 of 4 selected runs of profile {PAPER} have no test metrics"
    made.end(chosen, tested=True)
    assert made.lacking() == ""


def test_a_profile_whose_runs_all_failed_makes_no_page(made):
    made.end(ablation.declared(PAPER), status="failed")
    assert made.lacking() == f"all 8 runs of profile {PAPER} failed"
    with pytest.raises(ValueError, match=f"no chapter can be made from profile {PAPER}.*all 8 runs"):
        made.plan()


def test_runs_without_retraining_and_fewer_seeds_are_enough_where_they_are_what_is_asked_for(made):
    made.end(ablation.declared(PAPER, seeds=1))
    made.end(selected(seeds=1), tested=True)
    assert made.lacking(seeds=1) == ""
    assert made.lacking() == f"4 of 8 runs of profile {PAPER} have not ended"
    made.end(ablation.declared("smoke"))
    assert made.lacking("smoke") == "2 of 2 selected runs of profile smoke have no test metrics"


def test_each_chapter_is_made_from_the_profile_whose_runs_are_there(made):
    made.end(ablation.declared(PAPER))
    made.end(selected(), tested=True)
    found = made.plan(seeds=2)
    assert {name: page.profile for name, page in found.items()} == {
        "index": PAPER,
        "collapse": PAPER,
        "cost": "smoke",
        "errata": "smoke",
        "noise": "smoke",
        "quantities": None,
    }
    store = str(made.store)
    assert found["index"].values == {"profile": PAPER, "seeds": 2, "store": store, "beside": "smoke"}
    assert found["noise"].values == {"profile": "smoke", "seeds": None, "store": store}
    assert found["cost"].values == {"profile": "smoke"} and found["quantities"].values == {"seed": 0}
    assert "trains networks itself" in found["errata"].why and "no sizes" in found["cost"].why
    total = len(bottlenecks.declared("paper"))
    assert "of profile paper have not ended" in found["noise"].why
    assert pages.told(list(found.values())).splitlines()[0] == f"from profile {PAPER}: index, collapse"
    made.end(bottlenecks.declared("paper"), status="failed")
    assert made.plan()["noise"].why == f"all {total} runs of profile paper failed"


def test_bottleneck_chapters_take_the_runs_of_the_group_and_only_those_of_the_whole_group(made, monkeypatch):
    monkeypatch.setitem(
        BOTTLENECK_PROFILES, "paper", replace(BOTTLENECK_PROFILES["smoke"], name="paper", meeting=0)
    )
    runs = bottlenecks.declared("paper")
    made.end(ablation.declared(PAPER))
    made.end(selected(), tested=True)
    made.end(runs[1:])
    found = made.plan()
    assert found["noise"].why == f"1 of {len(runs)} runs of profile paper have not ended"
    made.end(runs[:1])
    found = made.plan()
    assert (found["noise"].profile, found["noise"].why) == ("paper", "")
    assert found["index"].profile == PAPER, "a chapter about both halves has the profile of the ablation"
    alone = made.plan("paper")
    assert {name: page.profile for name, page in alone.items() if name in ("index", "noise")} == {
        "index": "smoke",
        "noise": "paper",
    }


def test_a_profile_with_bottleneck_runs_of_its_own_needs_them_where_a_chapter_reads_both(made, monkeypatch):
    own = replace(BOTTLENECK_PROFILES["smoke"], name=PAPER, meeting=0)
    monkeypatch.setitem(BOTTLENECK_PROFILES, PAPER, own)
    made.end(ablation.declared(PAPER))
    made.end(selected(), tested=True)
    found = made.plan()
    assert found["collapse"].profile == PAPER
    assert found["index"].profile == "smoke" and "have not ended" in found["index"].why
    made.end(bottlenecks.declared(PAPER))
    assert made.plan()["index"].profile == PAPER


def test_a_profile_that_is_trained_with_the_book_makes_all_of_it_before_any_run_is_there(made):
    found = made.plan("smoke", beside="laptop")
    assert {name: page.profile for name, page in found.items()} == {
        **dict.fromkeys(CHAPTERS, "smoke"),
        "quantities": None,
    }
    assert {page.why for page in found.values()} == {""}


def test_where_no_chapter_is_of_the_profile_there_is_no_book(made):
    made.end(ablation.declared(PAPER)[:3])
    with pytest.raises(ValueError, match=r"5 of 8 runs .* have not ended; train and measure them first"):
        made.plan()
    with pytest.raises(ValueError, match=r"declares no|have not ended.*--study bottlenecks --profile paper"):
        made.plan("paper")


def test_names_that_are_not_profiles_are_refused(made):
    with pytest.raises(ValueError, match=f"unknown profile 'paper-digts'. Did you mean {PAPER}"):
        made.plan("paper-digts")
    with pytest.raises(ValueError, match=r"unknown profile for the remaining chapters.*'fashion'"):
        made.plan(beside="fashion")


def with_siblings(monkeypatch):
    """Give the made profile, and the one beside it, a sibling of two gammas."""
    two = ("gamma0", "gamma10")
    for name in (PAPER, "smoke"):
        own = replace(profiles.PROFILES[name], variants=GAMMAS, architectures=two, learning_rates=(1e-2,))
        monkeypatch.setitem(profiles.PROFILES, f"{name}-gammas", replace(own, name=f"{name}-gammas"))


SWEEP = {
    **CHAPTERS,
    "sweep": ("lpc: {needs: [gammas]}\n", RUNS),
    "deepfool": ("lpc: {needs: [ablation, gammas, stress]}\n", RUNS),
    "embedding": ("lpc: {needs: [embedding]}\n", RUNS),
    "index": ("lpc: {needs: [ablation, bottlenecks, embedding, gammas, stress]}\n", BESIDE),
}


class TestSiblings:
    @pytest.fixture
    def found(self, made, monkeypatch):
        with_siblings(monkeypatch)
        made.write(SWEEP)

        def plan(profile=PAPER):
            options = {"beside": "smoke", "store": made.store, "places": made.places}
            return {page.chapter: page for page in pages.plan(profile, **options)}

        return plan

    def test_a_chapter_about_gammas_is_made_from_the_sibling_once_that_is_complete(self, made, found):
        made.end(ablation.declared(f"{PAPER}-gammas"))
        with pytest.raises(ValueError, match="no chapter can be made"):
            found()
        made.end(selected(f"{PAPER}-gammas"), tested=True)
        told = found()
        assert (told["sweep"].profile, told["sweep"].why) == (PAPER, "")
        assert told["deepfool"].profile == told["index"].profile == "smoke"
        assert told["embedding"].why == f"profile {PAPER} has no sibling {PAPER}-embedding"
        assert told["sweep"].values["profile"] == PAPER, "chapters have the plain profile's name"

    def test_the_ledger_is_not_kept_from_a_profile_by_its_siblings_and_probes(self, made, found, monkeypatch):
        monkeypatch.setattr(
            probing, "PROBES", {"factor": probing.ProbeKind(1, "nowhere:probe", ("ablation",))}
        )
        made.end(ablation.declared(PAPER))
        made.end(selected(), tested=True)
        told = found()
        assert told["index"].profile == told["collapse"].profile == PAPER
        assert told["sweep"].why == f"4 of 4 runs of profile {PAPER}-gammas have not ended"
        made.end(ablation.declared(f"{PAPER}-gammas"))
        made.end(selected(f"{PAPER}-gammas"), tested=True)
        told = found()
        assert told["sweep"].profile == PAPER
        assert told["deepfool"].why == f"4 probes of the selected runs of profile {PAPER} are missing"
        store = RunStore(made.store)
        for spec in selected():
            store.save_probe(spec, "factor", Probe({"median": 1.0}), version=1)
        assert found()["deepfool"].profile == PAPER

    def test_siblings_of_a_profile_that_is_trained_with_the_book_need_not_be_there(self, found):
        assert {page.profile for page in found("smoke").values()} == {"smoke", None}
        assert found("smoke")["sweep"].why == found("smoke")["deepfool"].why == ""

    def test_a_sibling_has_no_book_of_its_own(self, made, found):
        with pytest.raises(ValueError, match=f"not made from profile {PAPER}-gammas but from {PAPER},"):
            found(f"{PAPER}-gammas")
        with pytest.raises(
            ValueError, match=r"for the remaining chapters.*'smoke-gammas'.*Known: smoke, lap"
        ):
            made.plan(beside="smoke-gammas")

    def test_the_foot_tells_of_the_profile_and_of_the_sibling_that_a_page_reads(self, found):
        text = header_footer.numbers(
            {"parameters": {"profile": "laptop", "store": "runs"}, "needs": ["gammas", "stress"]}
        )
        assert profiles.PROFILES["laptop"].summary in text
        assert profiles.PROFILES["laptop-gammas"].summary in text
        assert profiles.PROFILES["laptop-embedding"].summary not in text


def test_make_executes_each_chapter_with_its_profile_and_trains_only_beside(made, monkeypatch, capsys):
    made.write({name: CHAPTERS[name] for name in ("index", "collapse", "errata", "quantities")})
    index = made.sources / "index.md"
    index.write_text(index.read_text().replace("[ablation, bottlenecks]", "[ablation]"))
    made.end(ablation.declared(PAPER))
    made.end(selected(), tested=True)
    before = {path: path.stat().st_mtime_ns for path in made.store.glob("runs/*/*.json")}
    built = {}
    monkeypatch.setattr(
        pages, "build", lambda inserted, to, *, whole: built.update(inserted, to=to, whole=whole) or "first"
    )
    monkeypatch.setattr(execution, "default_workers", lambda: 1)  # other processes know no such profile
    shown = []
    monkeypatch.setattr(pages.preview, "LONG", 0.0)  # as if the smoke profile took minutes to train
    monkeypatch.setattr(
        pages.preview, "show", lambda to, _: shown.append({one.stem for one in to.notebooks.glob("*.ipynb")})
    )
    assert pages.make(PAPER, beside="smoke", store=made.store, places=made.places) == "first"
    printed = {}
    for name in ("index", "collapse", "errata", "quantities"):
        cells = nbformat.read(made.places.notebooks / f"{name}.ipynb", as_version=4).cells
        printed[name] = "".join(out["text"] for cell in cells for out in cell.get("outputs", []))
    own = dict.fromkeys(("index", "collapse"), f"{PAPER}\n")
    assert printed == {**own, "errata": "smoke\n", "quantities": "None\n"}
    assert built["profile"] == PAPER and built["to"] == made.places
    assert built["whole"], "every claim of the ledger has to be shown"
    assert shown == [{"quantities"}, {"quantities", "collapse"}], "what waits for least comes first"
    new = {path.parent.name for path in made.store.glob("runs/*/result.json") if path not in before}
    assert new == {run_key(one) for one in ablation.declared("smoke")}, "no run of the profile was trained"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    said = capsys.readouterr().err
    assert f"from profile {PAPER}: index, collapse\n" in said
    assert "from profile smoke: errata (it trains networks itself" in said


def test_a_page_made_beside_says_so(made):
    values = {"profile": "paper-cifar10", "store": "runs", "beside": "laptop"}
    stamp = {"parameters": values, "needs": ["ablation"]}
    assert "from the profile *laptop*" in header_footer.numbers(stamp)
    for changed in ({"profile": "smoke"}, {"beside": None}):
        kept = {key: value for key, value in {**values, **changed}.items() if value is not None}
        assert "*laptop*" not in header_footer.numbers({**stamp, "parameters": kept})


def test_one_notebook_with_the_stamp_of_another_is_not_current_and_not_staged(made, tmp_path):
    made.write({"index": ("", "number = 1")}, code="print(number)")
    first, second = (replace(made.places, output=tmp_path / str(number)) for number in (1, 2))
    for number, places in enumerate((first, second), 1):
        execute(values={"number": number}, places=places)
    assert is_current("index", {"number": 1}, first)
    (second.notebooks / "index.ipynb").replace(first.notebooks / "index.ipynb")
    assert not is_current("index", {"number": 1}, first)
    assert not is_current("index", {"number": 2}, first)
    with pytest.raises(build.BuildError, match=r"no index\.ipynb with index\.json from the same execution"):
        build.stage(tmp_path / "stage", {}, first)


EXECUTES = """
import sys
from pathlib import Path
from experiments.publishing.executing.execution import execute
from experiments.publishing.places import Places
root = Path(sys.argv[1])
places = Places(sources=root / "book", toc=root / "_toc.yml", output=root / "build")
execute(values={"number": int(sys.argv[2])}, places=places, workers=1)
"""


def test_two_processes_that_execute_into_one_folder_leave_a_pair_or_none(made):
    made.write({"index": ("", "number = 1")}, code="print(number)")
    notebooks = made.places.notebooks
    given = ("-c", EXECUTES, made.places.toc.parent)
    with warm.begin(*given, 1, cwd=ROOT) as first, warm.begin(*given, 2, cwd=ROOT) as second:
        assert first.wait() == second.wait() == 0, first.err + second.err
    assert sorted(path.name for path in notebooks.iterdir()) == ["index.ipynb", "index.json"]
    stamp = read_stamp("index", made.places)
    if stamp is not None:
        cells = nbformat.read(notebooks / "index.ipynb", as_version=4).cells
        outputs = [out["text"] for cell in cells for out in cell.get("outputs", [])]
        assert outputs == [f"{stamp['parameters']['number']}\n"]


def test_builds_that_are_promoted_at_once_leave_one_of_them_whole(tmp_path):
    places, failed = [], []
    for name in range(8):
        folder = tmp_path / f".building-{name}"
        (folder / "made").mkdir(parents=True)
        for file in ("index.html", "search.html"):
            (folder / "made" / file).write_text(str(name))
        places.append(folder)
    together = threading.Barrier(len(places))

    def promote(folder: Path) -> None:
        together.wait()
        try:
            build.promote(folder / "made", tmp_path / "html", aside=folder)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=promote, args=(folder,)) for folder in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    pages_there = {path.name: path.read_text() for path in (tmp_path / "html").iterdir()}
    assert set(pages_there) == {"index.html", "search.html"} and len(set(pages_there.values())) == 1
