import pytest
import torch

from experiments.frames import closest_frame, least_equiangularity
from lpc.evaluation.neural_collapse import neural_collapse


def measures(means):
    """The library's measures of class means, one point a class."""
    return neural_collapse(means, torch.arange(len(means)))


def test_a_simplex_is_found_where_there_is_room():
    assert measures(closest_frame(classes=5, width=4)).max_angle < 1e-3
    assert least_equiangularity(classes=5, width=4) == least_equiangularity(classes=5, width=9) == 0.0


def test_three_means_on_a_line():
    # two on one side: cosines 1, -1, -1 where -1/2 would be wanted
    assert measures(closest_frame(classes=3, width=1)).max_angle == pytest.approx(2.5 / 3, abs=1e-9)


def test_bound_is_reached_by_a_square_and_never_passed():
    angle = torch.arange(4) * torch.pi / 2
    square = torch.stack([angle.cos(), angle.sin()], dim=1).double()
    assert measures(square).equiangularity == pytest.approx(least_equiangularity(classes=4, width=2))
    with pytest.raises(ValueError, match="classes=1"):
        least_equiangularity(classes=1, width=2)
