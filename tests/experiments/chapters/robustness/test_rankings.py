import math

import pytest
from scipy.stats import ttest_ind_from_stats

from experiments.chapters.robustness import rankings
from experiments.reporting import paper


def test_ranking_claims_on_the_printed_numbers():
    table = rankings.section_3_2().set_index(["statement", "data set"])["holds"]
    for dataset in paper.DATASETS:
        assert table["IB is the most accurate", dataset] == "yes"
        assert table["IB is the most robust", dataset] == "yes"
        assert table["LinPen and NonLinPen are less accurate than NoPen", dataset] == "yes"
        assert table["WideIB has the best AUROC (ODIN)", dataset] == "yes"
    mahalanobis = table["WideIB has the best AUROC (Mahalanobis)"]
    assert dict(mahalanobis) == {"SVHN": "tied", "CIFAR10": "yes", "CIFAR100": "no"}
    assert table["AUROC gains of up to 10 % over NoPen (ODIN)", "CIFAR10"] == "no"


def test_the_largest_printed_gains():
    assert rankings.largest_gain("auroc_odin") == ("CIFAR10", "WideIB", pytest.approx(0.92 - 0.69))
    assert rankings.largest_gain("auroc_mahalanobis") == ("CIFAR100", "NarrowIB", pytest.approx(0.11))


def test_differences_are_of_minus_over_with_welchs_p():
    found = rankings.difference("SVHN", rankings.ACCURACY, "IB", "NoPen")
    p = ttest_ind_from_stats(96.69, 0.05, 5, 96.4, 0.03, 5, equal_var=False).pvalue
    assert found == (pytest.approx(0.29), pytest.approx(p))
    assert math.isnan(rankings.difference("CIFAR100", rankings.ROBUSTNESS, "LinPen", "NoPen")[1])


def test_ties_are_all_leaders():
    assert set(rankings.leaders("SVHN", "auroc_mahalanobis")) == {"IB", "WideIB", "NarrowIB"}
