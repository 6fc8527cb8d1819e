import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lpc.evaluation.corruptions import STRENGTHS, UNITS, corrupted, corrupted_accuracy


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_noise_has_the_stated_sd_and_is_clipped():
    grey = torch.full((200, 1, 16, 16), 0.5, dtype=torch.float64)
    noise = corrupted(grey, "noise", 0.08) - grey  # clipped beyond six sd: never
    assert float(noise.std()) == pytest.approx(0.08, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.002)
    strong = corrupted(grey, "noise", 0.5)
    at_zero = 0.5 * math.erfc(1 / math.sqrt(2))
    assert float((strong == 0).double().mean()) == pytest.approx(at_zero, rel=0.03)
    assert float((strong == 1).double().mean()) == pytest.approx(at_zero, rel=0.03)


def test_seeds_and_the_global_state():
    image = torch.full((40, 3, 8, 8), 0.5)
    state = torch.random.get_rng_state()
    for kind, strength in (("noise", 0.1), ("rotation", 20.0)):
        image = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        one, same, other = (corrupted(image, kind, strength, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(one, same) and not torch.equal(one, other)
        assert not torch.equal(one[0] - image[0], one[1] - image[1])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_formula(generator, channels):
    image = torch.rand(5, channels, 6, 7, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.2989, 0.587, 0.114] if channels == 3 else [1.0], dtype=torch.float64)
    grey = (image * weights[:, None, None]).sum(dim=1).mean(dim=(-2, -1))[:, None, None, None]
    found = corrupted(image, "contrast", 0.3)
    torch.testing.assert_close(found, grey + 0.3 * (image - grey), rtol=1e-6, atol=1e-6)
    if channels == 1:
        assert float(found[0].std() / image[0].std()) == pytest.approx(0.3)


def test_blur_keeps_constants_and_means_the_same_at_every_size():
    constant = torch.full((2, 3, 8, 8), 0.37, dtype=torch.float64)
    torch.testing.assert_close(corrupted(constant, "blur", 0.15), constant)
    point = torch.zeros(1, 1, 65, 65, dtype=torch.float64)
    point[0, 0, 32, 32] = 1
    for strength in (0.03, 0.06):
        spread = corrupted(point, "blur", strength)[0, 0].numpy()
        sd = strength * 65
        place = np.arange(65) - 32
        assert spread.sum() == pytest.approx(1)
        assert math.sqrt((spread.sum(axis=0) * place**2).sum()) == pytest.approx(sd, rel=0.02)
        expected = gaussian_filter(point[0, 0].numpy(), sd, radius=math.ceil(3 * sd))
        np.testing.assert_allclose(spread, expected, atol=1e-12)


def test_rotation_by_right_angles_and_back(generator):
    image = torch.rand(60, 3, 9, 9, generator=generator)
    turned = corrupted(image, "rotation", 90.0)
    left = [
        torch.equal(one, torch.rot90(before, 1, (-2, -1))) for one, before in zip(turned, image, strict=True)
    ]
    right = [
        torch.equal(one, torch.rot90(before, -1, (-2, -1))) for one, before in zip(turned, image, strict=True)
    ]
    assert all(a != b for a, b in zip(left, right, strict=True))  # each one way, about half to the left
    assert 15 < sum(left) < 45
    # A dot at distance 3 right of the centre comes to the angle that was asked for, one way or the other.
    dot = torch.zeros(20, 1, 21, 21, dtype=torch.float64)
    dot[:, 0, 10, 13] = 1
    place = torch.arange(21, dtype=torch.float64) - 10
    mass = corrupted(dot, "rotation", 40.0)[:, 0]
    across = (mass.sum(dim=1) * place).sum(dim=1) / mass.sum(dim=(1, 2))
    up = -(mass.sum(dim=2) * place).sum(dim=1) / mass.sum(dim=(1, 2))
    angle = torch.rad2deg(torch.atan2(up, across))
    torch.testing.assert_close(angle.abs(), torch.full((20,), 40.0).double(), rtol=0, atol=2.5)
    assert bool((angle > 0).any()) and bool((angle < 0).any())


def test_nothing_is_done_at_no_strength(generator):
    image = torch.rand(10, 3, 8, 8, generator=generator)
    for kind, strength in (("noise", 0.0), ("blur", 0.0), ("contrast", 1.0), ("rotation", 0.0)):
        torch.testing.assert_close(corrupted(image, kind, strength), image)


@pytest.mark.parametrize("size", [8, 28, 32])
def test_levels_grow_and_stay_in_the_box(generator, size):
    image = torch.rand(10, 1, size, size, generator=generator)
    assert set(STRENGTHS) == set(UNITS)
    for kind, values in STRENGTHS.items():
        assert len(values) == 5
        changes = []
        for strength in values:
            changed = corrupted(image, kind, strength)
            assert changed.shape == image.shape and changed.dtype == image.dtype
            assert float(changed.min()) >= 0 and float(changed.max()) <= 1
            changes.append(float((changed - image).square().mean()))
        if kind != "rotation":
            assert changes == sorted(changes) and changes[0] > 0


def test_accuracy_counts():
    bright = torch.arange(50) % 2  # the centre stays bright or dark under every corruption
    image = bright[:, None, None, None].expand(-1, 1, 8, 8).float()
    label = torch.where(torch.arange(50) < 40, bright, 1 - bright)
    seen = []

    def centre(batch):
        seen.append(batch)
        return torch.stack([torch.full((len(batch),), 0.5), batch[:, 0, 2:6, 2:6].mean(dim=(1, 2))], dim=1)

    found = corrupted_accuracy(centre, image, label, chunk=7)
    assert len(found) == 20 and {one.kind for one in found} == set(STRENGTHS)
    assert [one.accuracy for one in found] == [0.8] * 20
    assert [one.level for one in found[:5]] == [1, 2, 3, 4, 5]
    assert [one.strength for one in found[:5]] == list(STRENGTHS["noise"])
    assert [len(part) for part in seen[:4]] == [7, 7, 4, 7]  # the first three look at the network
    chosen = corrupted(image, "noise", STRENGTHS["noise"][1], seed=1)
    torch.testing.assert_close(torch.cat(seen[3:])[50:100], chosen)


def test_noise_and_directions_are_those_of_torchs_own_generator():
    image = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        noise = (image + 0.2 * torch.randn_like(image)).clamp(0, 1)
        torch.manual_seed(4)
        left = torch.rand(9) < 0.5
    assert torch.equal(corrupted(image, "noise", 0.2, seed=4), noise)
    turned = corrupted(image, "rotation", 90.0, seed=4)
    for side, quarter in ((left, 1), (~left, -1)):
        expected = torch.rot90(image[side], quarter, (2, 3))
        torch.testing.assert_close(turned[side], expected, rtol=0, atol=1e-4)


def test_refusals(generator):
    image = torch.rand(4, 1, 8, 8, generator=generator)
    with pytest.raises(ValueError, match="kind is 'fog'"):
        corrupted(image, "fog", 1.0)
    with pytest.raises(ValueError, match="strength is -1"):
        corrupted(image, "noise", -1.0)
    outside = image.clone()
    outside[2, 0, 3, 4] = 1.5
    with pytest.raises(ValueError, match=r"1\.5 at index \(2, 0, 3, 4\)"):
        corrupted(outside, "blur", 0.1)
    with pytest.raises(ValueError, match="2 channels"):
        corrupted(torch.rand(4, 2, 8, 8), "contrast", 0.1)
    with pytest.raises(ValueError, match=r"noise 0\.08"):
        corrupted_accuracy(lambda x: torch.full((len(x), 3), torch.nan), image, torch.arange(4) % 3)
