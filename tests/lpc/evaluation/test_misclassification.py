import itertools

import numpy as np
import pytest
import torch
from pytorch_ood.metrics import OODMetrics
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from lpc.evaluation.misclassification import (
    misclassification_aupr,
    misclassification_auroc,
    misclassification_fpr,
    risk_coverage_area,
    risk_coverage_curve,
)

EVERY = [
    misclassification_auroc,
    lambda confidence, correct: misclassification_auroc(confidence, correct, convention="released"),
    lambda confidence, correct: misclassification_aupr(confidence, correct, positive="success"),
    lambda confidence, correct: misclassification_aupr(confidence, correct, positive="error"),
    misclassification_fpr,
    lambda confidence, correct: risk_coverage_area(confidence, correct).aurc,
    lambda confidence, correct: float(np.mean(np.asarray(risk_coverage_curve(confidence, correct).risk))),
]
TIES = [3, 20, 10**9]


@pytest.fixture(params=TIES)
def ranked(rng, request):
    correct = rng.random(500) < 0.8
    return np.floor(request.param * (0.2 * correct + rng.random(500))) / request.param, correct


@pytest.mark.parametrize("metric", EVERY)
def test_tensors_and_float32_give_what_arrays_give(ranked, metric):
    confidence, correct = ranked
    exact = np.float32(confidence).astype(float)
    value = metric(exact, correct)
    assert isinstance(value, float)
    assert metric(torch.from_numpy(exact).float(), torch.from_numpy(correct)) == value
    assert metric(3 * exact - 5, correct) == pytest.approx(value, rel=1e-12), "only the order counts"
    shuffled = np.random.default_rng(3).permutation(len(correct))
    assert metric(exact[shuffled], correct[shuffled]) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("levels", [3, 10**9])
def test_auroc_against_scikit_learn_also_with_ties(rng, levels):
    correct = rng.random(500) < 0.8
    confidence = np.floor(levels * (0.2 * correct + rng.random(500))) / levels
    value = misclassification_auroc(confidence, correct)
    assert value == pytest.approx(roc_auc_score(correct, confidence), rel=1e-13)
    assert 0.55 < value < 0.9
    assert misclassification_auroc(-confidence, correct) == pytest.approx(1 - value, rel=1e-12)
    tensor = misclassification_auroc(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert tensor == value


def test_auroc_by_hand_and_its_negative_control(rng):
    assert (
        misclassification_auroc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
        == 3.5 / 4
    )
    assert misclassification_auroc(np.array([1.0, 0.0]), np.array([True, False])) == 1.0
    assert misclassification_auroc(rng.random(4000), rng.random(4000) < 0.5) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("metric", EVERY)
def test_what_ranks_nothing_is_refused(unchecked, metric):
    confidence = np.array([0.1, 0.2])
    with pytest.raises(ValueError, match="2 predictions are right and 0 wrong"):
        metric(confidence, np.array([True, True]))
    with pytest.raises(ValueError, match="0 predictions are right and 2 wrong"):
        metric(confidence, np.array([False, False]))
    with pytest.raises(ValueError, match=r"every confidence is 0\.5: it ranks nothing"):
        metric(np.array([0.5, 0.5]), np.array([True, False]))
    with pytest.raises(ValueError, match=r"confidence holds 2 NaN .* index \(1,\)"):
        metric(np.array([0.5, np.nan, np.inf]), np.array([True, False, True]))


@pytest.mark.parametrize(
    "function", [misclassification_auroc, misclassification_fpr, risk_coverage_area, risk_coverage_curve]
)
def test_wrong_types_shapes_and_options_are_named(unchecked, function):
    function, confidence = unchecked(function), np.array([0.1, 0.2])
    with pytest.raises(ValueError, match="expected booleans"):
        function(confidence, np.array([1, 0]))
    with pytest.raises(ValueError, match=r"correct has shape \(3,\) for 2 points"):
        function(confidence, np.array([True, False, True]))
    with pytest.raises(ValueError, match="confidence has dtype torch"):
        function(np.array([1, 2]), np.array([True, False]))
    with pytest.raises(ValueError, match=r"confidence has shape \(2, 1\); expected 1 dim"):
        function(confidence[:, None], np.array([True, False]))


def test_options_are_checked(unchecked):
    confidence, correct = np.array([0.1, 0.2]), np.array([True, False])
    with pytest.raises(ValueError, match="positive is 'right'; expected 'success' or 'error'"):
        unchecked(misclassification_aupr)(confidence, correct, positive="right")
    with pytest.raises(ValueError, match="convention is 'ours'"):
        unchecked(misclassification_auroc)(confidence, correct, convention="ours")
    for value in (0.0, 95.0, float("nan")):
        with pytest.raises(ValueError, match=f"at_tpr is {value}"):
            misclassification_fpr(confidence, correct, at_tpr=value)


def test_released_auroc_by_hand():
    """Every threshold is 2.0, the one wrong score: half of the right ones lie above, at 101 thresholds."""
    confidence = np.array([3.0, 2.0, 1.0])
    corner = np.array([True, False, True])
    assert misclassification_auroc(confidence, corner) == 0.5
    assert misclassification_auroc(confidence, corner, convention="released") == pytest.approx(0.505)
    for correct, area, weighted in (([True, True, False], 1.0, 1.01), ([False, False, True], 0.0, 0.0)):
        assert misclassification_auroc(confidence, np.array(correct)) == area
        value = misclassification_auroc(confidence, np.array(correct), convention="released")
        assert value == pytest.approx(weighted, rel=1e-14)
    tied = np.array([2.0, 2.0, 1.0, 1.0])  # thresholds 1, 1.01 ... 2: one of two right ones above all but one
    value = misclassification_auroc(tied, np.array([True, False, True, False]), convention="released")
    assert value == pytest.approx(0.5, rel=1e-14)
    between = np.array([0.25, 0.0, 1.0])  # scores are interpolated: 0.25 passes the thresholds 0 ... 0.24
    value = misclassification_auroc(between, np.array([True, False, False]), convention="released")
    assert value == pytest.approx(0.25, rel=1e-14)


@pytest.mark.parametrize(("right", "wrong"), [(350, 3), (350, 10), (900, 100), (9000, 1000)])
def test_released_auroc_is_the_sum_over_quantiles_of_wrong_scores(rng, right, wrong):
    correct = np.arange(right + wrong) < right
    for _ in range(5):
        score = rng.standard_normal(right + wrong) + 1.5 * correct
        total = 0.0
        for x in range(101):
            total += 0.01 * np.mean(score[correct] > np.quantile(score[~correct], x / 100))
        found = misclassification_auroc(score, correct, convention="released")
        assert found == pytest.approx(total, rel=1e-12)


def test_few_wrong_predictions_move_the_second_decimal_of_the_released_auroc(rng):
    """Beside a sum along the ROC curve, with rates interpolated, as many would read "101 points"."""
    correct = np.arange(353) < 350
    gaps = []
    for _ in range(50):
        score = rng.standard_normal(353) + 1.5 * correct
        fpr, tpr, _ = roc_curve(correct, score, drop_intermediate=False)
        along = 0.01 * np.interp(np.arange(101) / 100, fpr, tpr).sum()
        gaps.append(along - misclassification_auroc(score, correct, convention="released"))
    assert abs(np.mean(gaps)) > 0.01 and np.max(np.abs(gaps)) > 0.03


def test_aupr_against_scikit_learn_also_with_ties(ranked):
    confidence, correct = ranked
    success = misclassification_aupr(confidence, correct, positive="success")
    error = misclassification_aupr(confidence, correct, positive="error")
    assert success == pytest.approx(average_precision_score(correct, confidence), rel=1e-12)
    assert error == pytest.approx(average_precision_score(~correct, -confidence), rel=1e-12)
    assert success > 0.8 > 0.6 > error


def test_aupr_by_hand_and_without_any_ranking(rng):
    confidence, correct = np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])
    assert misclassification_aupr(confidence, correct, positive="success") == (1 + 2 / 3) / 2
    assert misclassification_aupr(confidence, correct, positive="error") == (1 + 2 / 3) / 2
    assert misclassification_aupr(confidence, np.arange(4) < 3, positive="error") == 1.0
    assert misclassification_aupr(-confidence, np.arange(4) < 3, positive="error") == 0.25
    correct = rng.random(20_000) < 0.9
    chance = misclassification_aupr(rng.random(20_000), correct, positive="error")
    assert chance == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("at_tpr", [0.5, 0.95, 1.0])
def test_fpr_against_scikit_learn_and_pytorch_ood(ranked, at_tpr):
    confidence, correct = ranked
    fpr, tpr, _ = roc_curve(correct, confidence, drop_intermediate=False)
    value = misclassification_fpr(confidence, correct, at_tpr=at_tpr)
    assert value == fpr[tpr >= at_tpr][0]
    outside = torch.where(torch.from_numpy(correct), -1, 0)  # what it detects has a label below 0
    theirs = OODMetrics(fpr_at=at_tpr).update(torch.from_numpy(confidence), outside).compute()
    assert value == pytest.approx(theirs[f"FPR{round(100 * at_tpr)}TPR"], rel=1e-12)


def test_fpr_by_hand_counts_the_wrong_ones_at_the_threshold(rng):
    correct = np.arange(30) < 20
    confidence = np.concatenate([np.arange(20.0), [25.0, 1.0, 1.0, 0.5, 0, 0, 0, 0, 0, -1.0]])
    assert misclassification_fpr(confidence, correct) == 3 / 10  # 19 of 20 right ones are at or above 1
    assert misclassification_fpr(confidence, correct, at_tpr=0.951) == 9 / 10
    assert misclassification_fpr(confidence, correct, at_tpr=0.9) == 1 / 10
    chance = misclassification_fpr(rng.random(20_000), rng.random(20_000) < 0.5)
    assert chance == pytest.approx(0.95, abs=0.01)


def test_risk_coverage_by_hand():
    curve = risk_coverage_curve(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1.0], rtol=1e-15)
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 1 / 2], rtol=1e-15)
    area = risk_coverage_area(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    assert area.aurc == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4, rel=1e-14)
    assert area.excess == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4 - (1 / 3 + 2 / 4) / 4, rel=1e-14)
    tensor = risk_coverage_curve(torch.tensor([2.0, 1.0]), torch.tensor([False, True]))
    assert tensor.risk.tolist() == [1.0, 0.5] and tensor.risk.dtype == torch.float64


def test_risk_coverage_is_the_mean_over_all_orders_of_tied_points():
    confidence = np.array([2.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    correct = np.array([False, True, True, False, False, True])
    orders = []
    for middle in itertools.permutations(range(1, 5)):
        wrong = ~correct[[0, *middle, 5]]
        orders.append(np.cumsum(wrong) / np.arange(1, 7))
    np.testing.assert_allclose(
        risk_coverage_curve(confidence, correct).risk, np.mean(orders, axis=0), rtol=1e-14
    )
    assert risk_coverage_area(confidence, correct).aurc == pytest.approx(np.mean(orders), rel=1e-14)


def test_risk_coverage_area_of_the_best_and_of_no_order(rng):
    correct = rng.random(5000) < 0.8
    best = risk_coverage_area(correct + 0.0, correct)
    assert best.excess == 0
    p = 1 - correct.mean()
    closed = p + (1 - p) * np.log(1 - p)  # the integral that the sum tends to (Geifman et al. 2019)
    assert best.aurc == pytest.approx(closed, abs=2e-4)
    chance = risk_coverage_area(rng.random(5000), correct)
    assert chance.aurc == pytest.approx(p, abs=0.02)
    assert chance.excess == pytest.approx(chance.aurc - best.aurc, rel=1e-12)
