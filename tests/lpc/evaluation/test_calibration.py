import numpy as np
import pytest
import torch
from scipy.special import softmax
from torchmetrics.classification import MulticlassCalibrationError

from lpc.evaluation.calibration import expected_calibration_error


def calibrated(rng, points):
    """Draw binary probabilities and labels that come true as often as they say."""
    chance = rng.random(points)
    return np.stack([1 - chance, chance], axis=1), (rng.random(points) < chance).astype(int)


@pytest.mark.parametrize("norm", ["l1", "max"])
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
    with pytest.raises(ValueError, match="norm is 'l2'; expected 'l1' or 'max'"):
        error(good, label, norm="l2")
