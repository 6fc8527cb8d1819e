import pytest
import torch

from experiments.chapters.neural_collapse import closest_frame, least_equiangularity
from lpc.evaluation.neural_collapse import neural_collapse


def measures(means):
    """The library's measures of class means, one point per class."""
    return neural_collapse(means.repeat(2, 1), torch.arange(len(means)).repeat(2))  # one point has no spread


def test_a_simplex_is_found_where_there_is_room():
    assert measures(closest_frame(classes=5, width=4)).max_angle < 1e-3
    assert least_equiangularity(classes=5, width=4) == least_equiangularity(classes=5, width=9) == 0.0


def test_four_means_in_a_plane_are_the_best_of_all_crossed_pairs():
    # four equal norms that add to zero in a plane: two opposite pairs at an angle a, whose cosines over the
    # six pairs are -1 twice, cos a twice and -cos a twice
    angle = torch.linspace(0, torch.pi / 2, 100_001, dtype=torch.float64)
    cosine = angle.cos()
    least = float((2 * (2 / 3) + 2 * (cosine + 1 / 3).abs() + 2 * (1 / 3 - cosine).abs()).min()) / 6
    found = measures(closest_frame(classes=4, width=2))
    assert found.max_angle == pytest.approx(least, abs=2e-3) and found.equinorm < 1e-3


def test_bound_is_reached_by_a_square_and_never_passed():
    angle = torch.arange(4) * torch.pi / 2
    square = torch.stack([angle.cos(), angle.sin()], dim=1).double()
    assert measures(square).equiangularity == pytest.approx(least_equiangularity(classes=4, width=2))
    with pytest.raises(ValueError, match="classes=1"):
        least_equiangularity(classes=1, width=2)
