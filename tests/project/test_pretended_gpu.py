"""The pretended GPU refuses what CUDA refuses, counts waits, and records what CUDA records."""

import ast
import copy
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pretended_gpu import pretended_gpu
from support.pretended_kernels import on_gpu

from lpc.computing.precision import exact_float32

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu():
    with pretended_gpu() as kernels:
        yield kernels


def there(*shape: int) -> torch.Tensor:
    return torch.ones(shape, device="cuda")


def test_a_device_is_answered_for_what_is_made_moved_viewed_copied_and_computed(gpu):
    value = torch.zeros(2, 3).cuda()
    made = [torch.arange(3, device="cuda"), value.new_zeros(2), torch.rand(2, device="cuda:0")]
    made += [value[0], value.T.contiguous(), value + 1, copy.deepcopy(value), value.to(torch.float64)]
    made += [torch.nn.Parameter(value), torch.vmap(lambda row: row * 2)(value), torch.zeros(2).to(value)]
    assert all(one.is_cuda and one.device == torch.device("cuda", 0) and not one.is_cpu for one in made)
    back = [
        value.cpu(),
        value.to("cpu"),
        value.new_zeros(2, device="cpu"),
        torch.zeros(2),
        torch.zeros(2) + 1,
    ]
    back += [torch.zeros(2, 3).copy_(value)]
    assert all(one.device == torch.device("cpu") for one in back)


def test_a_gradient_goes_back_to_the_device_of_its_leaf(gpu):
    leaf = torch.ones(3, requires_grad=True)
    (leaf.cuda() * 2).sum().backward()
    assert leaf.grad is not None and leaf.grad.device.type == "cpu" and leaf.grad.tolist() == [2.0] * 3
    own = there(3).requires_grad_()
    (own.cpu() * 2).sum().backward()
    assert own.grad is not None and own.grad.is_cuda


MIXED = {
    "sum": lambda: there(3) + torch.ones(3),
    "a number on the GPU": lambda: torch.ones(3) * there(),
    "product": lambda: there(2, 3) @ torch.ones(3, 2),
    "list": lambda: torch.stack([there(), torch.ones(())]),
    "index on the GPU": lambda: torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")],
    "backward": lambda: there(3).requires_grad_().square().backward(torch.ones(3)),
}


@pytest.mark.parametrize("name", MIXED)
def test_operands_on_two_devices_are_refused(gpu, name):
    with pytest.raises(RuntimeError, match="one device"):
        MIXED[name]()


def test_a_number_of_the_cpu_may_stand_beside_the_gpu(gpu):
    assert float((there(3) * torch.tensor(2.0) + 1).sum()) == 9


def test_numpy_and_generators_of_the_other_device_are_refused(gpu):
    for refused in (lambda: there(2).numpy(), lambda: np.asarray(there(2))):
        with pytest.raises(TypeError, match="numpy"):
            refused()
    with pytest.raises(RuntimeError, match="a generator on cpu"):
        torch.rand(2, generator=torch.Generator(), device="cuda")
    with pytest.raises(RuntimeError, match="a generator on cuda"):
        torch.rand(2, generator=torch.Generator("cuda"))
    state = torch.Generator("cuda").get_state()
    with pytest.raises(RuntimeError, match="wrong size"):
        torch.Generator().set_state(state)


WAITS = {
    "_local_scalar_dense": lambda value: value.sum().item(),
    "tolist": lambda value: value.tolist(),
    "copy to cpu": lambda value: value.cpu(),
    "copy to cuda": lambda value: torch.tensor([1.0], device="cuda"),
    "copy_ between devices": lambda value: value.copy_(torch.ones(3)),
    "nonzero": lambda value: torch.nonzero(value),
    "index by a mask": lambda value: value[value > 0],
    "_unique2": lambda value: torch.unique(value),
}


@pytest.mark.parametrize("name", WAITS)
def test_every_wait_is_counted_once_and_forbidden_in_a_capture(gpu, name):
    value = there(3)
    WAITS[name](value)
    assert [what for what, _ in gpu.waits.elements()] == [name]
    with pytest.raises(RuntimeError, match="stream is capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        WAITS[name](value)


def test_what_a_gpu_does_not_wait_for_is_not_counted(gpu):
    value = there(3)
    torch.nn.functional.one_hot(value.long(), 4).sum(dim=0)
    torch.where(value > 0, value, 0.0).sort()
    assert not gpu.waits


def test_roundings_to_tf32_are_noted(gpu):
    image, weight = there(1, 1, 4, 4), there(1, 1, 3, 3).requires_grad_()
    torch.conv2d(image, weight).sum().backward()
    assert {name for name, _ in gpu.rounded} == {"convolution", "convolution_backward"}
    gpu.rounded.clear()
    with exact_float32():
        torch.conv2d(image, weight).sum().backward()
    torch.conv2d(image.double(), weight.double())
    assert not gpu.rounded


def test_a_graph_replays_on_the_same_memory_with_the_numbers_of_its_capture(gpu):
    value, rate, step = there(2), torch.tensor(0.5, device="cuda"), 10.0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value.add_(rate).add_(step)
        total = value.sum()
    assert value.tolist() == [1.0, 1.0]  # a capture computes nothing
    step = 1000.0
    rate.fill_(2.0)
    value.fill_(3.0)
    graph.replay()
    assert value.tolist() == [15.0, 15.0] and total.item() == 30.0
    with (
        pytest.raises(RuntimeError, match="the graph does not know"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        torch.rand(2, generator=torch.Generator("cuda"), device="cuda")


def test_a_checkpoint_is_loaded_where_it_is_asked_for(gpu):
    buffer = io.BytesIO()
    torch.save({"value": there(2)}, buffer)
    for device in ("cuda", "cpu"):
        buffer.seek(0)
        assert torch.load(buffer, map_location=device)["value"].device.type == device


def test_outside_nothing_is_left_of_it():
    before = torch.cuda.is_available(), torch.Generator, torch.load
    with pretended_gpu():
        value = there(2)
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available(), torch.Generator, torch.load) == before
    assert on_gpu(value) and value.device.type == "cpu"


def names_in(path: str) -> set[str]:
    tree = ast.parse(ROOT.joinpath(path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_fault_that_it_found_has_a_test():
    text = ROOT.joinpath("tests", "support", "pretended_gpu.md").read_text()
    faults = re.findall(r"^\| (.+) \| `(tests/\S+\.py)::(test_\w+)` \|$", text, re.MULTILINE)
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(faults) == len(rows) == len({fault for fault, *_ in faults}) == 20
    for fault, path, name in faults:
        assert name in names_in(path), fault
