"""Images on the device: splits, padding, normalisation, augmentation, batches."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as oracle

from lpc import datasets
from lpc.data import Augment, ImageSet, Splits, batches, left_out, load_images
from lpc.datasets import RawImages
from lpc.specs import DataSpec

Load = Callable[..., Splits]


@pytest.fixture
def raw(rng: np.random.Generator) -> RawImages:
    """40 + 10 images of 5 x 5 pixels in two channels of very different range."""
    images = rng.integers(0, [[[[256]], [[7]]]], (50, 2, 5, 5)).astype(np.uint8)
    label = np.arange(50) % 4
    return RawImages(images[:40], label[:40], images[40:], label[40:])


@pytest.fixture
def load(raw: RawImages, monkeypatch: pytest.MonkeyPatch) -> Load:
    """``load_images`` of the images drawn above, or of others."""

    def load(raw: RawImages = raw, **options: int) -> Splits:
        monkeypatch.setattr(datasets, "LOADERS", {"drawn": lambda folder: raw})
        return load_images(DataSpec(name="drawn", **options))  # type: ignore[arg-type]

    return load


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_digits_split_is_fixed_stratified_and_disjoint():
    spec = DataSpec(name="digits", validation=240)
    splits = load_images(spec)
    assert splits.validation is not None
    assert [len(part) for part in splits] == [1197, 240, 360]  # type: ignore[arg-type]
    again = load_images(spec)
    assert [part.checksum() for part in splits] == [part.checksum() for part in again]  # type: ignore[union-attr]
    for part in (splits.train, splits.validation, splits.test):
        counts = part.label.bincount()
        assert counts.max() - counts.min() <= 0.15 * counts.max()
    rows = [{tuple(row) for row in part.images.flatten(1).tolist()} for part in splits]  # type: ignore[union-attr]
    assert len(rows[0] | rows[1] | rows[2]) == 1797 == sum(len(part) for part in rows)
    full = load_images(DataSpec(name="digits"))
    assert full.validation is None and len(full.train) == 1437
    assert torch.equal(full.test.images, splits.test.images)


@pytest.mark.parametrize(
    "options", [{}, {"size": 8}, {"validation": 8}, {"validation": 8, "train_limit": 12, "size": 8}]
)
def test_every_split_is_normalised_by_the_mean_and_sd_of_the_images_trained_on(options, load):
    splits = load(**options)
    assert len(splits.train) == options.get("train_limit", 40 - options.get("validation", 0))
    train = splits.train.images.double().numpy() / 255
    mean, sd = train.mean(axis=(0, 2, 3)), train.std(axis=(0, 2, 3))
    assert splits.train.mean == pytest.approx(mean.tolist(), rel=1e-13)
    assert splits.train.sd == pytest.approx(sd.tolist(), rel=1e-13)
    for part in (splits.train, splits.validation, splits.test):
        if part is not None:
            assert (part.mean, part.sd) == (splits.train.mean, splits.train.sd)
            assert part.images.dtype == torch.uint8
            expected = (part.images.numpy() / 255 - mean[:, None, None]) / sd[:, None, None]
            normalised = part.normalised()
            assert normalised.dtype == torch.float32
            np.testing.assert_allclose(normalised, expected, rtol=0, atol=2e-6)
    assert splits.train.normalised().mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert not torch.allclose(splits.test.normalised().mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-3)


def test_normalised_takes_any_index_and_changes_no_image(load):
    images = load().train
    before, everything = images.images.clone(), images.normalised()
    index = torch.tensor([[3, 1, 3], [0, 39, 2]])
    assert torch.equal(images.normalised(index), everything[index])
    assert torch.equal(images.normalised(index[0]), everything[index[0]])
    assert torch.equal(images.normalised(torch.tensor(7)), everything[7])
    assert torch.equal(images.normalised(slice(5, 9)), everything[5:9])
    plain = images.augmented(index[0], Augment(), generator())
    assert torch.equal(plain, everything[index[0]])
    images.augmented(index[0], Augment(flip=True, crop_padding=2, noise=1.0), generator())
    assert torch.equal(images.images, before)


def test_pixels_are_from_zero_to_one_as_torchvision_has_them():
    images = load_images(DataSpec(name="digits")).test
    chosen = torch.tensor([5, 0, 5])
    expected = oracle.convert_image_dtype(images.images[chosen], torch.float32)
    assert torch.equal(images.pixels(chosen), expected)
    double = images.pixels(dtype=torch.float64)
    assert double.dtype == torch.float64 and double.min() == 0 and double.max() == 1
    sd, mean = (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in (images.sd, images.mean))
    torch.testing.assert_close((double - mean) / sd, images.normalised().double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "before", "after"), [(5, 0, 0), (6, 0, 1), (8, 1, 2), (9, 2, 2)])
def test_images_are_padded_evenly_and_an_odd_rest_goes_below_and_right(size, before, after, load, raw):
    splits = load(validation=8, size=size)
    small = load(validation=8)
    for padded, part in zip(splits, small, strict=True):
        expected = oracle.pad(part.images, [before, before, after, after])  # left, top, right, bottom
        assert torch.equal(padded.images, expected)
        assert torch.equal(padded.label, part.label)
        assert padded.size == size


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DataSpec(name="digit"), "unknown data set 'digit'. Did you mean digits"),
        (DataSpec(name="digits", validation=1437), "validation asks for 1437 of 1437"),
        (DataSpec(name="digits", validation=5), "validation asks for 5 of 1437"),
        (
            DataSpec(name="digits", size=7),
            "size is 7; expected 8 or more, or None: images of 'digits' have 8 x 8",
        ),
    ],
)
def test_data_that_cannot_be_are_errors(spec, words):
    with pytest.raises(ValueError, match=words):
        load_images(spec)


def test_a_channel_that_never_varies_is_an_error(load, raw):
    raw.train_images[:, 1] = 9
    with pytest.raises(ValueError, match="channel 1 of the training images of 'drawn' is 9 in every pixel"):
        load(raw)
    raw.train_images[3, 1, 2, 2] = 8
    assert load(raw).train.sd[1] == pytest.approx(np.sqrt((1 - 1e-3) / 1e3) / 255, rel=1e-12)


def test_batches_visit_every_point_once():
    parts = list(batches(10, 4, generator()))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.cat(parts).sort().values.tolist() == list(range(10))


def moved_by_torchvision(image: Tensor, flipped: bool, down: int, right: int, pad: int) -> Tensor:
    image = oracle.pad(oracle.hflip(image) if flipped else image, [pad])
    return oracle.crop(image, down, right, image.shape[-2] - 2 * pad, image.shape[-1] - 2 * pad)


@pytest.mark.parametrize("shape", [(60, 1, 8, 8), (60, 3, 6, 9), (1, 2, 5, 5)])
@pytest.mark.parametrize(("flip", "pad"), [(True, 0), (False, 2), (True, 4), (True, 7)])
def test_flips_and_crops_are_torchvisions_on_the_same_draws(shape, flip, pad):
    images = torch.randint(256, shape, generator=generator(1), dtype=torch.uint8)
    before, draws = images.clone(), generator(2)
    flipped = torch.rand(shape[0], generator=draws) < 0.5 if flip else torch.zeros(shape[0], dtype=torch.bool)
    down, right = torch.randint(2 * pad + 1, (2, shape[0]), generator=draws)
    choices = zip(images, flipped.tolist(), down.tolist(), right.tolist(), strict=True)
    expected = torch.stack([moved_by_torchvision(*choice, pad) for choice in choices])
    moved = Augment(flip=flip, crop_padding=pad).moved(images, generator(2))
    assert moved.dtype == torch.uint8 and moved.is_contiguous()
    assert torch.equal(moved, expected)
    assert torch.equal(images, before)


def places(flip: bool, pad: int) -> Tensor:
    """How often one image landed at each (flipped, down, right), of 20,000 draws."""
    image = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 4, 4)
    moved = Augment(flip=flip, crop_padding=pad).moved(image.expand(20_000, 1, 4, 4), generator(3))
    side = range(2 * pad + 1)
    candidates = torch.stack(
        [
            moved_by_torchvision(image, f, down, right, pad)
            for f in (False, True)
            for down in side
            for right in side
        ]
    )
    hits = (moved[:, None] == candidates).flatten(2).all(dim=2)
    assert hits.any(dim=1).all()
    return hits.sum(dim=0).reshape(2, len(side), len(side))


def test_each_flip_and_shift_is_equally_likely():
    counts = places(flip=True, pad=2).double()
    expected = 20_000 / 50
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 23 < chi_square < 86  # 49 degrees of freedom: all but 0.1 % on either side
    assert counts[1].sum() == pytest.approx(10_000, abs=4 * 71)


def test_without_flips_nothing_is_mirrored_and_without_crops_nothing_shifted():
    assert places(flip=False, pad=1)[1].sum() == 0
    assert places(flip=True, pad=0).sum(dim=0).item() == 20_000
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    assert Augment().moved(images, generator()) is images


def test_equal_generator_states_give_equal_images_and_others_do_not(load):
    images, index = load().train, torch.arange(40)
    augment = Augment(flip=True, crop_padding=2, noise=0.01)
    first, again, other = (images.augmented(index, augment, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first != other).flatten(1).any(dim=1).all()


def test_noise_has_the_sd_it_says_and_is_added_once():
    images = torch.full((4, 1, 50, 50), 3.0)
    noisy = Augment(noise=0.01).noisy(images, generator())
    assert noisy.std().item() == pytest.approx(0.01, rel=0.05)
    assert noisy.mean().item() == pytest.approx(3, abs=4e-4)
    assert torch.equal(images, torch.full_like(images, 3.0))
    assert Augment().noisy(images, generator()) is images


def test_channels_are_normalised_each_by_its_own_numbers():
    images = torch.full((2, 2, 3, 3), 51, dtype=torch.uint8)  # 0.2
    shown = ImageSet(images, torch.zeros(2, dtype=torch.int64), 2, (0.1, 0.5), (0.05, 0.1)).normalised()
    torch.testing.assert_close(shown[:, 0], torch.full((2, 3, 3), 2.0))
    torch.testing.assert_close(shown[:, 1], torch.full((2, 3, 3), -3.0))


def coded(channels: int = 2) -> RawImages:
    """Images of 5 x 5 pixels whose value says where a pixel was, or, of the second one, twice where."""
    code = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5).repeat(channels, axis=1)
    images = np.concatenate([code, 2 * code])
    label = np.array([0, 1])
    return RawImages(images, label, images[::-1], label[::-1])


def test_permuted_pixels_all_change_places_in_the_same_way(load, raw):
    order = load(coded(), permutation_seed=3).train.images[0, 0].flatten().long()
    assert order.sort().values.tolist() == list(range(25)) != order.tolist()
    plain, permuted = load(raw, validation=8), load(raw, validation=8, permutation_seed=3)
    for ours, theirs in zip(permuted, plain, strict=True):
        assert torch.equal(ours.images.flatten(2), theirs.images.flatten(2)[..., order])
        assert torch.equal(ours.label, theirs.label)
        assert (ours.mean, ours.sd) == (theirs.mean, theirs.sd)
    other = load(coded(), permutation_seed=4).train.images[0, 0].flatten().long()
    assert (other != order).sum() > 12


def test_without_a_permutation_pixels_stay_and_padding_comes_before_it(load, raw):
    default, none = load(raw), load(raw, permutation_seed=None)
    for ours, theirs in ((default.train, none.train), (default.test, none.test)):
        assert torch.equal(ours.images, theirs.images)
    assert torch.equal(default.train.images, torch.from_numpy(raw.train_images))
    padded = load(coded(), size=7, permutation_seed=3).train.images
    again = load(coded(), size=7).train.images
    assert torch.equal(padded.flatten(2).sort().values, again.flatten(2).sort().values)
    assert not torch.equal(padded, again)


def test_classes_that_are_left_out_are_in_no_split_and_nothing_is_lost(load, raw):
    everything, splits = load(permutation_seed=3, size=6), load(first_classes=3, permutation_seed=3, size=6)
    rest = left_out(DataSpec(name="drawn", first_classes=3, permutation_seed=3, size=6), splits.train)
    assert rest.classes == 1 and len(rest) == 12 and not rest.label.any()
    assert splits.train.classes == splits.test.classes == 3
    known = [part.images[part.label == 3] for part in (everything.train, everything.test)]
    assert torch.equal(rest.images, torch.cat(known))
    for ours, whole in ((splits.train, everything.train), (splits.test, everything.test)):
        assert torch.equal(ours.images, whole.images[whole.label < 3])
        assert torch.equal(ours.label, whole.label[whole.label < 3])
    pixels = torch.from_numpy(raw.train_images[raw.train_label < 3]).double() / 255
    assert load(first_classes=3).train.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert (rest.mean, rest.sd) == (splits.train.mean, splits.train.sd)
    with pytest.raises(
        ValueError, match=r"first_classes is 4; expected 2 to 3, or None: 'drawn' has 4 classes"
    ):
        load(first_classes=4)
    with pytest.raises(ValueError, match=r"first_classes is None.*no class of 'drawn'"):
        left_out(DataSpec(name="drawn"), splits.train)


def test_pixels_are_normalised_and_brought_back_in_their_own_precision():
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8, generator=generator)
    images = ImageSet(stored, torch.zeros(3, dtype=torch.int64), 2, (0.1, 0.5), (0.05, 0.3))
    pixels = images.pixels(dtype=torch.float64)
    normalised = images.normalise(pixels)
    by_hand = (pixels - torch.tensor([0.1, 0.5]).double().view(2, 1, 1)) / torch.tensor([[[0.05]], [[0.3]]])
    assert normalised.dtype == torch.float64
    torch.testing.assert_close(normalised, by_hand, rtol=1e-6, atol=1e-6)  # by_hand's numbers are float32's
    torch.testing.assert_close(images.normalised(), normalised.float())
    torch.testing.assert_close(images.in_pixels(normalised), pixels, rtol=1e-14, atol=1e-14)
    change = images.change_in_pixels(normalised[1] - normalised[0])
    torch.testing.assert_close(change, pixels[1] - pixels[0], rtol=1e-12, atol=1e-13)
