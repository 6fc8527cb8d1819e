"""The model of a training step: operations against torch's count, time against a hand calculation, bounds."""

import pytest

from experiments.benchmarks.step_model import (
    EFFICIENCY,
    H200,
    PROGRAMS,
    START,
    SUM_UP,
    Card,
    Convolution,
    convolutions,
    modelled,
    modelled_hours,
    product_seconds,
    step_seconds,
)
from experiments.benchmarks.training_flops import operations, parameters
from experiments.studies.image_shapes import shape_of_data
from experiments.studies.profiles import profile, specs

ROUND = Card("round", processors=100, product=100e12, stream=1e12)


def first(name):
    return specs(profile(name), only=("IB",))[0]


@pytest.mark.parametrize("name", ["paper-cifar10", "paper-cifar100"])
def test_multiply_adds_are_those_that_torch_counts(name):
    """Except for the head, which has a few thousand."""
    spec = first(name)
    shape = shape_of_data(spec.data)
    layers = convolutions(spec.model, shape.channels, shape.size)
    counted = operations(spec)
    assert sum(one.multiply_adds for one in layers) == pytest.approx(counted.forward_multiply_adds, rel=1e-3)
    step = 2 * (3 * sum(one.multiply_adds for one in layers) - layers[0].multiply_adds)
    assert step == pytest.approx(counted.step_flops, rel=1e-3)


def test_a_product_is_waves_of_tiles():
    """One tile of 128 x 128 x 1000 takes 32.768 MFLOP over 1 TFLOP/s of a multiprocessor: 32.768 us."""
    tile = 32.768e-6
    assert product_seconds(128 * 100, 128, 1000, ROUND, efficiency=1) == pytest.approx(tile + START)
    assert product_seconds(128 * 100 + 1, 128, 1000, ROUND, efficiency=1) == pytest.approx(2 * tile + START)
    assert product_seconds(128 * 100, 256, 1000, ROUND, efficiency=0.5) == pytest.approx(4 * tile + START)
    assert product_seconds(128 * 100, 64, 1000, ROUND, efficiency=1) == pytest.approx(tile / 2 + START)
    # 10 tiles, each cut into 10 parts of 600 terms: all multiprocessors at once, then the sum
    split = product_seconds(1280, 128, 6000, ROUND, efficiency=1)
    assert split == pytest.approx(tile * 0.6 + START + SUM_UP)


def test_a_step_by_hand():
    """One layer, whose gradient of the input is not needed; memory is slow, so that bytes decide."""
    slow = Card("slow", processors=1, product=1e18, stream=1e6)
    layer = Convolution(channels=4, filters=8, taps=9, read=64, written=16)
    moved = 2 * 10 * (64 * 4 + 16 * 8)
    weights = 8 * 4 * 9
    how = PROGRAMS["graph"]
    expected = (2 * moved + how.passes * 2 * 10 * 16 * 8 + weights * 40) / 1e6
    found = step_seconds([layer], batch=10, card=slow, program="graph")
    assert found == pytest.approx(expected, rel=1e-3)
    two = step_seconds([layer, layer], batch=10, card=slow, program="graph")
    assert two == pytest.approx(
        expected + (3 * moved + how.passes * 2 * 10 * 16 * 8 + weights * 40) / 1e6, rel=1e-3
    )


@pytest.mark.parametrize(
    ("name", "rate", "share"), [("paper-cifar10", 64_000, 0.27), ("paper-cifar100", None, 0.22)]
)
def test_networks_reach_what_another_model_found_within_a_quarter(name, rate, share):
    """They never reach more of the product's rate than a tile does, nor more if kernels are not merged."""
    spec = first(name)
    found, reached = modelled(spec, "compiled and graph")
    assert rate is None or found == pytest.approx(rate, rel=0.25)
    assert reached == pytest.approx(share, rel=0.25) and reached < EFFICIENCY
    assert found > modelled(spec, "graph")[0]
    floor = spec.train.batch_size * operations(spec).step_flops / H200.product
    assert spec.train.batch_size / found > floor
    shape = shape_of_data(spec.data)
    layers = convolutions(spec.model, shape.channels, shape.size)
    assert sum(one.weights for one in layers) == pytest.approx(parameters(spec), rel=0.02)


def test_the_protocols_hours_are_images_over_their_rate():
    table = modelled_hours()
    assert list(table.index[-1:]) == ["all"] and table["runs"].iloc[-1] == "720"
    spec = first("paper-cifar10")
    shape = shape_of_data(spec.data)
    rate, share = modelled(spec, "graph")
    row = table.loc["paper-cifar10, learning rates"]
    hours = int(row["runs"]) * spec.train.epochs * shape.train / rate / 3600
    assert float(row["graph (h)"]) == pytest.approx(hours, rel=5e-3)
    assert row["graph (of the product's)"] == f"{share:.0%}"
    parts = table["graph (h)"].iloc[:-1].astype(float).sum()
    assert float(table["graph (h)"].iloc[-1]) == pytest.approx(parts, rel=1e-2)
