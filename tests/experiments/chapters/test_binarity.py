import math

import pytest
import torch

from experiments.chapters.binarity.controls import TIGHTNESS, control_table, distinct_patterns, rotated_spread
from lpc.evaluation.binarity import hypercube


def test_only_the_cube_is_binary():
    table = control_table(points=300, width=6, classes=10, seed=0)
    cube = table.T["10 tight classes on a cube"]
    assert cube["mu"] == pytest.approx(2 / TIGHTNESS, rel=0.1)
    assert cube["sigma"] == pytest.approx(TIGHTNESS, rel=0.1)
    assert cube["log_likelihood"] == pytest.approx(
        -math.log(TIGHTNESS * math.sqrt(2 * math.pi * math.e)), abs=0.1
    )
    assert cube["spread"] < 0.02
    others = table.drop(index="10 tight classes on a cube")
    assert others["mu"].max() < 10
    assert others["spread"].dropna().between(0.5, 0.9).all() and others["spread"].isna().sum() == 2


def test_distinct_patterns_are_those_that_are_counted():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(2, (2000, 10, 4), generator=generator)
    counted = sum(len(torch.unique(draw, dim=0)) for draw in drawn) / len(drawn)
    assert distinct_patterns(classes=10, width=4) == pytest.approx(counted, abs=0.1)
    assert distinct_patterns(classes=1, width=3) == pytest.approx(1.0)


def test_a_turned_cube_is_no_cube_and_one_node_cannot_turn():
    label = torch.arange(40) % 8
    corner = torch.tensor([[1.0 if c >> i & 1 else -1.0 for i in range(3)] for c in range(8)])[label]
    spread = rotated_spread(corner, label, rotations=50, seed=0)
    assert hypercube(corner, label).mean_variation == 0 and spread.min() > 0.05 and len(spread) == 50
    line = corner[:, :1]
    assert rotated_spread(line, label, rotations=5, seed=0) == pytest.approx([0.0] * 5, abs=1e-12)
