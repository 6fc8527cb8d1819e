import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from scipy.stats import norm

from experiments.chapters.meeting import noise, scale_and_shape
from experiments.chapters.meeting.noise import (
    along_gamma,
    gamma_below,
    loss_of_label,
    milestones,
    through_noise,
)
from experiments.chapters.meeting.scale_and_shape import (
    EXTINCTION,
    drop_bound,
    entropy_parts,
    largest_radius,
    noisy_simplex,
)
from lpc.equilibrium import radius
from lpc.evaluation.collapse import rescale_to_unit_rms
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.quantities import ZERO_ENTROPY_VARIANCE, gaussian_quantities
from lpc.figures import LOOKS


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(architecture, seed, latent):
    unit = rescale_to_unit_rms(latent)
    entropy = {"knn_entropy": knn_entropy(latent, k=3), "knn_entropy_unit_rms": knn_entropy(unit, k=3)}
    return {"architecture": architecture, "seed": seed, **entropy}


@pytest.fixture(scope="module")
def selected():
    rows = []
    for seed in (0, 1):
        base = torch.randn(300, 3, generator=seeded(seed), dtype=torch.float64)
        flat = base * torch.tensor([1.0, 1.0, 0.1])
        rows += [run("LinPen", seed, base), run("IB", seed, 1e-3 * base), run("NonLinPen", seed, flat)]
        rows += [
            run("NarrowIB", seed, base[:, :2]),
            run("NoPen", seed, base),
            run("WideIB", seed, 5.0 * base),
        ]
    return pd.DataFrame(rows)


def test_scale_is_width_times_the_logarithm_of_the_rms_and_the_rest_is_shape(selected):
    parts = entropy_parts(selected).set_index(["architecture", "seed"])
    for seed in (0, 1):
        assert parts["scale"]["IB", seed] == pytest.approx(3 * math.log(1e-3), abs=1e-9)
        assert parts["shape"]["IB", seed] == pytest.approx(0.0, abs=1e-9)
        assert parts["scale"]["WideIB", seed] == pytest.approx(3 * math.log(5), abs=1e-9)
        assert parts["scale"]["NonLinPen", seed] == pytest.approx(1.5 * math.log(2 / 3), abs=0.2)
        assert parts["total"]["NonLinPen", seed] == pytest.approx(math.log(0.1), abs=0.5)
    np.testing.assert_allclose(parts["total"], parts["scale"] + parts["shape"], atol=1e-12)
    of = selected.set_index(["architecture", "seed"])["knn_entropy"]
    assert parts["total"]["IB", 1] == pytest.approx(of["IB", 1] - of["LinPen", 1], abs=1e-9)


def test_only_latents_of_one_width_and_seed_are_compared(selected):
    parts = entropy_parts(selected)
    assert set(parts["architecture"]) == {"IB", "NonLinPen", "WideIB"}  # NarrowIB has no baseline
    assert dict(zip(parts["architecture"], parts["group"], strict=True))["WideIB"] == "wide"
    lacking = selected[(selected["architecture"] != "LinPen") | (selected["seed"] == 0)]
    assert set(entropy_parts(lacking).query("group == 'intermediate'")["seed"]) == {0}
    with pytest.raises(ValueError, match="unknown column 'knn_entropy_unit_rms'"):
        entropy_parts(selected.drop(columns="knn_entropy_unit_rms"))
    with pytest.raises(ValueError, match="unknown architecture 'IBB'"):
        scale_and_shape.group_of("IBB")


def test_the_bound_of_scale_is_met_by_a_gaussian_whose_penalty_costs_all_it_may():
    gamma, width, classes, rms = 50.0, 4, 10, 3.0
    small = math.sqrt(math.log(classes) / (gamma * width))
    gaussian = [0.5 * width * math.log(2 * math.pi * math.e * r**2) for r in (small, rms)]
    drop = drop_bound(*gaussian, gamma=gamma, width=width, classes=classes)
    assert drop.total == pytest.approx(width * math.log(small / rms))
    assert drop.scale_at_most == pytest.approx(drop.total)
    assert drop.share == pytest.approx(1.0)
    tighter = drop_bound(gaussian[0] - 5, gaussian[1], gamma=gamma, width=width, classes=classes)
    assert tighter.share == pytest.approx(drop.total / (drop.total - 5))
    assert drop_bound(-1.0, 0.0, gamma=1e-3, width=width, classes=classes).share == 0.0
    assert math.isnan(drop_bound(1.0, 0.0, gamma=gamma, width=width, classes=classes).share)


def test_the_printed_entropies_fall_by_scale_for_the_most_part():
    drop = scale_and_shape.printed_drop("CIFAR10")
    assert drop.total == pytest.approx(-87.598 - 29.177)
    by_hand = 8 * 0.5 * math.log(math.log(10) / 8e6) - (29.177 - 4 * math.log(2 * math.pi * math.e))
    assert drop.scale_at_most == pytest.approx(by_hand)
    released = scale_and_shape.printed_drop("CIFAR10", released=True)
    assert released.scale_at_most - drop.scale_at_most == pytest.approx(4 * math.log(8))
    with pytest.raises(ValueError, match="unknown data set of Table 1 'MNIST'"):
        scale_and_shape.printed_drop("MNIST")


@pytest.mark.parametrize(("gamma", "classes"), [(0.3, 2), (8.0, 10), (1e6, 100)])
def test_no_classifier_holds_free_latents_farther_out(gamma, classes):
    scale = math.sqrt(gamma)
    held = [radius(gamma, classes=classes, separation=scale * d) for d in np.geomspace(1e-1, 1e3, 400)]
    assert max(held) == pytest.approx(largest_radius(gamma, classes=classes), rel=1e-3)
    assert gamma * max(held) ** 2 < math.log(classes)  # the bound for any network
    with pytest.raises(ValueError, match="classes=1"):
        largest_radius(gamma, classes=1)


def test_beyond_pi_e_no_latent_is_worth_its_penalty_and_below_some_are():
    assert pytest.approx(math.pi * math.e) == EXTINCTION
    for seed, size in enumerate((0.02, 0.2, 1.0)):
        mean = size * torch.randn(60, 5, generator=seeded(seed), dtype=torch.float64)
        label = torch.arange(60) % 4
        found = gaussian_quantities(mean, label, draws=40, generator=seeded()).quantities
        power = float(mean.square().sum(dim=1).mean())
        assert found.preserved_information <= EXTINCTION * power * 1.01 + 1e-3
        assert found.decoder_uncertainty + 1.05 * EXTINCTION * power > found.label_entropy
    pair = torch.tensor([[-0.03], [0.03]], dtype=torch.float64)
    kept = gaussian_quantities(pair, torch.arange(2), draws=4_000, generator=seeded()).quantities
    assert kept.preserved_information == pytest.approx(EXTINCTION * 9e-4, rel=0.1)  # the bound is sharp


def test_a_noisy_simplex_of_two_points_agrees_with_quadrature():
    sd = math.sqrt(ZERO_ENTROPY_VARIANCE)
    radii = [0.05, 0.2, 0.5]
    table = noisy_simplex(radii, classes=2, draws=200_000, generator=seeded())
    z, step = np.linspace(-6, 6, 200_001, retstep=True)

    def uncertainty(size):
        p = expit(2 * size * z / sd**2)
        entropy = -p * np.log(np.clip(p, 1e-300, 1)) - (1 - p) * np.log(np.clip(1 - p, 1e-300, 1))
        return float((entropy * norm.pdf(z, size, sd)).sum() * step)

    for row, size in zip(table.itertuples(), radii, strict=True):
        assert row.decoder_uncertainty == pytest.approx(uncertainty(size), abs=3e-3)
        slope = (uncertainty(size * 1.001) - uncertainty(size * 0.999)) / (0.004 * size**2)
        assert row.gamma == pytest.approx(
            -slope, rel=0.02
        )  # where the radius is best: d/d(r^2) of both terms


def test_a_noisy_simplex_gives_way_as_gamma_grows_to_pi_e():
    table = noisy_simplex([1e-3, 0.1, 0.3, 1.0, 2.0], classes=10, generator=seeded())
    assert table["gamma"].iloc[0] == pytest.approx(EXTINCTION, rel=1e-2)
    assert table["gamma"].is_monotonic_decreasing
    assert table["decoder_uncertainty"].iloc[0] == pytest.approx(math.log(10), abs=1e-3)
    assert table["decoder_uncertainty"].iloc[-1] < 1e-3
    with pytest.raises(ValueError, match="radius 0"):
        noisy_simplex([0.0], classes=3, generator=seeded())


def test_sizes_by_gamma_are_in_units_of_the_noise_and_vanish_beyond_pi_e():
    simplex = noisy_simplex(np.geomspace(0.05, 1.5, 30).tolist(), classes=10, generator=seeded())
    middle = simplex.iloc[15]
    gamma, sd = float(middle["gamma"]), math.sqrt(ZERO_ENTROPY_VARIANCE)
    table = scale_and_shape.size_by_gamma([1e-9, gamma, 100.0], simplex, classes=10).T
    assert math.isnan(table[1e-9]["noisy"]) and math.isnan(table[1e-9]["decoder_uncertainty"])
    assert table[gamma]["noisy"] == pytest.approx(float(middle["norm"]) / sd)
    assert table[gamma]["decoder_uncertainty"] == pytest.approx(float(middle["decoder_uncertainty"]))
    assert (table[100.0]["noisy"], table[100.0]["decoder_uncertainty"]) == (0.0, math.log(10))
    assert table[100.0]["price"] == pytest.approx(100 / (math.pi * math.e))
    assert table[100.0]["any_network"] == pytest.approx(math.sqrt(math.log(10) / 100) / 0.24197, rel=1e-4)
    assert table[100.0]["symmetric"] < table[100.0]["any_network"]


@pytest.fixture(scope="module")
def clustered():
    label = torch.arange(120) % 4
    centre = 3 * torch.randn(4, 5, generator=seeded(1), dtype=torch.float64)
    return centre[label] + 0.3 * torch.randn(120, 5, generator=seeded(2), dtype=torch.float64), label


def test_size_place_direction_and_idle_nodes_of_latents_change_no_information(clustered):
    latent, label = clustered
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=seeded(3), dtype=torch.float64)).Q
    noises = [0.01, 0.1, 0.5]
    plain = through_noise(latent, label, noises=noises, generator=seeded())
    moved = through_noise(1e-5 * latent + 7e-5, label, noises=noises, generator=seeded())
    np.testing.assert_allclose(moved, plain, atol=1e-9)
    for other in (latent @ rotation, torch.cat([latent, torch.full((120, 20), 4.0)], dim=1)):
        table = through_noise(other, label, noises=noises, generator=seeded())
        for name in ("preserved_information", "redundant_information", "decoder_uncertainty"):
            np.testing.assert_allclose(table[name], plain[name], atol=0.15)  # other draws
    assert (
        plain["preserved_information"] <= np.minimum(math.log(120), 0.5 / plain["noise"] ** 2) + 0.02
    ).all()
    with pytest.raises(ValueError, match="all latents coincide"):
        through_noise(torch.ones(4, 2), torch.arange(4) % 2, noises=noises, generator=seeded())


def test_relative_noise_is_measured_against_the_root_of_the_total_variance():
    points = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64).repeat(200, 1)
    label = torch.arange(400) % 2
    table = through_noise(points, label, noises=[0.5], generator=seeded())
    two = noisy_simplex([2 * math.sqrt(ZERO_ENTROPY_VARIANCE)], classes=2, generator=seeded())
    assert table["decoder_uncertainty"][0] == pytest.approx(two["decoder_uncertainty"][0], abs=0.02)
    assert table["redundant_information"][0] == pytest.approx(0.0, abs=1e-9)  # classes are points


def test_noise_at_which_the_label_is_lost_and_what_is_carried_there(clustered):
    latent, label = clustered
    found = loss_of_label(latent, label)
    at = through_noise(latent, label, noises=[found.noise], generator=seeded())
    assert at["decoder_uncertainty"][0] == pytest.approx(0.1, abs=0.02)
    assert at["redundant_information"][0] == found.redundant_information
    means = torch.stack([latent[label == c].mean(dim=0) for c in range(4)])
    tighter = loss_of_label(means[label] + 0.1 * (latent - means[label]), label)
    assert tighter.redundant_information < 0.1 * found.redundant_information
    mixed = loss_of_label(torch.zeros(120, 2).index_fill(0, torch.arange(40), 1.0), label)
    assert math.isnan(mixed.noise) and math.isnan(mixed.redundant_information)
    with pytest.raises(ValueError, match=r"allowed is 1\.0"):
        loss_of_label(latent, label, allowed=1.0)


@pytest.fixture
def history():
    rows = []
    for seed in (0, 1):
        for epoch, gamma, rms, lost, accuracy in [
            (0, 0.5, math.nan, math.nan, math.nan),
            (1, 1.0, 2.0, 0.0, 0.9),
            (2, 4.0, 1.0, 0.09, 0.95),
            (3, 16.0, 0.25, 0.5, 0.9),
            (4, 64.0, 0.125, 2.0, 0.3),
            (5, 64.0, 0.1, 2.2, 0.1),
        ]:
            rows.append(("IB-noise", seed, epoch, gamma, rms, lost, accuracy))
    names = ["architecture", "seed", "epoch", "gamma", "rms", "decoder_uncertainty", "noisy_test_accuracy"]
    return pd.DataFrame(rows, columns=names)


def test_of_every_gamma_the_last_recorded_epoch_counts(history):
    rows = along_gamma(history, width=4)
    own = rows[rows["seed"] == 1]
    assert own["gamma"].tolist() == [1.0, 4.0, 16.0, 64.0]
    assert own["norm"].tolist() == [4.0, 2.0, 0.5, 0.2]
    assert gamma_below(own, "norm", 1.0) == pytest.approx(8.0)  # half-way in both logarithms
    assert math.isnan(gamma_below(own, "norm", 0.01))
    assert math.isnan(gamma_below(own, "norm", 5.0))


def test_milestones_are_the_last_epochs_that_keep_label_and_accuracy(history):
    found = milestones(along_gamma(history, width=4)).query("seed == 0")
    assert dict(zip(found["milestone"], found["epoch"], strict=True)) == {
        "label kept": 2,
        "accuracy kept": 3,
        "end": 5,
    }
    never = along_gamma(history.assign(decoder_uncertainty=1.0), width=4)
    assert "label kept" not in set(milestones(never)["milestone"])


@pytest.mark.parametrize("profile", ["fashion-cpu", "paper-cifar10"])
def test_profiles_without_noisy_runs_have_none_and_train_nothing(profile, tmp_path):
    assert noise.with_noise(profile, store=tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_noisy_runs_are_all_that_is_trained(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(noise, "bottleneck_study", lambda name, **given: asked.update(given, name=name))
    noise.with_noise("smoke", seeds=1, store=tmp_path)
    assert asked == {"name": "smoke", "seeds": 1, "store": tmp_path, "only": ["IB-noise", "LinPen-noise"]}


def test_bars_end_where_the_parts_add_up(selected):
    fig, ax = plt.subplots()
    parts = entropy_parts(selected)
    scale_and_shape.draw_parts(ax, parts, group="intermediate")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["IB", "NonLinPen"]
    mean = parts.groupby("architecture")[["scale", "shape"]].mean()
    widths = [bar.get_width() for bars in ax.containers[:2] for bar in bars]
    np.testing.assert_allclose(widths, [mean[part][name] for part in mean for name in ("IB", "NonLinPen")])
    both = [
        bars[1] for bars in ax.containers[:2]
    ]  # both parts negative: the second begins where the first ends
    assert both[1].get_x() == pytest.approx(both[0].get_x() + both[0].get_width())
    with pytest.raises(ValueError, match="unknown group of equal width"):
        scale_and_shape.draw_parts(ax, parts, group="narrow")
    plt.close(fig)


def test_curves_have_one_name_an_architecture_and_gamma_axes_are_logarithmic(history):
    fig, (left, right) = plt.subplots(1, 2)
    curve = pd.DataFrame({"noise": [0.1, 1.0], "preserved_information": [2.0, 1.0]})
    curves = pd.concat([curve.assign(architecture="IB", seed=seed) for seed in (0, 1)])
    noise.draw_noise_curves(left, curves, "preserved_information")
    assert left.get_legend_handles_labels()[1] == ["IB"] and len(left.lines) == 2
    rows = along_gamma(history, width=4)
    noise.draw_along_gamma(right, rows, "norm", look=LOOKS["IB"], label="norm")
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[1, 4], [4, 2], [16, 0.5], [64, 0.2]])
    assert right.get_xscale() == "log"
    plt.close(fig)


def test_training_with_noise_is_drawn_in_four_panels(history):
    fig, grid = plt.subplots(2, 2)
    noisy = along_gamma(history, width=4).assign(
        preserved_information=1.0, redundant_information=0.5, nearest_mean_accuracy=1.0, trace_ratio=0.1
    )
    simplex = noisy_simplex([0.1, 0.5], classes=10, generator=seeded())
    noise.draw_training(grid, noisy, noisy.assign(trace_ratio=0.01), simplex, sd=0.24)
    assert grid[0, 0].get_legend_handles_labels()[1] == ["I[X;Z]", "I[X;Z|Y]", "H[Y|Z]"]
    free, own = grid[1, 1].lines
    assert free.get_ydata()[0] == pytest.approx(0.01) and own.get_ydata()[0] == pytest.approx(0.1)
    assert [ax.get_yscale() for ax in grid.flat] == ["linear", "log", "linear", "log"]
    plt.close(fig)


def test_noise_drawn_at_some_of_the_latents_leaves_all_of_them_in_the_density(monkeypatch):
    points = torch.randn(1200, 4, generator=seeded(), dtype=torch.float64)
    label = torch.arange(1200) % 3
    every = through_noise(points, label, noises=[0.05, 0.3], generator=seeded())
    assert noise.drawn_at(1200) is None
    monkeypatch.setattr(noise, "DRAWN_AT", 300)
    some = through_noise(points, label, noises=[0.05, 0.3], generator=seeded())
    for name in ("preserved_information", "redundant_information", "decoder_uncertainty"):
        np.testing.assert_allclose(some[name], every[name], atol=0.15)  # ln 4 off, were it 300 latents
    assert noise.drawn_at(1200) == 300
