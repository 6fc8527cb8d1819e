"""Many points and classes are measured in blocks: no array of points x classes is ever formed."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lpc.evaluation.calibration import expected_calibration_error
from lpc.evaluation.class_geometry import class_distance_variance, gram_distance
from lpc.evaluation.class_margins import distance_margin
from lpc.evaluation.class_moments import ClassMoments
from lpc.evaluation.collapse import (
    nearest_mean_accuracy,
    norm_coefficient_of_variation,
    within_between_traces,
)
from lpc.evaluation.information import decoder_uncertainty
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.evaluation.quantities import categorical_quantities

POINTS, CLASSES = 12_000, 1000  # 96 MB where every point has one double a class


class Largest(TorchDispatchMode):
    """Keeps the size, in bytes, of the largest tensor that any operation made."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor):
                self.bytes = max(self.bytes, value.untyped_storage().nbytes())
        return made


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(POINTS) % CLASSES
    latent = torch.randn(CLASSES, 2, generator=generator)[label]
    return latent + 0.01 * torch.randn(POINTS, 2, generator=generator), label


def moments(latent, label):
    found = ClassMoments(classes=CLASSES)
    found.update(latent, label)
    return found.disagreements(latent, classifier_weight=torch.ones(CLASSES, 2))


def calibration(latent, label):
    return expected_calibration_error(torch.full((1, CLASSES), 1 / CLASSES).expand(POINTS, -1), label)


@pytest.mark.parametrize(
    "measure",
    [
        lambda latent, label: nearest_mean_accuracy(latent, label, latent, label),
        lambda latent, label: neural_collapse(latent, label, classifier_weight=torch.ones(CLASSES, 2)),
        lambda latent, label: distance_margin(latent, label, latent, label),
        moments,
        calibration,
        lambda latent, label: decoder_uncertainty(latent.softmax(dim=1), torch.arange(POINTS)),
        lambda latent, label: categorical_quantities(latent.softmax(dim=1), torch.arange(POINTS)),
    ],
    ids=["nearest mean", "NC4", "margins", "moments", "calibration", "decoder uncertainty", "quantities"],
)
def test_no_array_has_a_row_a_point_and_a_column_a_class(data, measure):
    with Largest() as largest:
        measure(*data)
    assert 0 < largest.bytes <= 40e6


@pytest.mark.parametrize(
    "measure",
    [
        within_between_traces,
        gram_distance,
        class_distance_variance,
        neural_collapse,
        lambda latent, label: norm_coefficient_of_variation(latent),
        lambda latent, label: nearest_mean_accuracy(latent, label, latent, label),
    ],
    ids=["traces", "Gram", "CDNV", "neural collapse", "norms", "nearest mean"],
)
def test_no_copy_of_all_points(measure):
    latent = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    with Largest() as largest:
        measure(latent, torch.arange(20_000) % 5)
    assert 0 < largest.bytes <= latent.nbytes  # views of the points; a copy in float64 has twice that


def test_the_detector_sees_a_whole_array(data):
    with Largest() as largest:
        torch.cdist(data[0], data[0][:CLASSES])
    assert largest.bytes == 4 * POINTS * CLASSES


def test_blocks_change_no_value(data, monkeypatch):
    latent, label = data[0][:3000], data[1][:3000] % 50
    probability = torch.randn(3000, 50, generator=torch.Generator().manual_seed(1)).softmax(dim=1)

    def found():
        return (
            nearest_mean_accuracy(latent, label, latent, label),
            neural_collapse(latent, label, classifier_weight=torch.eye(50, 2)).nc4,
            expected_calibration_error(probability, label),
        )

    whole = found()
    monkeypatch.setattr("lpc.arrays.BLOCK", 7)
    assert found() == pytest.approx(whole, rel=1e-12)
