import pytest
import torch

from experiments.probes import perturbations
from experiments.probes.perturbations import Attacked
from lpc.data import ImageSet


def linear(batch):
    """Two classes, decided by the sign of the first pixel; margin 4 |x|, gradient norm 4."""
    first = batch.flatten(1)[:, 0]
    return torch.stack([2 * first, -2 * first], dim=1)


def image(*rows):
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 1, 1, 2)


def test_the_shortest_is_along_the_best_direction_and_never_longer_than_deepfools():
    start = image((3.0, 4.0), (3.0, 4.0))
    far = Attacked(linear, start, image((-6.0, 0.0), (-6.0, 0.0)))
    assert far.length.tolist() == pytest.approx([1.2, 1.2])
    straight, aslant = image((-1.0, 0.0), (-1.0, 0.0)), image((-1.0, 1.0), (0.0, 0.0))
    own = perturbations.shortest(far, [far.perturbation])
    assert own.tolist() == pytest.approx([0.6, 0.6], abs=5e-4)
    both = perturbations.shortest(far, [aslant, straight])
    assert both.tolist() == pytest.approx([0.6, 0.6], abs=5e-4)
    slow = perturbations.shortest(far, [aslant])
    assert slow.tolist() == pytest.approx([0.6 * 2**0.5, 1.2], abs=5e-4)


def test_the_margin_falls_linearly_along_a_linear_networks_perturbation():
    network = Attacked(linear, image((3.0, 4.0)), image((-6.0, 0.0)))
    along = perturbations.margin_along(network, torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64))
    assert along[0].tolist() == pytest.approx([1.0, 0.5, 0.0, -1.0])


def test_the_nearest_stranger_has_another_label():
    pixels = torch.tensor([[0, 0], [51, 0], [0, 255]], dtype=torch.uint8).reshape(3, 1, 1, 2)
    train = ImageSet(pixels, torch.tensor([0, 0, 1]), 2, (0.0,), (1.0,))
    step = perturbations.nearest_stranger(image((0.1, 0.0), (0.0, 0.9)), torch.tensor([0, 1]), train)
    assert step.flatten(1).tolist() == [pytest.approx([-0.1, 1.0]), pytest.approx([0.0, -0.9])]
