import math
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t, ttest_ind
from support import ended_runs

from experiments.chapters.deepfool.links import gamma_of
from experiments.paths import BOOK
from experiments.reporting import claims, paper, tables
from experiments.reporting.claims import ClaimMismatch
from experiments.reporting.declarations import Claim
from experiments.reporting.intervals import interval
from experiments.reporting.scoreboard import side_by_side
from experiments.studies import ablation
from experiments.studies.ablation import ABLATION
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.profiles import PAGED, PROFILES
from experiments.studies.recorded import Recorded
from lpc.specs import GAMMAS
from lpc.store import RunStore


@pytest.fixture(autouse=True)
def nothing_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr("experiments.studies.recorded.RESULTS", tmp_path / "results")


def study(name="laptop", **columns) -> Any:
    """Return three seeds of IB, LinPen and NoPen with the given values, as chapters see them."""
    rows = [
        {"architecture": architecture, "seed": seed, **{c: v[architecture][seed] for c, v in columns.items()}}
        for architecture in ("IB", "LinPen", "NoPen")
        for seed in range(3)
    ]
    frame = pd.DataFrame(rows)
    nowhere = SimpleNamespace(root="no such folder")
    seeds = [SimpleNamespace(seed=seed) for seed in range(3)]
    return SimpleNamespace(
        kind=ABLATION,
        profile=SimpleNamespace(name=name, variants=PROFILES[name].variants),
        specs=seeds,
        selected=frame,
        frame=frame,
        store=nowhere,
    )


VALUES = {"IB": [1.0, 2.0, 3.0], "LinPen": [20.0, 50.0, 60.0], "NoPen": [2.0, 4.0, math.nan]}
CLAIM = Claim(
    id="some_claim",
    where="Table 1",
    dataset="digits",
    statement="",
    paper="",
    profile="laptop",
    chapter="collapse",
    quantity="ratio",
    metric="trace_ratio",
    of=("LinPen",),
    over=("IB",),
    holds=(20, math.inf),
    partly=(3, 20),
)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [20.0, 25.0, 20.0]),
        ({"quantity": "difference"}, [19.0, 48.0, 57.0]),
        ({"quantity": "value"}, [20.0, 50.0, 60.0]),
        ({"quantity": "value", "of": ("NoPen",)}, [2.0, 4.0]),
        ({"quantity": "lead", "over": ("IB", "NoPen")}, [18.0, 46.0]),
        ({"quantity": "lead", "of": ("IB",), "over": ("LinPen", "NoPen"), "sign": "smaller"}, [1.0, 2.0]),
        ({"metric": "no_such_column"}, []),
        ({"of": ("WideIB",)}, []),
        ({"quantity": "value", "per": "epochs"}, [2.0, 5.0, 6.0]),
    ],
)
def test_quantities_are_paired_by_seed_and_leave_missing_values_out(changed, expected):
    chosen = study(trace_ratio=VALUES, epochs={name: [10, 10, 10] for name in VALUES})
    assert claims.quantities(replace(CLAIM, **changed), chosen.selected) == pytest.approx(expected)


def test_welch_is_scipys_with_the_sign_of_the_difference():
    chosen = study(trace_ratio=VALUES)
    p = ttest_ind(VALUES["IB"], VALUES["LinPen"], equal_var=False).pvalue
    claim = replace(CLAIM, quantity="welch", of=("IB",), over=("LinPen",))
    assert claims.quantities(claim, chosen.selected) == pytest.approx([-p])
    other = replace(claim, of=("LinPen",), over=("IB",))
    assert claims.quantities(other, chosen.selected) == pytest.approx([p])


@pytest.mark.parametrize(
    ("values", "dataset", "word"),
    [
        ([25.0, 26.0, 27.0], "digits", "holds here"),
        ([8.0, 9.0, 10.0], "digits", "holds in part"),
        ([1.0, 1.01, 1.02], "digits", "does not hold here"),
        ([25.0, 26.0, 27.0], "CIFAR10", "reproduced"),
        ([8.0, 9.0, 10.0], "SVHN", "partly reproduced"),
        ([2.0, 3.0, 4.0], "CIFAR100", "not reproduced"),
        ([15.0, 25.0, 30.0], "CIFAR10", "undecided"),
        ([25.0], "digits", "undecided"),
        ([], "digits", "not attempted"),
    ],
)
def test_the_verdict_is_of_the_whole_interval(values, dataset, word):
    assert claims.verdict(replace(CLAIM, dataset=dataset), values) == word


def test_the_committed_ledger_reads_and_covers_every_profile():
    ledger = claims.read()
    assert len({claim.id for claim in ledger}) == len(ledger) > 90
    by_profile = Counter(claim.profile for claim in ledger)
    on_digits = ("meeting", "deepfool", "embedding")  # of digits alone
    probed = ("attacks_", "corruptions_")  # of profiles of their own elsewhere
    by_chapter = Counter(
        claim.profile
        for claim in ledger
        if claim.chapter not in on_digits and not claim.metric.startswith(probed)
    )
    assert by_chapter["laptop"] == by_chapter["fashion-cpu"] == by_chapter["fashion"] >= 50
    assert set(by_profile) <= {*PROFILES, *BOTTLENECK_PROFILES, "none"} - {"smoke"}
    assert set(by_profile) >= {*PAGED, *BOTTLENECK_PROFILES, "none"} - {"smoke"}


def test_fashion_rows_keep_the_quantities_of_the_digits_rows_but_not_their_verdicts():
    ledger = {claim.id: claim for claim in claims.read()}
    for claim in ledger.values():
        if claim.dataset == "Fashion-MNIST" and claim.like is not None:  # others are about it alone
            digits = ledger[claim.like]
            own = ["quantity", "metric", "over", "sign", "paper", "chapter"]
            if claim.profile == "fashion-cpu-gammas":  # the last gamma of the sweep that its budget carries
                carried = PROFILES[claim.profile].train.gamma_maximum
                kept = [name for name in GAMMAS if (GAMMAS[name].gamma_maximum or 0) <= carried]
                assert claim.of == (kept[-1],) and gamma_of(kept[-1]) == 10
            else:
                own.append("of")
            assert all(getattr(claim, name) == getattr(digits, name) for name in own)
            same = claim.holds == digits.holds
            assert same or [end * claim_epochs(digits) for end in claim.holds] == list(digits.holds)
            assert claim.words[0] == "holds here"


def test_a_claim_is_one_over_profiles_and_another_beside_one_of_its_own():
    table = claims.ledger(study())
    same = table.set_index("id")["same"]
    assert not table.duplicated(["same", "profile"]).any()
    assert same["attacks_smallest_fashion_cpu"] == same["attacks_smallest_svhn"] == "attacks_smallest"
    assert (
        same["attacks_smallest_wide"] == same["attacks_smallest_wide_fashion_cpu"] == "attacks_smallest_wide"
    )
    judged = table[table["id"].str.startswith("corrupted")].assign(verdict="holds here")
    judged["measured"] = judged["id"]
    shown = side_by_side(judged, "robustness")
    assert shown["laptop"].tolist() == ["✓ corrupted", "✓ corrupted_wide"]
    assert shown["fashion-cpu-attacked"].tolist() == [
        "✓ corrupted_fashion_cpu",
        "✓ corrupted_wide_fashion_cpu",
    ]
    assert shown["fashion"].tolist() == ["✓ corrupted_fashion", "–"]


def claim_epochs(claim):
    return PROFILES[claim.profile].train.epochs


@pytest.mark.parametrize(
    ("claim", "dataset"), [("robust", d) for d in paper.DATASETS] + [("accuracy", "SVHN")]
)
def test_tolerances_on_the_papers_data_are_half_of_what_is_printed(claim, dataset):
    row = next(c for c in claims.read() if c.id == f"{claim}_{dataset.lower()}")
    if claim == "robust":
        ib, base = (paper.value(dataset, name, "deepfool_relative_norm")[0] for name in ("IB", "NoPen"))
        assert row.holds[0] == pytest.approx(round(ib / base) / 2)
    else:
        ib, base = (paper.value(dataset, name, "test_accuracy_percent")[0] for name in ("IB", "NoPen"))
        assert row.holds[0] == pytest.approx((ib - base) / 100 / 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('wher = "x"', ["wher", "where", "some_claim"]),
        ('quantity = "ration"', ["ration", "ratio"]),
        ('of = ["LinPenn"]', ["LinPenn", "LinPen"]),
        ('prose = "reproduced"', ["reproduced", "holds here", "undecided"]),
        ('kind = "chek"', ["chek", "check", "some_claim"]),
        ('written = "befor"', ["befor", "before", "some_claim"]),
        ('profile = "fashon"', ["fashon", "fashion", "some_claim"]),
        ('like = "no_claim"', ["no_claim", "some_claim", "earlier claim"]),
    ],
)
def test_a_bad_ledger_is_named(tmp_path, line, words):
    good = {
        "id": "some_claim",
        "where": "w",
        "dataset": "digits",
        "statement": "s",
        "paper": "p",
        "profile": "laptop",
        "chapter": "c",
        "quantity": "ratio",
        "metric": "m",
    }
    field = line.split(" ")[0]
    rows = [f'{name} = "{value}"' for name, value in good.items() if name != field]
    rest = [text for text in ('of = ["IB"]', "holds = [0, 1]") if not text.startswith(f"{field} ")]
    path = tmp_path / "claims.toml"
    path.write_text("\n".join(["[[claim]]", *rows, *rest, line]))
    with pytest.raises(ValueError) as caught:
        claims.read(path)
    assert all(word in str(caught.value) for word in words)


def test_the_build_fails_where_prose_and_ledger_disagree():
    traces = {"IB": [1e-6] * 3, "LinPen": [10.0] * 3, "NoPen": [10.0] * 3}
    holds = claims.ledger(study(trace_within=traces)).set_index("id")
    assert holds.loc["collapse_absolute", "verdict"] == "holds here"
    claims.check(holds.reset_index())
    fails = claims.ledger(study(trace_within={**traces, "IB": [9.0] * 3}))
    with pytest.raises(ClaimMismatch, match="collapse_absolute: chapter collapse says 'holds here'"):
        claims.check(fails)


def test_holms_correction_is_within_a_family_of_claims_that_are_alike(tmp_path):
    """A claim is decided if it is alone, but not beside a similar, undecided one."""
    shared = [*(f'{name} = "x"' for name in ("where", "dataset", "statement", "paper", "chapter"))]
    shared += ['profile = "laptop"', 'quantity = "value"', 'metric = "m"', "holds = [0, inf]"]
    one = ["[[claim]]", 'id = "one"', 'of = ["IB"]', *shared]
    apart = ["[[claim]]", 'id = "two"', 'of = ["LinPen"]', *shared]
    alike = ["[[claim]]", 'id = "two"', 'like = "one"', 'of = ["LinPen"]']
    values = {"IB": [1.0, 1.2, 1.9], "LinPen": [-1.0, 1.0, 1.0], "NoPen": [0.0] * 3}
    p = [interval(values[name]).p(0.0) for name in ("IB", "LinPen")]
    assert p[0] < 0.05 < 2 * p[0] and p[1] > 0.05
    path = tmp_path / "claims.toml"
    for second, word in ((apart, "reproduced"), (alike, "undecided")):
        path.write_text("\n".join([*one, *second]))
        table = claims.ledger(study(m=values), path)
        assert table["verdict"].tolist() == [word, "undecided"]
    assert claims.chance(table) == (0, 1, pytest.approx(0.05))


def test_checks_are_declared_where_a_claim_cannot_fail_or_must():
    kinds = {claim.id: claim.kind for claim in claims.read()}
    for name in (
        "collapse_absolute",
        "entropy_raw",
        "bottleneck_with_noise",
        "certified_scale",
        "error_bound",
    ):
        assert kinds[name] == "check"
    assert kinds["collapse_scale_free"] == kinds["cube"] == "claim"


def test_no_verdict_in_part_crosses_no_effect():
    """A value on the wrong side of no effect is outside, whatever the wider tolerance says."""
    for claim in claims.read():
        if claim.quantity in ("difference", "lead", "ratio") and claim.partly is not None:
            null = 1.0 if claim.quantity == "ratio" else 0.0
            if claim.holds[0] < null < claim.holds[1]:
                continue
            beyond = null - 1e-3 if claim.holds[0] >= null else null + 1e-3
            found = claims.judged(claim, [beyond - 1e-6, beyond, beyond + 1e-6])
            assert found.place == 2, claim.id


def test_other_profiles_judge_nothing_but_the_papers_own_numbers():
    table = claims.ledger(study("smoke", trace_within=VALUES)).set_index("id")
    assert table.loc["collapse_absolute", "verdict"] == "not judged"
    assert table.loc["collapse_cifar10", "verdict"] == "not attempted"
    claims.check(table.reset_index())
    # From the printed means and sds: IB's gain on CIFAR100 is significant, WideIB and NarrowIB lose
    assert table.loc["printed_gain_cifar100", "verdict"] == "reproduced"
    assert table.loc["printed_wide_cifar100", "verdict"] == "not reproduced"
    assert table.loc["printed_narrow_cifar100", "verdict"] == "not reproduced"


def recorded(name, **columns) -> Recorded:
    """Return the same three seeds as recorded runs of a profile."""
    frame = study(name, **columns).frame
    return Recorded(ABLATION, PROFILES[name], frame, frame, pd.DataFrame(), {})


def test_every_claim_is_judged_by_runs_of_its_own_profile():
    tight, loose = ({**VALUES, "IB": [scale] * 3} for scale in (1e-3, 19.0))
    table = claims.ledger(study(trace_ratio=tight), others=[recorded("fashion-cpu", trace_ratio=loose)])
    words = table.set_index("id")["verdict"]
    assert words["collapse_scale_free"] == "holds here"
    assert words["collapse_scale_free_fashion_cpu"] == "does not hold here"
    assert words["collapse_scale_free_fashion"] == "not attempted"
    other = claims.ledger(study("smoke", trace_ratio=loose), others=[recorded("fashion", trace_ratio=tight)])
    words = other.set_index("id")["verdict"]
    assert words["collapse_scale_free"] == "not judged"
    assert words["collapse_scale_free_fashion_cpu"] == "not attempted"
    assert words["collapse_scale_free_fashion"] == "holds here"


def test_a_papers_claim_is_reproduced_by_recorded_runs_on_its_own_data():
    robust = {"IB": [40.0] * 3, "LinPen": [1.0] * 3, "NoPen": [1.0, 1.1, 1.0]}
    found = recorded("paper-cifar10", test_deepfool_relative_norm=robust)
    table = claims.ledger(study("smoke", trace_ratio=VALUES), others=[found]).set_index("id")
    assert table["verdict"]["robust_cifar10"] == "reproduced"
    assert table["measured"]["robust_cifar10"] == str(interval([40.0, 40 / 1.1, 40.0], ratio=True))
    assert table["verdict"]["robust_svhn"] == "not attempted"


def test_a_quantity_that_no_seed_has_is_not_measured_and_an_epoch_never_reached_is_late():
    never = {**VALUES, "IB": [math.nan, 5.0, math.nan]}
    nothing = {name: [math.nan] * 3 for name in VALUES}
    epochs = {name: [40] * 3 for name in VALUES}
    found = recorded("fashion-cpu", terminal_epoch=never, trace_ratio=nothing, **{"train.epochs": epochs})
    table = claims.ledger(study("smoke", nc1=VALUES), others=[found]).set_index("id")
    assert table["verdict"]["collapse_scale_free_fashion_cpu"] == "not measured"
    assert table["verdict"]["terminal_phase_fashion_cpu"] == "undecided"
    assert table["measured"]["terminal_phase_fashion_cpu"] == "never in 2 of 3"


def test_welch_from_printed_values_is_the_textbook_formula():
    table = paper.welch("CIFAR100", "test_accuracy_percent").set_index("architecture")
    (a, sa), (b, sb) = (paper.value("CIFAR100", name, "test_accuracy_percent") for name in ("IB", "NoPen"))
    error = math.sqrt((sa**2 + sb**2) / 5)
    freedom = (sa**2 + sb**2) ** 2 / (sa**4 + sb**4) * 4
    assert table.loc["IB", "p"] == pytest.approx(2 * t.sf((a - b) / error, freedom))
    assert table.loc["IB", "difference"] == pytest.approx(77.9 - 77.02)
    no_spread = paper.welch("CIFAR100", "deepfool_relative_norm").set_index("architecture")["p"]
    assert math.isnan(no_spread["LinPen"])


def test_the_papers_tables_are_whole():
    table = paper.reported()
    counts = table.groupby(["dataset", "metric"])["architecture"].nunique()
    assert set(counts) == {8} and len(table) == 3 * 7 * 8
    with pytest.raises(ValueError, match="0 values of sigma_w for NonLinIB on SVHN"):
        paper.value("SVHN", "NonLinIB", "sigma_w")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "0.0123"),
        (1.2345e-7, "1.23e-7"),
        (-87.598, "-87.6"),
        (12345.6, "1.23e4"),
        (0.0, "0"),
        (math.nan, "–"),
        (999.96, "1000"),
    ],
)
def test_numbers_are_written_with_three_digits(value, text):
    assert tables.number(value) == text


def test_up_to_three_seeds_are_shown_one_by_one_and_more_as_mean_and_sd():
    assert tables.over_seeds([1.0, 2.0, 3.0]) == "1.00, 2.00, 3.00"
    assert tables.over_seeds([1.0, np.nan, 3.0]) == "1.00, 3.00 (2 of 3)"
    assert tables.over_seeds([np.nan]) == "–"
    assert tables.over_seeds([1.0, 2.0, 3.0, 4.0]) == "2.50 ± 1.3"
    assert tables.over_seeds([0.3] * 4) == "0.300 ± 0"
    assert tables.over_seeds([1.0, -2.0], digits=2, signed=True) == "+1.0, -2.0"
    assert tables.over_seeds([1.0, 2.0, 3.0, 4.0], signed=True) == "+2.50 ± 1.3"


def test_no_page_shows_the_sd_of_a_few_seeds():
    shown = re.compile(
        r"±\s*(sd|standard deviation)|mean and sd over|(band|bars) of one sd|sd over seeds\)", re.I
    )
    found = {
        page.name: some.group()
        for page in sorted(BOOK.glob("*.md"))
        for some in shown.finditer(page.read_text(encoding="utf-8"))
    }
    found.pop("notation.md", None)  # which states the rule
    assert not found
    assert shown.search("Mean ± sd over seeds") and not shown.search("error ± standard error")


def test_ratios_are_by_seed_and_the_papers_by_printed_means():
    chosen = study(robust={"IB": [2.0, 3.0, 4.0], "LinPen": [1.0, 1.0, 1.0], "NoPen": [1.0, 2.0, 1.0]})
    table = tables.ratios(chosen, "robust", "deepfool_relative_norm")
    assert table.T["IB"].tolist() == ["2.00, 1.50, 4.00", "29", "52", "31"]
    assert table.T["NonLinIB"].tolist() == ["–", "–", "–", "–"]


class TestSiblings:
    """Claims about gammas in a store of the profile smoke and its siblings."""

    @pytest.fixture
    def ledger(self, tmp_path, monkeypatch):
        two = ("gamma0", "gamma10")
        small = replace(PROFILES["smoke-gammas"], architectures=two, seeds=(0, 1))
        monkeypatch.setitem(PROFILES, "smoke-gammas", small)
        entry = {
            **{name: "x" for name in ("where", "dataset", "statement", "paper", "chapter")},
            **{
                "id": "grows",
                "profile": "smoke-gammas",
                "quantity": "ratio",
                "metric": "validation_accuracy",
            },
        }
        lines = [f'{name} = "{value}"' for name, value in entry.items()]
        lines += ['of = ["gamma10"]', 'over = ["gamma0"]', "holds = [2, 3]"]
        path = tmp_path / "claims.toml"
        path.write_text("\n".join(["[[claim]]", *lines]))

        def judge(name="smoke", **options):
            found = ablation.existing(name, store=tmp_path / "runs", seeds=options.pop("seeds", None))
            return claims.ledger(found, path, **options).loc[0]

        return judge

    @pytest.fixture
    def end(self, tmp_path):
        store = RunStore(tmp_path / "runs")

        def end(seeds):
            for spec in ablation.declared("smoke-gammas"):
                if spec.seed in seeds:
                    accuracy = 0.25 if spec.architecture == "gamma0" else 0.5 + 0.25 * spec.seed
                    ended_runs.end(store, spec, validation_accuracy=accuracy, validation_cross_entropy=1.0)

        return end

    def test_a_claim_about_gammas_is_judged_by_the_sibling_once_all_its_runs_have_ended(self, ledger, end):
        assert ledger()["verdict"] == "not judged"
        end([0])
        assert ledger()["verdict"] == "not judged"
        end([1])
        row = ledger()
        both = str(interval([2.0, 3.0], ratio=True))
        assert (row["verdict"], row["measured"], row["n"]) == ("undecided", both, 2)
        assert ledger(seeds=1)["measured"] == "2.00 (one seed)", "as many seeds as the profile is asked for"

    def test_from_the_siblings_own_page_too_and_beside_another_profile(self, ledger, end):
        end([0, 1])
        for options in ({"name": "smoke-gammas"}, {"name": "paper-svhn", "beside": "smoke"}):
            assert ledger(**options)["measured"] == str(interval([2.0, 3.0], ratio=True))
        assert ledger("laptop")["verdict"] == "not judged", "another profile's store may hold others' runs"

    def test_the_names_of_a_claim_are_those_of_its_profiles_table(self, tmp_path, ledger):
        path = tmp_path / "claims.toml"
        path.write_text(path.read_text().replace('["gamma10"]', '["IB"]'))
        with pytest.raises(
            ValueError, match=r"architecture in claims.toml, claim grows: 'IB'.*gamma0, gamma1e-2"
        ):
            claims.read(path)
