"""ODIN's step of the input against pytorch-ood and a closed form."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import odin_preprocessing
from torch import nn

from lpc.evaluation.odin import odin_input
from lpc.evaluation.reliability import odin_confidence


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("sd", [None, [0.2, 0.5, 1.5]])
@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_the_step_is_that_of_pytorch_ood(sd, temperature):
    model = network()
    image = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = odin_preprocessing(model, image, eps=0.01, temperature=temperature, norm_std=sd)
    ours = odin_input(model, image, step=0.01, temperature=temperature, sd=sd, chunk=7)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)
    assert not torch.equal(ours, image)
    with torch.no_grad():
        before, after = (odin_confidence(model(x), temperature=temperature) for x in (image, ours))
    assert bool((after > before).all())


def test_an_affine_network_has_a_closed_form():
    # of two classes the gradient is the difference of weights, towards the decision
    weight = torch.tensor([[1.0, -2.0, 0.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
    points = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = odin_input(lambda x: x @ weight.T, points, step=0.1)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found - points, [[0.1, -0.1, -0.1], [-0.1, 0.1, 0.1]], atol=1e-15)
    np.testing.assert_array_equal(odin_input(lambda x: x @ weight.T, points, step=0.0), points)


def test_bad_input_is_named():
    model = network()
    image = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"sd is \(0.1,\) for images of shape \(2, 3, 6, 6\)"):
        odin_input(model, image, sd=[0.1])
    with pytest.raises(ValueError, match="step is -1"):
        odin_input(model, image, step=-1)
    with pytest.raises(ValueError, match="no path leads from the logits"):
        odin_input(lambda x: model(x.detach()), image)
    with pytest.raises(ValueError, match="training mode"):
        odin_input(network().train(), image)
