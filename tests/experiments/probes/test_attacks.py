from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom
from torch import nn

from experiments.chapters.deepfool import surfaces
from experiments.chapters.robustness import attacks as tables
from experiments.probes import attacks
from experiments.probes.attacks import RECOMMENDED, Setting
from lpc.data import ImageSet, Splits
from lpc.evaluation.attacks import ATTACKS

CLASSES = 4
QUICK: Any = {"deepfool": RECOMMENDED, "superdeepfool": RECOMMENDED, "random_directions": (20, None)}


class Linear(nn.Module):
    """Logits that are linear in normalised images: the smallest perturbation is known."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.layer = nn.Linear(32, CLASSES)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            self.layer.weight.copy_(scale * torch.randn(self.layer.weight.shape, generator=generator))
            self.layer.bias.zero_()
        self.eval()

    def forward(self, image):
        return SimpleNamespace(logits=self.layer(image.flatten(1)))


def linear(scale=1.0) -> Any:
    return Linear(scale)


@pytest.fixture(autouse=True)
def serious(monkeypatch):
    """Treat networks here as real ones, however few their training images."""
    monkeypatch.setattr(attacks, "TINY", 0)


@pytest.fixture(scope="module")
def splits():
    """Return images of two channels in the middle of the range, so that the box does not matter."""
    generator = torch.Generator().manual_seed(0)

    def images(count):
        pixels = torch.randint(118, 138, (count, 2, 4, 4), generator=generator).to(torch.uint8)
        label = torch.arange(count) % CLASSES
        return ImageSet(pixels, label, CLASSES, mean=(0.5, 0.5), sd=(0.25, 0.5))

    return Splits(images(60), None, images(30))


def probed(probe, model: Any, splits) -> tuple[dict[str, Any], Any]:
    """Return what a probe found, typed Any because pandas' scalar types are too wide for its table."""
    return probe(model, splits)


def closed_form(model, splits, chosen):
    """Return, for each image, the distance to the nearest boundary in pixel units."""
    aim = splits.test.images[chosen].double() / 255
    mean, sd = (torch.tensor(v).double()[:, None, None] for v in (splits.test.mean, splits.test.sd))
    weight = model.layer.weight.detach().double()
    logits = ((aim - mean) / sd).flatten(1) @ weight.T
    own = logits.argmax(dim=1)
    in_pixels = (weight.view(CLASSES, 2, 4, 4) / sd).flatten(1)
    gap = logits.gather(1, own[:, None]) - logits
    length = torch.linalg.vector_norm(in_pixels[own][:, None] - in_pixels[None], dim=2)
    return torch.where(length > 0, gap / length.clamp(min=1e-30), torch.inf).amin(dim=1).numpy()


def use(monkeypatch, **settings):
    monkeypatch.setattr(attacks, "MAIN", settings)


def test_a_linear_networks_smallest_perturbations_are_those_of_the_closed_form(splits, monkeypatch):
    use(monkeypatch, box=Setting(QUICK), unbounded=Setting({"superdeepfool": RECOMMENDED}, box=None))
    model = linear()
    values, table = probed(attacks.probe, model, splits)
    chosen = torch.tensor(table["image"].to_numpy())
    assert len(table) == 30 and sorted(table["image"]) == list(range(30))
    exact = closed_form(model, splits, chosen)
    np.testing.assert_allclose(table["box_smallest"], exact, rtol=2e-3)
    np.testing.assert_allclose(table["unbounded_smallest"], exact, rtol=2e-3)
    np.testing.assert_allclose(table["box_deepfool"], 1.02 * exact, rtol=2e-3, err_msg="its overshoot")
    assert (table["box_random_directions"] > exact).all()
    assert values["box_smallest_median"] == pytest.approx(np.median(exact), rel=1e-3)
    assert values["box_smallest_low"] < values["box_smallest_median"] < values["box_smallest_high"]
    assert values["box_smallest_fooled"] == 1 and values["box_deepfool_failed"] == 0
    assert values["box_black_beats_white"] == 0 and values["missing"] == {}
    with torch.no_grad():
        predicted = model(splits.test.normalised(chosen)).logits.argmax(dim=1)
    assert table["predicted"].tolist() == predicted.tolist()
    assert table["label"].tolist() == splits.test.label[chosen].tolist()


def test_relative_norms_are_those_of_normalised_images(splits, monkeypatch):
    use(monkeypatch, box=Setting({"superdeepfool": RECOMMENDED}))
    model, one = linear(), Splits(splits.train, None, splits.test)
    _, table = probed(attacks.probe, model, one)
    inputs = splits.test.normalised(torch.tensor(table["image"].to_numpy())).double()
    np.testing.assert_allclose(table["normalised_norm"], inputs.flatten(1).norm(dim=1), rtol=1e-6)
    aim, found = attacks.under(Setting({"superdeepfool": RECOMMENDED}), model, one)
    change = found["superdeepfool"].perturbation.double() / torch.tensor([0.25, 0.5])[:, None, None]
    expected = change.flatten(1).norm(dim=1) / inputs.flatten(1).norm(dim=1)
    np.testing.assert_allclose(table["box_smallest_relative"], expected, rtol=1e-5)
    assert aim.image.dtype == torch.float32


def test_rescaled_and_double_networks_have_the_same_perturbations(splits, monkeypatch):
    settings = {
        "double": Setting({"superdeepfool": RECOMMENDED}, double=True),
        "large": Setting({"superdeepfool": RECOMMENDED}, factor=100.0),
    }
    monkeypatch.setattr(attacks, "CHECKS", settings)
    model = linear(scale=30.0)
    values, table = probed(attacks.check_probe, model, splits)
    exact = closed_form(model, splits, torch.tensor(table["image"].to_numpy()))
    for name in settings:
        np.testing.assert_allclose(table[f"{name}_superdeepfool"], exact, rtol=2e-3)
    assert values["large_zero_gradient"] > 0.9 > values["double_zero_gradient"]
    assert next(iter(model.parameters())).dtype == torch.float32


def test_the_gradient_of_the_cross_entropy_is_zero_where_the_softmax_rounds_to_one():
    weight = torch.tensor([[1.0], [-1.0]])

    def logits(image):
        return image.flatten(1) @ weight.to(image.dtype).T

    image = torch.tensor([0.5, 30.0, 60.0])[:, None, None, None]
    assert attacks.zero_gradient(logits, image).tolist() == [False, False, True]  # exp(-120) is 0 in float32
    assert attacks.zero_gradient(logits, image.double()).tolist() == [False, False, False]


def test_decision_attacks_begin_at_the_nearest_image_that_is_decided_otherwise(splits):
    model = linear()
    aim = attacks.target(model, splits, count=7)
    train = splits.train.images.float() / 255
    decided = aim.logits(train).argmax(dim=1)
    assert torch.equal(decided, model(splits.train.normalised()).logits.argmax(dim=1))
    for image, stranger in zip(aim.image, aim.stranger, strict=True):
        other = train[decided != aim.logits(image[None]).argmax()]
        nearest = float((other - image).flatten(1).norm(dim=1).min())
        assert float((stranger - image).norm()) == pytest.approx(nearest, rel=1e-5)
    assert torch.equal(aim.chosen, attacks.attacked_images(splits.test)[:7])


def test_batches_do_not_change_deterministic_attacks(splits, monkeypatch):
    aim = attacks.target(linear(), splits)
    whole = attacks.in_parts("superdeepfool", aim.logits, aim.image)
    monkeypatch.setattr(attacks, "VALUES", 7 * 32)
    parts = attacks.in_parts("superdeepfool", aim.logits, aim.image)
    np.testing.assert_allclose(parts.norm, whole.norm, rtol=1e-4)
    assert len(parts.failed) == 30 and parts.perturbation.shape == whole.perturbation.shape


def test_a_network_for_tests_is_attacked_briefly_and_by_every_attack(splits, monkeypatch):
    monkeypatch.setattr(attacks, "TINY", len(splits.train))
    values, table = probed(attacks.probe, linear(), splits)
    assert len(table) == 20 and f"box_{'hopskipjump'}_median" in values
    assert {f"box_{name}" for name in attacks.MAIN["box"].attacks} <= set(table)
    assert values["box_images"] == 20


def test_a_network_that_cannot_be_attacked_says_why(splits, monkeypatch):
    use(monkeypatch, box=Setting(QUICK))
    model = linear(scale=0.0)
    values, table = probed(attacks.probe, model, splits)
    assert table is None and set(values) == {"missing"}
    assert "the same for all classes" in values["missing"]["box"]
    monkeypatch.setattr(attacks, "STEPS", {"deepfool": (RECOMMENDED,)})
    assert attacks.step_probe(model, splits).table is None
    assert attacks.check_probe(model, splits).table is None
    with pytest.raises(ValueError, match="training mode"):
        attacks.under(Setting(QUICK), linear().train(), splits)


def test_convergence_is_relative_to_the_smallest_of_all(splits, monkeypatch):
    tries = {
        "deepfool": (RECOMMENDED,),
        "random_directions": ((5, None), (50, None)),
        "superdeepfool": (RECOMMENDED,),
    }
    monkeypatch.setattr(attacks, "STEPS", tries)
    values, table = probed(attacks.step_probe, linear(), splits)
    assert table["attack"].tolist() == ["deepfool", "random_directions", "random_directions", "superdeepfool"]
    assert table["budget"].tolist() == [50, 5, 50, 100]
    ratio = table.set_index(["attack", "budget"])["ratio"]
    assert ratio["superdeepfool", 100] == pytest.approx(1, abs=1e-3)
    assert ratio["deepfool", 50] == pytest.approx(1.02, abs=2e-3)
    assert 1 < ratio["random_directions", 50] < ratio["random_directions", 5]
    exact = closed_form(linear(), splits, attacks.attacked_images(splits.test))
    assert values["least_median"] == pytest.approx(np.median(exact), rel=1e-3)


@pytest.mark.parametrize("count", [6, 25, 200])
def test_the_interval_of_a_median_covers_it_as_often_as_it_says(count, rng):
    low, high = attacks.median_interval(np.arange(1.0, count + 1))
    k = int(low)
    assert high == count + 1 - k
    assert binom.cdf(k - 1, count, 0.5) <= 0.025 < binom.cdf(k, count, 0.5), "one point less would miss more"
    covered = [a <= 0 <= b for a, b in (attacks.median_interval(rng.normal(size=count)) for _ in range(2000))]
    assert np.mean(covered) == pytest.approx(1 - 2 * binom.cdf(k - 1, count, 0.5), abs=0.015)


def test_five_points_are_too_few_for_an_interval():
    assert attacks.median_interval(np.arange(5.0)) == (-np.inf, np.inf)
    assert attacks.median_interval(np.array([1.0] * 3 + [np.inf] * 17))[1] == np.inf


def test_a_paired_ratio_knows_no_spread_that_both_networks_share(rng):
    base = rng.lognormal(size=(3, 80))
    assert tables.resampled(3 * base, base) == pytest.approx((3, 3, 3), rel=1e-12)
    shuffled = tables.resampled(3 * base[:, ::-1].copy(), base)
    assert shuffled.low < 2.7 and shuffled.high > 3.3
    alone = tables.resampled(base)
    assert (
        alone.value == pytest.approx(np.exp(np.log(np.median(base, axis=1)).mean()))
        and alone.low < alone.value < alone.high
    )


def test_equal_seeds_leave_the_interval_of_the_images_which_is_about_that_of_order_statistics(rng):
    values = np.tile(rng.normal(size=(1, 400)) + 10, (3, 1))
    low, high = attacks.median_interval(values[0])
    found = tables.resampled(values)
    assert np.isnan(tables.resampled(values[:1]).low), "one seed has no interval"
    assert found.low == pytest.approx(low, abs=0.03) and found.high == pytest.approx(high, abs=0.03)


def test_spread_over_seeds_widens_the_interval(rng):
    values = np.tile(rng.normal(size=(1, 50)) + 10, (3, 1))
    apart = values + np.array([[-1.0], [0.0], [1.0]])
    near, far = tables.resampled(values), tables.resampled(apart)
    assert far.value == pytest.approx(near.value, rel=0.02) and far.high - far.low > 2 * (
        near.high - near.low
    )


def test_intervals_of_three_seeds_cover_as_often_as_they_say(rng):
    """Seeds differ more than images do: percentiles of resampled seeds would cover three times in four."""
    covered = 0
    for _ in range(300):
        values = np.exp(rng.normal(scale=0.3, size=(3, 1)) + 0.1 * rng.normal(size=(1, 60)))
        found = tables.resampled(values)
        covered += found.low <= 1 <= found.high
    assert covered / 300 == pytest.approx(0.95, abs=0.04)


def test_robust_accuracy_counts_what_was_misclassified_as_fooled_from_the_start():
    table = pd.DataFrame(
        {
            "architecture": "IB",
            "seed": [0, 0, 0, 0, 1, 1, 1, 1],
            "image": [0, 1, 2, 3] * 2,
            "label": [1, 1, 2, 2] * 2,
            "predicted": [1, 1, 2, 0, 1, 1, 2, 2],
            "box_smallest": [0.5, 1.0, np.inf, 3.0, 0.5, 1.0, 2.0, 3.0],
        }
    )
    curves = tables.robust_accuracy(tables.Norms(table), "IB", np.array([0.0, 0.5, 1.5, 9.0]))
    assert curves.tolist() == [[0.75, 0.5, 0.25, 0.25], [1.0, 0.75, 0.5, 0.0]]


def test_a_median_that_is_not_reached_is_missing():
    values = np.array([[1.0, np.inf, np.inf], [1.0, 2.0, 3.0]])
    assert str(tables.resampled(values)) == tables.MISSING
    assert np.isnan(tables.resampled(np.ones((2, 3)), values).low)


def fake(rng, *, architectures=("IB", "NoPen"), factor=2.0) -> Any:
    """Return what tables read of a study in which IB's norms are ``factor`` times NoPen's for all attacks."""
    parts = []
    for seed in (0, 1):
        base = {
            f"{kind}_{name}": rng.lognormal(size=20)
            for kind, how in attacks.MAIN.items()
            for name in (*how.attacks, "smallest")
        }
        base |= {
            f"{kind}_{name}_relative": rng.random(20)
            for kind in attacks.MAIN
            for name in ("deepfool", "smallest")
        }
        for name in architectures:
            own = {column: values * (factor if name == "IB" else 1.0) for column, values in base.items()}
            parts.append(
                pd.DataFrame({"key": name, "architecture": name, "seed": seed, "image": range(20), **own})
            )
    everything = pd.concat(parts, ignore_index=True)
    selected = (
        everything[["key", "architecture", "seed"]]
        .drop_duplicates()
        .assign(
            attacks_box_fab_failed=3.0,
            attack_checks_plain_zero_gradient=0.0,
            attack_checks_large_zero_gradient=0.5,
        )
    )
    shown = {"attacks": everything}
    checks = everything[["key", "architecture", "seed", "image"]].copy()
    for form, setting in attacks.CHECKS.items():
        for attack in setting.attacks:
            checks[f"{form}_{attack}"] = 1.5 * everything[f"box_{attack}"]
    shown["attack_checks"] = checks[checks["image"] < 10]
    return SimpleNamespace(selected=selected, probe_table=shown.get)


def test_tables_show_the_ratio_that_is_there(rng):
    one = fake(rng)
    found = tables.norms(one)
    table: Any = tables.strength(found, ["IB", "WideIB", "NoPen"])
    assert table.loc["IB", "smallest / NoPen's"] == "2.00 (2.00 to 2.00)"
    assert table.loc["NoPen", "DeepFool / NoPen's"] == "1.00 (1.00 to 1.00)"
    assert set(table.loc["WideIB"]) == {"not run"} and table.loc["IB", "share fooled"] == "1.00"
    ratios: Any = tables.ratios_by_attack(found, ["IB"])
    assert list(ratios.index) == [*attacks.MAIN["box"].attacks, "smallest"]
    assert set(ratios["IB"]) == {"2.00 (2.00 to 2.00)"}
    assert "(× 2.00)" in str(tables.units(found, ["IB", "NoPen"]).iloc[0, 0])
    assert tables.failures(one).sum() == 12


def test_success_rates_stand_beside_medians(rng):
    one = fake(rng)
    rows = one.probe_table("attacks")
    rows.loc[(rows["architecture"] == "IB") & (rows["image"] < 5), "box_square"] = np.inf
    found = tables.norms(one)
    table: Any = tables.by_attack(found, ["IB", "NoPen"])
    assert table.loc["square", "IB"].endswith("[75.0 %]") and "[" not in table.loc["square", "NoPen"]


def test_an_attack_without_gradients_that_does_better_is_told(rng):
    one = fake(rng)
    rows = one.probe_table("attacks")
    white = [f"box_{name}" for name in attacks.MAIN["box"].attacks if ATTACKS[name].kind == "white"]
    best = rows[white].min(axis=1)
    for name in ("square", "hopskipjump", "random_directions"):
        rows[f"box_{name}"] = 2 * best
    own = (rows["architecture"] == "IB") & (rows["image"] < 5)
    rows.loc[own, "box_square"] = 0.5 * best[own]
    rows.loc[(rows["architecture"] == "NoPen"), "box_square"] = 0.9995 * best
    table: Any = tables.masking(tables.norms(one), ["IB", "NoPen", "LinPen"])
    assert table["images where it beats them"].tolist() == ["25.0 %", "0.0 %", "not run"]
    assert table.loc["IB", "without gradients / with"] == "2.00"
    assert table.loc["NoPen", "without gradients / with"] == "1.000"


def test_forms_are_compared_on_the_same_images(rng):
    table: Any = tables.forms(fake(rng), ["IB", "WideIB", "NoPen"])
    assert table.loc["fab", ("IB", "logits × 100")] == "1.500"
    assert list(table.index) == [*attacks.MAIN["box"].attacks, "images with a gradient of zero"]
    assert table.iloc[-1][("IB", "float64")] == tables.MISSING, "not looked up in float64"
    assert set(table[("NoPen", "float64")].iloc[:-1]) == {"1.500"}, "every attack in every form"
    assert table.loc["images with a gradient of zero", ("IB", "logits × 100")] == "50 %"
    assert ("WideIB", "float64") not in table.columns


@pytest.mark.parametrize("architectures", [("IB",), ("NoPen",)])
def test_tables_of_some_architectures_say_what_is_not_there(rng, architectures):
    one = fake(rng, architectures=architectures)
    found = tables.norms(one)
    table: Any = tables.strength(found, ["IB", "NoPen"])
    missing = next(name for name in ("IB", "NoPen") if name not in architectures)
    assert set(table.loc[missing]) == {"not run"}
    if missing == "NoPen":
        assert set(tables.ratios_by_attack(found, ["IB"])["IB"]) == {tables.MISSING}
    assert len(tables.forms(one, ["IB", "NoPen"])) and tables.steps(one).empty


def test_tables_of_nothing_are_empty():
    nothing: Any = SimpleNamespace(
        selected=pd.DataFrame({"architecture": [], "seed": []}), probe_table=lambda name: None
    )
    found = tables.norms(nothing)
    assert found.architectures == [] and tables.steps(nothing).empty and tables.forms(nothing, ["IB"]).empty
    assert set(tables.strength(found, ["IB"]).loc["IB"]) == {"not run"}
    assert tables.by_attack(found, ["IB"]).loc["fab", "IB"] == "not run"
    assert tables.masking(found, ["IB"]).index.tolist() == ["IB"] and tables.failures(nothing).empty
    assert not tables.by_attack(found, []).columns.tolist()


def test_settings_name_every_attack_and_what_is_less_than_its_authors_use():
    table: Any = tables.settings()
    assert set(table.index) == set(attacks.MAIN["box"].attacks)
    assert table.loc["fab", "here"] == "the same" and table.loc["square", "sees"] == "logits"
    assert table.loc["square", "here"] == "200 queries at 6 radii"
    assert table.loc["random_directions", "here"] == "200 directions"


def test_the_surface_of_a_linear_network_is_a_plane():
    weight = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, -1.0, 1.0, 1.0]])

    def logits(image):
        return image.flatten(1) @ weight.to(image.dtype).T

    image = torch.full((1, 1, 2, 2), 0.5)
    difference = weight[0] - weight[1]
    exact = (image.flatten() @ difference / difference.norm() ** 2 * -difference).view(image.shape)
    found = surfaces.surface(logits, image, exact, reach=2.0, points=9)
    assert found.norm == pytest.approx(float(exact.norm()))
    expected = np.tile(1 - found.along, (9, 1))
    np.testing.assert_allclose(found.margin, expected, atol=1e-5)
    with pytest.raises(ValueError, match="is zero"):
        surfaces.surface(logits, image, torch.zeros_like(image))
