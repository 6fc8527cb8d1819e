"""Every public function of `lpc.evaluation` and `lpc.losses` on a pretended GPU: the values of the CPU."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.measures import PUBLIC, Draw
from support.pretended_gpu import pretended_gpu
from support.references import REFERENCES, Case


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for part in value for one in tensors_of(part)] if isinstance(value, (tuple, list)) else []


def numbers(value: Any) -> list[float]:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value
        return [float(number) for number in value.ravel()]
    if isinstance(value, (tuple, list)):
        return [number for part in value for number in numbers(part)]
    return [math.nan if value is None or isinstance(value, str) else float(value)]


def called(function: Any, case: Case, device: str) -> Any:
    """Return what a function returns for points that are drawn, or the error that it raises."""
    draw = Draw(np.random.default_rng(0), 12, 3, "plain", "range")
    arrays = {name: draw.array(kind, np.float64) for name, kind in case.arrays.items()}
    options = {name: make(draw) for name, make in case.options.items()}
    if "generator" in options:
        options["generator"] = torch.Generator(device).manual_seed(0)
    tensors = {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}
    try:
        return (case.call or function)(**tensors, **options)
    except ValueError as error:
        return str(error)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.filterwarnings("ignore:classes .* have (one|no) point")
@pytest.mark.parametrize("function", list(REFERENCES), ids=[PUBLIC.get(f, str(f)) for f in REFERENCES])
def test_on_a_gpu_a_measure_is_what_it_is_on_the_cpu(function):
    case = REFERENCES[function]
    expected = called(function, case, "cpu")
    with pretended_gpu() as gpu:
        found = called(function, case, "cuda")
        assert not case.arrays or all(one.is_cuda for one in tensors_of(found)), "left on the CPU"
    assert not gpu.rounded
    assert gpu.launches or not case.arrays, "nothing was computed there"
    if isinstance(expected, str):
        assert found == expected
        return
    ours, theirs = np.array(numbers(found)), np.array(numbers(expected))
    size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9 * size + 1e-15)
