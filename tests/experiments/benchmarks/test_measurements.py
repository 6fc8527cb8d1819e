"""The harness is tested with a clock that only programs move; the cases are tested by their results."""

import importlib
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from experiments.benchmarks import (
    baselines,
    measurement_cases,
    measurement_growth,
    timing,
)
from experiments.benchmarks.sizes import SIZES, points_of, size
from experiments.benchmarks.timing import NOT_SLOWER, Comparison, ResultsDiffer, compare, interleave, verdict

SMOKE = SIZES["smoke"]
ON_CPU = [name for name in measurement_cases.FAMILIES if name != "gpu"]


class Clock:
    """A clock that only programs move."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def program(self, seconds, result: object = 1.0, log=None, name=""):
        """Return a program whose successive calls take these seconds."""
        taken = itertools.chain(seconds, itertools.repeat(math.nan))

        def call():
            self.now += next(taken)
            if log is not None:
                log.append(name)
            return result

        return call


def test_medians_ratio_and_quartiles_are_those_of_the_pairs_after_the_first():
    clock = Clock()
    ours, theirs = clock.program([50, 1, 2, 4, 1, 2]), clock.program([9, 8, 10, 12, 9, 4])
    found = compare(ours, theirs, repeats=5, tolerance=0, clock=clock)
    # the ratios of the pairs are 8, 5, 3, 9, 2, sorted 2 3 5 8 9
    assert found == Comparison(ours=2, theirs=9, ratio=5, low=3, high=8, pairs=5, cold=False, difference=0)


@pytest.mark.parametrize(
    ("theirs", "target", "pairs"),
    [
        ([9, 4.0, 4.2, 4.4], None, 3),
        ([9, 4, 4.6, 5.2, 4.6, 9], None, 4),
        ([9, 4, 8, 4, 8, 4], None, 5),
        (
            [9, 4.0, 4.2, 4.4, 4.2, 4.2],
            8.24,
            4,
        ),  # between the quartiles of three pairs
        ([9, 4.0, 4.2, 4.4, 4.2, 4.2], 9, 3),
        ([9, 4, 8, 4, 8, 4], 4, 3),  # the quartiles are 8 and 12, twice the target and more
        ([9, 4, 8, 4, 8, 4], 24, 3),
        ([9, 4, 8, 4, 8, 4], 23, 5),
    ],
)
def test_three_pairs_are_enough_where_quartiles_are_narrow_or_far_from_the_target_but_not_around_it(
    theirs, target, pairs
):
    clock = Clock()
    options = {"repeats": 5, "tolerance": 0, "share": 0.5, "target": target, "clock": clock}
    assert compare(clock.program([1] * 6), clock.program(theirs), **options).pairs == pairs


def test_of_several_programs_each_ratio_has_to_be_steady_and_the_first_turn_does_not_count():
    steady = [[1, 2, 3.0], [2, 4, 6.1], [1, 2, 3.0]]
    assert timing.steady(steady) and not timing.steady(steady[:2])
    assert not timing.steady([*steady, [1, 2, 9], [1, 2, 9]])
    clock = Clock()
    calls = [clock.program([50, *[1] * 9]), clock.program([1, *[2] * 9]), clock.program([1, *[3] * 9])]
    assert len(list(interleave(calls, repeats=9, enough=timing.steady, clock=clock))) == 4


def test_theirs_is_divided_by_the_share_of_the_work_that_it_did():
    clock = Clock()
    options = {"repeats": 1, "tolerance": 0, "clock": clock}
    found = compare(clock.program([1, 2]), clock.program([1, 3]), share=0.25, **options)
    assert (found.ours, found.theirs, found.ratio) == (2, 12, 6)


@pytest.mark.parametrize(
    ("limit", "pairs", "cold", "ours"),
    [(4, 1, True, 1), (5, 1, True, 1), (5.1, 1, False, 2), (100, 3, False, 3)],
)
def test_no_pair_begins_past_the_limit_and_the_first_counts_only_if_there_is_no_other(
    limit, pairs, cold, ours
):
    clock = Clock()
    options = {"repeats": 3, "tolerance": 0, "limit": limit, "clock": clock}
    found = compare(clock.program([1, 2, 3, 4]), clock.program([4, 4, 4, 4]), **options)
    assert (found.pairs, found.cold, found.ours) == (pairs, cold, ours)


def test_calls_alternate_and_every_other_turn_is_reversed():
    clock, log = Clock(), []
    calls = [clock.program([1] * 4, result=name, log=log, name=name) for name in "abc"]
    turns = list(interleave(calls, repeats=2, clock=clock))
    assert "".join(log) == "abccbaabc"
    assert turns == [([1, 1, 1], ["a", "b", "c"])] * 3
    with pytest.raises(ValueError, match="repeats is 0; expected 1 or more"):
        next(interleave(calls, repeats=0))


@pytest.mark.parametrize(
    ("ours", "theirs", "difference"),
    [
        (1.0, 2.0, 0.5),
        (np.array([1.0, 5.0]), [1.0, 4.0], 0.25),
        (torch.tensor([3.0, -8.0]), np.array([2.0, -8.0]), 0.125),
        (0.0, 0.0, 0.0),
        (1e-9, 0.0, math.inf),
        (np.ones(2), np.ones(1), math.inf),
        (math.nan, 1.0, math.nan),
        (1.0, math.nan, math.nan),
    ],
)
def test_largest_difference(ours, theirs, difference):
    assert timing.largest_difference(ours, theirs) == pytest.approx(difference, nan_ok=True)


@pytest.mark.parametrize("wrong", [1.01, math.nan, np.ones(2)])
def test_results_that_differ_raise(wrong):
    options = {"repeats": 2, "tolerance": 0.005}
    assert compare(lambda: 1.004, lambda: 1.0, **options).difference == pytest.approx(0.004)
    with pytest.raises(ResultsDiffer, match="the results differ by"):
        compare(lambda: wrong, lambda: 1.0, **options)
    later = iter([1.0, 1.0, wrong])
    with pytest.raises(ResultsDiffer):
        compare(lambda: next(later), lambda: 1.0, **options)


@pytest.mark.parametrize(
    ("low", "ratio", "high", "target", "expected"),
    [
        (8, 9, 10, 8, "yes"),
        (7.9, 9, 10, 8, "close"),
        (5, 6, 8, 8, "close"),
        (5, 6, 7, 8, "no"),
        (6, 6, 6, 8, "no"),
        (8, 8, 8, 8, "yes"),
        (8, 9, 10, None, "–"),
    ],
)
def test_verdict(low, ratio, high, target, expected):
    found = Comparison(
        ours=1, theirs=ratio, ratio=ratio, low=low, high=high, pairs=3, cold=False, difference=0
    )
    assert verdict(found, target) == expected


@pytest.mark.parametrize("family", ON_CPU)
def test_every_case_runs_and_agrees_and_a_wrong_factor_does_not(family):
    cases = list(measurement_cases.FAMILIES[family](SMOKE, "cpu"))
    assert len({(case.what, case.against) for case in cases}) == len(cases)
    for case in cases:
        theirs = case.theirs
        assert theirs is not None, "foolbox is among the packages for development"
        compare(case.ours, theirs, repeats=1, tolerance=case.tolerance)
        wrong = replace(case, ours=lambda case=case: (1 + 3 * case.tolerance) * np.asarray(case.ours()))
        with pytest.raises(ResultsDiffer, match=case.against.split(",")[0]):
            timing.table([wrong], repeats=1, limit=1)


def test_what_expanded_squares_give_for_collapsed_classes_is_refused():
    value = points_of(300, 16, 1e-7)
    exact = baselines.tree_distance(value, k=10, norm="l2", workers=1)
    with pytest.raises(ResultsDiffer):
        compare(lambda: baselines.brute_distance(value, k=10), lambda: exact, repeats=1, tolerance=1e-6)


def test_the_cases_for_a_gpu_agree_on_the_cpu_too():
    for case in measurement_cases.on_gpu(SMOKE, "cpu"):
        assert case.theirs is not None
        assert compare(case.ours, case.theirs, repeats=1, tolerance=1e-12).difference < 1e-12


def test_the_table_of_a_family_says_what_was_found_and_judges_no_smoke():
    found = measurement_cases.times("mahalanobis", SMOKE)
    assert found.index.names == ["case", "against"] and len(found) == 4
    assert set(found["target"]) == set(found["reached"]) == {"–"}
    judged = measurement_cases.times("mahalanobis", replace(SMOKE, aims=True))
    assert judged["target"].tolist() == ["≥ 15", "≥ 15", "–", "–"]
    assert set(judged["reached"]) <= {"yes", "no", "close", "–"}


def without(monkeypatch, package):
    """Make importing foolbox fail because a package is missing."""
    real = importlib.import_module

    def missing(name, *arguments):
        if name.startswith("foolbox"):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", missing)


def test_what_is_not_installed_is_shown_as_that(monkeypatch):
    without(monkeypatch, "foolbox")
    found = measurement_cases.times("robustness", SMOKE)
    row = found.iloc[1]
    assert found.index[1][1].startswith("foolbox")
    assert row["theirs (ms)"] == "not installed" and row["ratio"] == row["reached"] == "–"
    assert float(found.iloc[0]["ratio"]) > 0


def test_a_broken_foolbox_is_not_taken_for_a_missing_one(monkeypatch):
    without(monkeypatch, "eagerpy")
    with pytest.raises(ModuleNotFoundError, match="eagerpy"):
        list(measurement_cases.robustness(SMOKE))


def test_plain_entropies_against_closed_forms(rng):
    value = rng.normal(size=(4000, 3))
    distance = baselines.tree_distance(value, k=5, norm="l2", workers=1)
    exact = float(multivariate_normal(np.zeros(3), np.eye(3)).entropy())
    assert baselines.entropy_of(distance, k=5, width=3, norm="l2") == pytest.approx(exact, abs=0.05)
    uniform = rng.random((4000, 3))
    distance = baselines.tree_distance(uniform, k=5, norm="linf", workers=1)
    assert baselines.entropy_of(distance, k=5, width=3, norm="linf") == pytest.approx(0, abs=0.1)
    noise = 0.5
    found = baselines.tree_mutual_information(
        value[:, :1], value[:, :1] + noise * rng.normal(size=(4000, 1)), k=5, workers=1
    )
    assert found == pytest.approx(0.5 * math.log(1 + noise**-2), abs=0.05)


@pytest.mark.parametrize(("profile", "level"), [("smoke", "smoke"), ("laptop", "laptop"), ("full", "full")])
def test_sizes_by_profile(profile, level):
    assert size(profile) is SIZES[level]


def test_a_profile_without_sizes_of_its_own_gets_full_ones_and_an_unknown_one_is_refused(monkeypatch):
    monkeypatch.setattr("experiments.benchmarks.sizes.PROFILES", {"fashion": None, "laptop": None})
    assert size("fashion") is SIZES["full"]
    with pytest.raises(ValueError, match=r"unknown profile 'labtop'\. Did you mean laptop") as found:
        size("labtop")
    assert str(found.value).count("laptop") == 2, "in the hint, and once in the list"


def test_targets_are_the_stated_ones():
    aims = {
        family: {case.target for case in measurement_cases.FAMILIES[family](SMOKE, "cpu")}
        for family in ON_CPU
    }
    assert aims == {
        "entropy": {8.0, NOT_SLOWER, None},
        "chebyshev": {NOT_SLOWER},
        "information": {None},
        "mixtures": {8.0, None},
        "mahalanobis": {15.0, None},
        "robustness": {8.0, NOT_SLOWER},
        "collapse": {NOT_SLOWER},
        "peers": {None},
    }


def test_growth_has_every_size_and_its_exponents_are_slopes():
    grown = measurement_growth.growth(SMOKE)
    assert grown.groupby("what")["size"].agg(list).to_dict() == {
        "points": [60, 120],
        "width": [4, 16],
        "nodes": [2, 4],
        "classes": [4, 8],
    }
    assert (grown[["ours", "theirs"]] > 0).all(axis=None)
    known = grown.assign(ours=2.0 * grown["size"] ** 2, theirs=3.0 / grown["size"])
    assert measurement_growth.exponents(known).to_numpy().tolist() == [["2.0", "-1.0"]] * 4


def test_the_floor_has_the_product_at_one():
    found = measurement_growth.floor(SMOKE)
    assert found["over the product"].iloc[0] == "1.00"
    assert list(found.index)[:2] == ["matrix product alone", "product and selection"]
    assert list(found.index)[2:] == ["matrix product in float32", "entropy (lpc)"]
    assert "target" not in found


def test_expanded_squares_lose_the_digits_that_direct_differences_keep():
    found = measurement_growth.digits_kept(SMOKE)
    assert found.index[0] == "0.1" and len(found) == 9
    expanded, ours = (found[name].astype(float) for name in found)
    assert expanded.iloc[0] < 1e-12 and expanded.iloc[-1] > 0.1
    assert ours.max() < 1e-12


def test_the_machine_is_named():
    found = timing.machine()
    assert found["processor"] and found["cores"][0].isdigit()
    assert found["threads of torch"] == str(torch.get_num_threads())
    assert (found["GPU"] == "none") is not torch.cuda.is_available()
