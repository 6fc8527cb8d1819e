import math

import numpy as np
import pytest

from experiments.chapters.deepfool.ceilings import (
    NAMES,
    NOT_MEASURED,
    ceiling_table,
    cosine_needed,
    equal_norm_ceiling,
    printed_perturbation,
    recorded_ceilings,
)
from lpc.evaluation.ceilings import boundary_ceiling, mean_ceiling


def test_the_table_has_what_is_measured_and_says_what_is_not():
    row = {"images": 360, "single": 0.62, "single_error": 0.01, "both": 0.32, "both_error": 0.005}
    row |= {"mean_assigned": 0.37, "single_pixels": 0.48}
    table = ceiling_table({"digits": row})
    assert list(table.index) == list(NAMES.values())
    assert table["one image"]["digits"] == "0.620 ± 0.020" and table["n"]["digits"] == "360"
    assert table["mean over images"]["CIFAR10"] == NOT_MEASURED == table["n"]["SVHN"]
    assert table["paper, IB"]["digits"] == "–" and float(table["paper, IB"]["CIFAR10"]) == 0.725
    assert printed_perturbation("svhn", "IB") == 0.847 and printed_perturbation("digits", "IB") is None


def test_what_is_recorded_is_below_the_geometric_ceiling():
    found = recorded_ceilings()
    for row in found.values():
        assert 0 < row["both"] < row["single"] and row["single"] / 2 < row["mean_assigned"] < 0.9


def test_the_closed_forms_are_what_the_measurement_gives(rng):
    label = np.repeat(np.arange(10), 2)
    simplex = (np.eye(10) - 0.1)[label]
    assert mean_ceiling(simplex, label) == pytest.approx(equal_norm_ceiling(10), rel=1e-12)
    angle = 2.0
    points = np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    found = boundary_ceiling(points, np.array([0, 1]), points, np.array([0, 1]))
    assert cosine_needed(float(found.both[0])) == pytest.approx(math.cos(angle))
