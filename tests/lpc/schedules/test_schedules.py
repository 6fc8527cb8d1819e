"""Two-regime gamma against a step-by-step loop, cosine decay against torch's own."""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch

from lpc.losses import geometric_gamma, two_regime_gamma
from lpc.schedules import gamma, learning_rate
from lpc.specs import TrainSpec

RELEASE = TrainSpec(
    epochs=1000,
    learning_rate=1e-3,
    decay="cosine",
    decay_start=200,
    penalty="squared_norm",
    gamma_initial=1e-4,
    gamma_factor=2.0,
    gamma_every=5,
    gamma_late_factor=1.25,
    gamma_late_from=1e3,
    gamma_maximum=1e6,
)


def by_a_loop(epochs, *, initial, factor, maximum, late_factor, late_from, overshoot=False):
    """Multiply after every epoch, exactly: what a program that keeps gamma as its state does."""
    value, found = Fraction(initial), []
    for _ in range(epochs):
        found.append(float(value if overshoot else min(value, Fraction(maximum))))
        if value < Fraction(maximum):
            value *= Fraction(factor) if value < Fraction(late_from) else Fraction(late_factor)
    return found


@pytest.mark.parametrize("overshoot", [False, True])
@pytest.mark.parametrize(
    "schedule",
    [
        {
            "initial": "0.0001",
            "factor": "2",
            "maximum": "1000000",
            "late_factor": "1.25",
            "late_from": "1000",
        },
        {"initial": "0.0001", "factor": "10", "maximum": "100000", "late_factor": "2", "late_from": "100"},
        {"initial": "0.01", "factor": "3", "maximum": "1", "late_factor": "2", "late_from": "50"},
        {"initial": "0.01", "factor": "3", "maximum": "1000", "late_factor": "1", "late_from": "1"},
        {"initial": "5", "factor": "3", "maximum": "1000", "late_factor": "1.1", "late_from": "2"},
        {"initial": "5", "factor": "1", "maximum": "1000", "late_factor": "2", "late_from": "6"},
        {"initial": "5", "factor": "1", "maximum": "1000", "late_factor": "2", "late_from": "5"},
        {"initial": "5", "factor": "2", "maximum": "3", "late_factor": "2", "late_from": "4"},
    ],
    ids=lambda schedule: "-".join(schedule.values()),
)
def test_two_regimes_are_the_loops(schedule, overshoot):
    expected = by_a_loop(60, **schedule, overshoot=overshoot)
    numbers = {name: float(value) for name, value in schedule.items()}
    found = [two_regime_gamma(epoch, **numbers, overshoot=overshoot) for epoch in range(60)]
    assert found == pytest.approx(expected, rel=1e-12)


def test_gamma_of_the_2025_release_turns_and_ends_where_it_says():
    """Doubling first passes 1e3 after 24 changes, at 1677.7; then 29 changes of a quarter pass 1e6."""
    found = [gamma(epoch, RELEASE) for epoch in range(1000)]
    assert found[:5] == [1e-4] * 5 and found[5] == 2e-4
    assert found[119] == pytest.approx(1e-4 * 2**23) and found[120] == pytest.approx(1e-4 * 2**24)
    assert found[125] == pytest.approx(1e-4 * 2**24 * 1.25)
    reached = 5 * (24 + math.ceil(math.log(1e6 / (1e-4 * 2**24)) / math.log(1.25)))
    assert found[reached] == 1e6 == found[-1] and found[reached - 1] < 1e6 and reached == 265
    over = dataclasses.replace(RELEASE, gamma_overshoot=True)
    assert gamma(999, over) == pytest.approx(1e-4 * 2**24 * 1.25**29) and gamma(999, over) > 1e6
    assert gamma(50, dataclasses.replace(RELEASE, penalty="none")) == 0


def test_one_regime_may_change_every_few_epochs():
    train = dataclasses.replace(RELEASE, gamma_late_factor=None, gamma_late_from=None, gamma_every=3)
    for epoch in range(200):
        expected = geometric_gamma(epoch // 3, initial=1e-4, factor=2.0, maximum=1e6)
        assert gamma(epoch, train) == expected
    assert gamma(5, train) == 2e-4 and gamma(6, train) == 4e-4


def test_gamma_that_meets_its_maximum_exactly_does_not_overshoot():
    """The quotients of the logarithms, such as 3.0000000000000004, miss the integers by rounding alone."""
    for changes in (3, 6, 12, 13):
        maximum = 1e-4 * 5.0**changes
        assert math.log(maximum / 1e-4) / math.log(5.0) > changes
        found = geometric_gamma(99, initial=1e-4, factor=5.0, maximum=maximum, overshoot=True)
        assert found == pytest.approx(maximum, rel=1e-12)
        found = two_regime_gamma(
            changes + 1, initial=1e-4, factor=5.0, late_factor=1.5, late_from=maximum, maximum=1e9
        )
        assert found == pytest.approx(1.5 * maximum, rel=1e-12)
    assert geometric_gamma(9, initial=2.0, factor=1.0, maximum=1.0, overshoot=True) == 2.0


@pytest.mark.parametrize(("late_factor", "late_from"), [(0.9, 1.0), (1.1, 0.0)])
def test_no_schedule_shrinks(late_factor, late_from):
    with pytest.raises(ValueError, match=r"late_factor is 0\.9; expected|late_from is 0\.0; expected"):
        two_regime_gamma(
            3, initial=1.0, factor=2.0, maximum=9.0, late_factor=late_factor, late_from=late_from
        )


def test_cosine_decay_is_torchs():
    train = dataclasses.replace(RELEASE, epochs=50, decay_start=10, learning_rate=0.3)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    expected = []
    for epoch in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if epoch >= 10:
            schedule.step()
    assert [learning_rate(epoch, train) for epoch in range(50)] == pytest.approx(expected, rel=1e-9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)  # after the last epoch
    assert learning_rate(10, train) == 0.3 and learning_rate(30, train) == pytest.approx(0.15)
    halving = dataclasses.replace(train, decay="halving", decay_every=10)
    assert learning_rate(30, halving) == pytest.approx(0.3 / 8)
