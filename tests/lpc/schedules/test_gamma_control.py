import math

import numpy as np
import pytest
import torch

from lpc.equilibrium import logit_gap
from lpc.schedules.gamma_control import GapSchedule, gap_gamma, separation


def test_separation_is_the_rms_distance_of_all_pairs(rng):
    weight = rng.standard_normal((5, 3))
    pairs = [((weight[i] - weight[j]) ** 2).sum() for i in range(5) for j in range(i)]
    assert separation(weight) == pytest.approx(math.sqrt(np.mean(pairs)))
    assert separation(3 * weight + 1) == pytest.approx(3 * separation(weight))
    with pytest.raises(ValueError, match="expected 2 or more classes"):
        separation(weight[:1])


@pytest.mark.parametrize("gap", [0.1, 2.0, 6.0])
def test_the_law_gives_the_gap_back(rng, gap):
    weight = rng.standard_normal((7, 4))
    gamma = gap_gamma(weight, gap=gap)
    assert logit_gap(gamma, classes=7, separation=separation(weight)) == pytest.approx(gap, rel=1e-9)
    assert gap_gamma(2 * weight, gap=gap) == pytest.approx(4 * gamma)


def test_gamma_grows_to_what_weights_carry_follows_them_down_and_waits_where_latents_lag(rng):
    weight = torch.from_numpy(rng.standard_normal((4, 6)))
    schedule = GapSchedule(gap=2.0, initial=1e-3, factor=3.0)
    seen = [schedule.update(weight, measured=2.0) for _ in range(12)]
    carried = gap_gamma(weight, gap=2.0)
    assert seen[0] == pytest.approx(3e-3) and seen[-1] == pytest.approx(carried) == max(seen)
    assert schedule.update(weight / 2, measured=2.0) == pytest.approx(carried / 4)
    assert schedule.update(weight, measured=0.9) == pytest.approx(carried / 8)
    assert schedule.update(weight, measured=math.nan) == pytest.approx(3 * carried / 8)
    assert GapSchedule(maximum=1e-3).update(weight, measured=9.0) == 1e-3
    for wrong in ({"gap": 0.0}, {"initial": -1.0}, {"factor": 1.0}, {"maximum": math.inf}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            GapSchedule(**wrong)
