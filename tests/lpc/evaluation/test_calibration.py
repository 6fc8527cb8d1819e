import numpy as np
import pytest
import torch
from scipy.special import softmax
from torchmetrics.classification import MulticlassCalibrationError

from lpc.errors import Undefined
from lpc.evaluation.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability_diagram,
)


def calibrated(rng, points):
    """Draw binary probabilities and labels that come true as often as they say."""
    chance = rng.random(points)
    return np.stack([1 - chance, chance], axis=1), (rng.random(points) < chance).astype(int)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [1, 15, 100])
def test_against_torchmetrics(rng, norm, bins):
    logits = 3 * rng.standard_normal((2000, 5))
    probability, label = softmax(logits, axis=1), np.argmax(logits + rng.standard_normal((2000, 5)), axis=1)
    value = expected_calibration_error(probability, label, bins=bins, norm=norm)
    oracle = MulticlassCalibrationError(5, n_bins=bins, norm=norm)
    expected = oracle(torch.from_numpy(probability), torch.from_numpy(label))
    assert value == pytest.approx(float(expected), rel=1e-5)  # theirs has edges in float32
    assert value > 0.01
    tensors = (torch.from_numpy(probability), torch.from_numpy(label))
    assert expected_calibration_error(*tensors, bins=bins, norm=norm) == value


def test_by_hand():
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.6, 0.4]])
    label = np.array([0, 1, 1, 1])
    # two bins of 5: (0.6, 0.8] holds 0.7, right; (0.8, 1] holds 0.9 twice, once right; 0.6 is below, wrong
    assert expected_calibration_error(probability, label, bins=5) == pytest.approx(
        (0.3 + 2 * 0.4 + 0.6) / 4, rel=1e-14
    )
    assert expected_calibration_error(probability, label, bins=5, norm="max") == pytest.approx(0.6)
    # one bin: half are right at a mean confidence of 0.775
    assert expected_calibration_error(probability, label, bins=1) == pytest.approx(0.275, rel=1e-14)


def test_edges_belong_to_the_lower_bin_and_one_to_the_last():
    probability = np.array([[0.8, 0.2], [0.6, 0.4], [1.0, 0.0], [0.9, 0.1]])
    label = np.array([0, 1, 0, 1])
    # with 5 bins 0.8 is with 0.7 to 0.8, 0.6 below, and 1 with 0.9: gaps 0.2, -0.6, (0 - 0.9) together
    assert expected_calibration_error(probability, label, bins=5) == pytest.approx(1.7 / 4, rel=1e-12)
    tie = np.array([[0.5, 0.5], [0.5, 0.5]])
    assert expected_calibration_error(tie, np.array([0, 0])) == 0.5  # the first of equal classes is taken
    assert expected_calibration_error(tie, np.array([0, 1])) == 0.0


def test_calibrated_and_overconfident_controls(rng):
    probability, label = calibrated(rng, 200_000)
    assert expected_calibration_error(probability, label) < 0.005
    certain = np.full((1000, 4), 0.01)
    certain[:, 2] = 0.97
    truth = np.where(np.arange(1000) < 700, 2, 1)
    assert expected_calibration_error(certain, truth) == pytest.approx(0.27, rel=1e-12)
    assert expected_calibration_error(certain, truth, norm="max") == pytest.approx(0.27, rel=1e-12)
    sharpened = probability**3 / (probability**3).sum(axis=1, keepdims=True)
    assert expected_calibration_error(sharpened, label) > 0.1


def test_float32_softmax_is_accepted_and_computed_in_float64(rng):
    logits = torch.from_numpy(20 * rng.standard_normal((500, 1000))).float()
    label = torch.from_numpy(rng.integers(0, 1000, 500))
    single = expected_calibration_error(logits.softmax(dim=1), label)
    assert single == pytest.approx(
        expected_calibration_error(logits.double().softmax(dim=1), label), abs=1e-5
    )


def test_bad_input_is_named(unchecked):
    error, good = unchecked(expected_calibration_error), np.array([[0.2, 0.8], [0.5, 0.5]])
    label = np.array([1, 0])
    with pytest.raises(ValueError, match=r"1 rows .* row 1 has minimum 1 and sum 3\. Take the softmax"):
        error(np.array([[0.2, 0.8], [2.0, 1.0]]), label)
    with pytest.raises(ValueError, match=r"row 0 has minimum -0\.2 and sum 1"):
        error(np.array([[-0.2, 1.2], [0.5, 0.5]]), label)
    with pytest.raises(
        ValueError, match=r"1 labels are out of range; label 2 is at index 1, expected 0 to 1"
    ):
        error(good, np.array([1, 2]))
    with pytest.raises(ValueError, match=r"label -1 is at index 0"):
        error(good, np.array([-1, 0]))
    with pytest.raises(ValueError, match=r"probability holds 1 NaN .* index \(0, 1\)"):
        error(np.array([[0.2, np.nan], [0.5, 0.5]]), label)
    with pytest.raises(ValueError, match="label has 3 entries for 2 points"):
        error(good, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match="expected 2 or more classes"):
        error(np.ones((2, 1)), np.array([0, 0]))
    with pytest.raises(ValueError, match="expected integers"):
        error(good, np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="bins is 0; expected 1 or more"):
        error(good, label, bins=0)
    with pytest.raises(ValueError, match="norm is 'l3'; expected 'l1', 'l2' or 'max'"):
        error(good, label, norm="l3")


def test_other_bins_agree_where_they_are_the_same_and_miss_nothing(rng):
    probability, label = calibrated(rng, 3000)
    wrong = 1 - label
    for error in (expected_calibration_error, adaptive_calibration_error, classwise_calibration_error):
        assert error(probability, label) < 0.05 < 0.3 < error(probability, wrong)
        assert error(probability, label, bins=1) <= error(probability, label) + 1e-12
    same = expected_calibration_error(probability, label, bins=1)
    assert adaptive_calibration_error(probability, label, bins=1) == pytest.approx(same, rel=1e-12)
    with pytest.raises(ValueError, match="bins is 3001 for 3000 points"):
        adaptive_calibration_error(probability, label, bins=3001)


def test_the_diagram_adds_up_to_the_error_and_empty_bins_are_missing(rng):
    probability, label = calibrated(rng, 500)
    found = reliability_diagram(probability, label, bins=10)
    empty = found.count == 0
    assert (
        bool(empty[:5].all()) and bool(found.accuracy[empty].isnan().all()) and int(found.count.sum()) == 500
    )
    gap = (found.accuracy - found.confidence)[~empty].abs()
    expected = float((gap * found.count[~empty]).sum() / 500)
    assert expected == pytest.approx(expected_calibration_error(probability, label, bins=10), rel=1e-12)


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_the_temperature_undoes_a_scale(rng, scale):
    logits = rng.standard_normal((20_000, 4))
    label = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)  # drawn from the softmax of the logits
    found = fit_temperature(scale * logits, label)
    assert found == pytest.approx(scale, rel=0.05)
    assert found == pytest.approx(scale * fit_temperature(logits, label), rel=1e-8)
    with pytest.raises(Undefined, match="every point is classified correctly"):
        fit_temperature(logits, logits.argmax(axis=1))
    with pytest.raises(Undefined, match="infinite"):
        fit_temperature(logits, logits.argmin(axis=1))
