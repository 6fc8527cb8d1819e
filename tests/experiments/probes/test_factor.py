"""Lengths of perturbations by image, the factor as a product, and networks changed by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from experiments.chapters.deepfool import altered_networks
from experiments.chapters.deepfool.links import (
    LINKS,
    by_gamma,
    decomposition,
    draw,
    gamma_of,
    grown,
    shares,
    values,
)
from experiments.probes import factor
from lpc.data import ImageSet
from lpc.evaluation.robustness import deepfool
from lpc.figures import Look
from lpc.heads import HeadOutput
from lpc.runs.measurements import attacked_images


class Affine(nn.Module):
    """Two classes, with a margin of ``weight @ normalised image + bias``."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.layer = nn.Linear(16, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.stack([weight / 2, -weight / 2]))
            self.layer.bias.copy_(torch.tensor([bias / 2, -bias / 2]))

    def forward(self, images):
        logits = self.layer(images.flatten(1))
        return HeadOutput(logits, logits)


def images(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(count) % 2, 2, (0.4,), (0.25,))


def affine_network(weight, bias) -> Any:
    return Affine(weight, bias).eval()


WEIGHT = torch.linspace(-1.0, 2.0, 16)


@pytest.fixture(scope="module")
def affine():
    model, test = affine_network(WEIGHT, 0.3), images()
    table = factor.measured(model, test, names=("superdeepfool",))
    pixel = test.pixels(attacked_images(test, count=factor.IMAGES), dtype=torch.float64)
    margin = (((pixel - 0.4) / 0.25).flatten(1) @ WEIGHT.double() + 0.3).abs().numpy()
    return table, margin / (float(WEIGHT.norm()) / 0.25), margin


def test_on_an_affine_network_all_lengths_are_the_distance_in_pixel_units(affine):
    table, distance, margin = affine
    np.testing.assert_allclose(table["margin"], margin, rtol=1e-5)
    np.testing.assert_allclose(table["margin"] / table["gradient"], distance, rtol=1e-5)
    np.testing.assert_allclose(table["deepfool"], 1.02 * distance, rtol=1e-5)
    np.testing.assert_allclose(table["deepfool_float32"], 1.02 * distance, rtol=1e-4)
    np.testing.assert_allclose(table["first_step"], table["deepfool"], rtol=1e-12)
    np.testing.assert_allclose(table["deepfool_released"], 1.02 * (distance + 1e-4 * 0.25), rtol=1e-3)
    assert (table["own_line"] >= distance * (1 - 1e-6)).all()
    np.testing.assert_allclose(table["own_line"], distance, rtol=5e-3)
    np.testing.assert_allclose(table["smallest"], distance, rtol=5e-3)
    np.testing.assert_allclose(table["steepest"], table["gradient"], rtol=1e-6)
    assert table["fooled"].all() and (table["iterations"] == 1).all()


def test_on_an_affine_network_nothing_is_flat_and_no_step_too_long(affine):
    found = factor.summary(affine[0])
    assert found["flatness"] == pytest.approx(1.0, rel=1e-6)
    assert found["step_ratio"] == pytest.approx(1.0, rel=5e-3)
    assert found["excess"] == pytest.approx(1.02, rel=5e-3)
    assert found["deepfool"] == found["deepfool_fooled"] and found["one_step"] == 1.0
    assert found["images"] == 12 and found["unfooled"] == found["zero_gradients"] == 0
    assert "ddn" not in found and found["superdeepfool_unfooled"] == 0


def test_lengths_scale_with_the_networks_slope_and_not_with_its_logits():
    test = images()
    one = factor.measured(affine_network(WEIGHT, 0.3), test, names=("superdeepfool",))
    louder = factor.measured(affine_network(3 * WEIGHT, 0.9), test, names=("superdeepfool",))
    np.testing.assert_allclose(louder["deepfool"], one["deepfool"], rtol=1e-5)
    np.testing.assert_allclose(louder["gradient"], 3 * one["gradient"], rtol=1e-5)


def test_the_gradient_on_the_way_is_that_of_the_initial_decision():
    def cubic(image):
        value = image.flatten(1).sum(1)
        return torch.stack([value**3, torch.zeros_like(value)], 1)

    image = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    found = factor.gradient_on_way(cubic, image, -3 * torch.ones_like(image), steps=3)
    assert found[0].tolist() == pytest.approx([12.0, 3.0, 0.0, 3.0])


def test_values_are_missing_where_nothing_fools_and_counts_say_so(affine):
    table = affine[0].assign(
        fooled=False, own_line=float("nan"), superdeepfool=float("nan"), smallest=float("nan")
    )
    found = factor.summary(table)
    assert found["smallest"] is None and found["deepfool_fooled"] is None and found["step_ratio"] is None
    assert found["unfooled"] == found["superdeepfool_unfooled"] == 12
    assert found["deepfool"] == pytest.approx(affine[0]["deepfool"].mean())


def test_gradients_that_are_zero_or_subnormal_are_counted(affine):
    norms = [0.0, 0.0, 1e-40] + [1.0] * 9
    found = factor.summary(affine[0].assign(gradient_float32=norms))
    assert (found["zero_gradients"], found["subnormal_gradients"]) == (2, 1)


def test_attacked_images_begin_with_those_of_every_run():
    test = images(count=300)
    more = attacked_images(test, count=factor.IMAGES)
    assert torch.equal(more[:100], attacked_images(test))
    assert len(more) == 200


def selected(seeds=2):
    rows = []
    for seed in range(seeds):
        for place, name in enumerate(("gamma0", "gamma1", "gamma1000")):
            row = {"architecture": name, "seed": seed, "factor_smallest_median": 1.0 + 0.1 * place + seed}
            row["factor_smallest"] = 1.5 * row["factor_smallest_median"]
            row["factor_own_line"] = row["factor_smallest"] * (1 + place)
            row["factor_deepfool_fooled"] = row["factor_own_line"] * (2 + place)
            row["factor_deepfool"] = row["factor_deepfool_fooled"] * 1.1
            row["factor_deepfool_float32"] = row["factor_deepfool"] * 1.01**place
            row["factor_deepfool_released"] = row["factor_deepfool_float32"] + 0.001
            rows.append(row)
    return pd.DataFrame(rows)


def test_links_multiply_to_the_growth_of_what_the_release_averages():
    frame = selected()
    links = decomposition(frame)
    np.testing.assert_allclose(links[list(LINKS)].prod(axis=1), links["product"], rtol=1e-12)
    last: Any = links.loc[(0, "gamma1000")]
    assert last["longer direction"] == pytest.approx(3.0) and last["beyond the boundary"] == pytest.approx(
        2.0
    )
    assert last["images not fooled"] == pytest.approx(1.0) and last["float32"] == pytest.approx(1.01**2)
    assert (links.xs("gamma0", level="architecture") == 1).to_numpy().all()
    part = shares(links, "gamma1000")
    assert sum(part.values()) == pytest.approx(1.0) and set(part) == set(LINKS)
    product = np.log(links.xs("gamma1000", level="architecture")["product"]).mean()
    assert part["longer direction"] == pytest.approx(math.log(3.0) / product)


def test_growth_is_by_seed_and_needs_the_base():
    frame = selected()
    ratio = grown(values(frame, {"factor_smallest_median": "s"}))["s"]
    assert ratio.loc[(1, "gamma1000")] == pytest.approx(2.2 / 2.0)
    with pytest.raises(ValueError, match="no selected run of gamma0"):
        grown(values(frame[frame["architecture"] != "gamma0"], {"factor_smallest": "s"}))
    with pytest.raises(ValueError, match="unknown column 'factor_smalest'"):
        values(frame, {"factor_smalest": "s"})


def test_missing_values_stay_missing_and_rows_are_by_gamma():
    frame = selected().astype({"factor_smallest": object})
    frame.loc[1, "factor_smallest"] = None
    table = by_gamma(values(frame, {"factor_smallest": "s"}))
    assert list(table.index) == ["0", "1", "1000"] and str(table["s"]["1"]).endswith("(1 of 2)")
    assert gamma_of("gamma1e-2") == 0.01 and gamma_of("gamma0") == 0
    with pytest.raises(ValueError, match="unknown row of the gamma sweep 'IB'"):
        gamma_of("IB")


def test_the_figure_has_a_point_a_run_and_a_line_of_means():
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    draw(ax, values(selected(), {"factor_smallest_median": "s"}), {"s": Look("#000000", "-", "o")})
    points, line = ax.get_lines()
    assert np.size(points.get_xdata()) == 6
    assert line.get_ydata() == pytest.approx([1.5, 1.6, 1.7])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "1000"]
    plt.close(fig)


def test_a_saturated_network_decides_the_same_and_its_first_order_distance_grows_by_the_formula():
    def margin(image):
        value = image.flatten(1).sum(1)
        return torch.stack([value, torch.zeros_like(value)], 1)

    image = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64)[:, None, None, None]
    for sharpness in (1.0, 4.0):
        network = altered_networks.saturated(margin, sharpness)
        assert torch.equal(network(image).argmax(1), margin(image).argmax(1))
        from lpc.evaluation.lipschitz import margin_gradient

        sm = sharpness * image.flatten().abs()
        ratio = margin_gradient(network, image).distance / margin_gradient(margin, image).distance
        torch.testing.assert_close(ratio, torch.sinh(sm) / sm)
        step = deepfool(network, image, max_iter=1).perturbation.flatten().abs()
        torch.testing.assert_close(step, 1.02 * torch.sinh(sm) / sharpness)
    with pytest.raises(ValueError, match="sharpness is 0"):
        altered_networks.saturated(margin, 0)


def test_sharpness_leaves_decisions_and_lengthens_deepfool_alone():
    model, test = affine_network(WEIGHT, 0.3), images()
    table = altered_networks.by_sharpness(model, test, (0.01, 2.0))
    assert (table["changed"] == 0).all() and list(table.index) == [0.0, 0.01, 2.0]
    assert table["deepfool"].iloc[1] == pytest.approx(table["deepfool"].iloc[0], rel=1e-3)
    assert table["deepfool"].iloc[2] > 1.5 * table["deepfool"].iloc[0]
    assert table["superdeepfool"].iloc[1] == pytest.approx(table["superdeepfool"].iloc[0], rel=0.02)


def test_a_tilt_makes_the_decision_constant_and_moves_the_boundary_by_its_amount():
    model, test = affine_network(WEIGHT, 0.3), images()
    table = altered_networks.by_tilt(model, test, (10.0,), favoured=1)  # further away some attacks give up
    assert table["largest_class"].iloc[1] == 1.0 and 0.5 <= table["largest_class"].iloc[0] < 1.0
    pixel = test.pixels(attacked_images(test, count=factor.IMAGES), dtype=torch.float64)
    value = ((pixel - 0.4) / 0.25).flatten(1) @ WEIGHT.double() + 0.3
    expected = (10 * value.abs().quantile(0.5) - value) / (float(WEIGHT.norm()) / 0.25)
    assert table["deepfool"].iloc[1] == pytest.approx(1.02 * float(expected.mean()), rel=1e-4)
