"""What chapters need before they are executed, and which of it is trained and probed."""

import pytest

from experiments.publishing.executing import needs
from experiments.publishing.executing.needs import Asked, asked
from experiments.studies import ablation, probing
from lpc.specs import run_key

VALUES = {"profile": "smoke", "seeds": 1, "store": "runs"}


@pytest.mark.parametrize(
    ("reads", "valid"),
    [
        (["ablation"], True),
        (["bottlenecks", "ablation"], True),
        (["embedding", "stress"], True),
        (["gammas"], True),
        ([], True),
        (["stress"], False),
        (["bottlenecks", "stress"], False),
        (["embeddings"], False),
        ("gammas", False),
        ([["gammas"]], False),
        (None, False),
    ],
)
def test_a_header_names_runs_and_probes_only_of_runs(reads, valid):
    assert needs.valid(reads) is valid


def test_a_chapter_asks_for_its_profile_its_siblings_and_their_probes():
    assert asked(["ablation", "embedding", "gammas"], VALUES) == [
        Asked("ablation", "smoke", 1),
        Asked("ablation", "smoke-embedding", 1),
        Asked("ablation", "smoke-gammas", 1),
    ]
    assert asked(["gammas", "bottlenecks", "stress"], VALUES) == [
        Asked("ablation", "smoke-gammas", 1, probed=True),
        Asked("bottlenecks", "smoke", 1),
    ]
    assert asked(["ablation"], {"profile": "smoke"}) == []


def test_where_there_is_no_sibling_and_no_bottleneck_run_none_is_asked_for():
    values = {**VALUES, "profile": "paper-svhn"}
    assert asked(["embedding", "gammas", "bottlenecks"], values) == []
    assert asked(["ablation", "embedding"], values) == [Asked("ablation", "paper-svhn", 1)]


def test_a_chapter_beside_trains_siblings_of_the_profile_that_is_trained_with_the_book_alone():
    values = {**VALUES, "profile": "fashion", "beside": "laptop"}
    assert asked(["ablation", "embedding", "stress"], values) == [
        Asked("ablation", "fashion", 1),
        Asked("ablation", "laptop", None, probed=True),
        Asked("ablation", "fashion-embedding", 1, probed=True, made=False),
        Asked("ablation", "laptop-embedding", None, probed=True),
    ]
    live = {**values, "profile": "laptop", "seeds": 2}
    assert [one.profile for one in asked(["ablation", "gammas"], live)] == ["laptop", "laptop-gammas"]


def test_a_sibling_is_no_profile_of_a_chapter():
    with pytest.raises(ValueError, match="not made from profile smoke-gammas but from smoke"):
        asked(["gammas"], {**VALUES, "profile": "smoke-gammas"})


@pytest.fixture
def trained(monkeypatch):
    """Return, as text and in order, what would be trained and probed; nothing really is."""
    calls = []

    def note(kind, name, *, seeds, store):
        calls.append(f"{kind.name} {name} {seeds} {store.name}")

    monkeypatch.setattr("experiments.studies.study.Kind.study", note)

    def probe(studies):
        calls.append("probes " + ", ".join(f"{one.profile.name} {len(one.specs)}" for one in studies))

    monkeypatch.setattr(probing, "measure_each", probe)
    return calls


def test_all_is_trained_once_and_probed_after_that(trained, tmp_path, capsys):
    shown = {**VALUES, "profile": "fashion", "beside": "smoke", "seeds": None}
    chapters = [
        (("ablation",), VALUES),
        (("ablation", "gammas", "stress"), VALUES),
        (("gammas", "stress"), VALUES),
        (("embedding", "bottlenecks"), shown),
    ]
    needs.train(chapters, root=tmp_path)
    assert trained == [
        "ablation smoke 1 runs",
        "ablation smoke-gammas 1 runs",
        "ablation smoke-embedding None runs",
        "bottlenecks fashion None runs",
        "bottlenecks smoke None runs",
        "probes smoke 20, smoke-gammas 7",
    ]
    said = capsys.readouterr().err.splitlines()
    assert said[1] == "profile smoke-gammas: training 7 runs of the ablation"
    assert not any("probes" in line for line in said), "no run is selected yet"


def test_pages_depend_on_the_siblings_runs_and_on_probes_where_they_read_them(tmp_path):
    values = {**VALUES, "store": str(tmp_path)}
    (first, *_), (other, *_) = (ablation.declared(name) for name in ("smoke-gammas", "smoke"))
    for spec in (first, other):
        folder = tmp_path / "runs" / run_key(spec)
        folder.mkdir(parents=True)
        for name in ("result.json", "factor.probe", "factor.csv"):
            (folder / name).write_text("{}")

    def read(*kinds):
        found = needs.files(kinds, values, root=tmp_path)
        return {(path.parent.name[:8], path.name) for path in found}

    own, base = run_key(first)[:8], run_key(other)[:8]
    assert read("gammas") == {(own, "result.json")}
    assert read("gammas", "stress") == {(own, "result.json"), (own, "factor.probe")}
    assert read("ablation") == {(base, "result.json")}
    assert read("embedding", "stress") == set()
