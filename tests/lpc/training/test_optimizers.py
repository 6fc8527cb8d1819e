"""Learning rates of a run alone, as numbers and as the tensors that a recorded step reads."""

import copy
from typing import Any

import pytest
import torch

from lpc.training.optimizers import adamw, restore, set_rates


def network() -> Any:
    head = torch.nn.ModuleDict({"classifier": torch.nn.Linear(4, 3), "penultimate": torch.nn.Linear(5, 4)})
    return torch.nn.ModuleDict({"backbone": torch.nn.Linear(6, 5), "head": head})


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [round(float(group["lr"]), 6) for group in optimizer.param_groups]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_last_classifier_keeps_its_rate_while_the_others_decay(on_gpu):
    model = network()
    optimizer = adamw(model.named_parameters(), weight_decay=1e-4, on_gpu=on_gpu)
    assert [isinstance(group["lr"], torch.Tensor) for group in optimizer.param_groups] == [on_gpu] * 2
    last, rest = (group["params"] for group in optimizer.param_groups)
    assert {id(value) for value in last} == {id(value) for value in model["head"]["classifier"].parameters()}
    assert len(rest) == 4
    set_rates(optimizer, [0.01, 0.0025])
    assert rates(optimizer) == [0.01, 0.0025]


def test_a_default_rate_of_all_groups_would_be_one_tensor():
    """The control: why every group has its own."""
    model = network()
    groups = [{"params": model["head"].parameters()}, {"params": model["backbone"].parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=torch.tensor(1.0), fused=True, capturable=True)
    set_rates(optimizer, [0.01, 0.0025])
    assert rates(optimizer) == [0.0025, 0.0025]


@pytest.mark.parametrize("saved_on_gpu", [False, True])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_rates_stay_apart_and_settings_stay_the_devices_after_loading(on_gpu, saved_on_gpu):
    """Also from what older runs saved on a GPU: one tensor in both groups."""
    model = network()
    saved = copy.deepcopy(
        adamw(model.named_parameters(), weight_decay=1e-4, on_gpu=saved_on_gpu).state_dict()
    )
    in_order = [*model["head"]["classifier"].parameters(), *model["backbone"].parameters()]
    in_order += model["head"]["penultimate"].parameters()
    saved["state"] = {
        place: {"step": torch.tensor(7.0), "exp_avg": value.detach() + 1, "exp_avg_sq": value.detach() + 2}
        for place, value in enumerate(in_order)
    }
    shared = torch.tensor(0.5) if saved_on_gpu else 0.5
    for group in saved["param_groups"]:
        group["lr"] = shared
    optimizer = adamw(model.named_parameters(), weight_decay=1e-4, on_gpu=on_gpu)
    restore(optimizer, saved)
    set_rates(optimizer, [0.01, 0.0025])
    assert rates(optimizer) == [0.01, 0.0025]
    assert [group["capturable"] for group in optimizer.param_groups] == [on_gpu] * 2
    first = optimizer.param_groups[0]["params"][0]
    assert optimizer.state[first]["step"] == 7 and torch.equal(optimizer.state[first]["exp_avg"], first + 1)
