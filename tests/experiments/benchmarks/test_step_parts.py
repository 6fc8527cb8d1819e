"""Where a program's time goes, tested on programs that spend it in one place."""

import time
from collections.abc import Callable

import pytest
import torch

from experiments.benchmarks import step_parts
from experiments.benchmarks.sizes import SIZES
from experiments.benchmarks.step_parts import KINDS, OTHERS, PRODUCTS, PYTHON, parts, parts_table

LARGE = torch.ones(1000, 1000)
NORM = torch.nn.BatchNorm1d(1000)
PROGRAMS: dict[str, Callable[[], object]] = {
    PRODUCTS: lambda: [LARGE @ LARGE for _ in range(3)],
    "batch norm": lambda: [NORM(LARGE) for _ in range(10)],
    "activations": lambda: [torch.nn.functional.silu(LARGE) for _ in range(20)],
    OTHERS: lambda: [LARGE.cumsum(0) for _ in range(20)],
    PYTHON: lambda: time.sleep(0.2),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_that_does_one_thing_spends_its_time_there(kind):
    most = ""
    for _ in range(20):  # another process that has the core between operations adds to Python's time
        found = parts(PROGRAMS[kind])
        assert sum(found.values()) == pytest.approx(1)
        if (most := max(found, key=lambda one: found[one])) == kind:
            break
    assert most == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::convolution_backward", PRODUCTS),
        ("aten::mkldnn_convolution", PRODUCTS),
        ("aten::addmm", PRODUCTS),
        ("aten::bmm", PRODUCTS),
        ("autograd::engine::evaluate_function: NativeBatchNormBackward0", "batch norm"),
        ("SiluBackward0", "activations"),
        ("Optimizer.step#AdamW.step", "optimizer"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::copy_", OTHERS),
        ("aten::sum", OTHERS),
    ],
)
def test_names_of_the_profiler_have_kinds(name, kind):
    assert step_parts.kind_of(name) == kind


def test_the_table_has_a_column_for_each_training_and_the_limit_is_what_products_leave(monkeypatch):
    shares = [
        {PRODUCTS: 0.64, PYTHON: 0.36},
        {PRODUCTS: 0.25, PYTHON: 0.75},
        {PRODUCTS: 0.004, PYTHON: 0.996},
    ]
    told = iter(shares)
    ran = []

    def pretended(program):
        ran.append(program())
        return dict.fromkeys((*KINDS, OTHERS), 0.0) | next(told)

    monkeypatch.setattr(step_parts, "parts", pretended)
    table = parts_table(SIZES["smoke"])
    assert list(table) == [
        "resnet18 (8), float32",
        "resnet18 (8), bfloat16",
        f"mlp (128), float32, {SIZES['smoke'].cohort} runs together",
    ]
    assert list(table.index) == [*KINDS, OTHERS, PYTHON, "limit: products alone"]
    assert list(table.loc[PRODUCTS]) == ["64%", "25%", "0%"] and len(ran) == 3
    assert list(table.loc["limit: products alone"]) == ["1.6 times", "4.0 times", "250.0 times"]
