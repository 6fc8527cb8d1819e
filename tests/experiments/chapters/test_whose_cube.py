"""Tables and figures of the optimizers' cubes, and the runs that the page trains."""

import dataclasses
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from experiments.chapters.binarity.optimizers import (
    LOOKS,
    beside,
    draw_spreads,
    panels,
    random_spread,
    views,
)
from experiments.reporting.optimizers import by_optimizer
from experiments.studies.optimizer_tables import OPTIMIZERS, Network
from experiments.studies.profiles import profile, specs
from lpc.data import load_images
from lpc.evaluation.binarity import hypercube
from lpc.store import RunStore


def rows():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "architecture": Network(name, 8, 100.0).name,
                "seed": seed,
                "cube_spread": 0.5 + 0.01 * generator.standard_normal(),
                "cube_spread_optimizer": 0.2 + 0.01 * seed if name == "TurnedAdamW" else None,
                "trace_ratio": 0.1,
            }
            for name in OPTIMIZERS
            for seed in range(3)
        ]
    )


def test_a_row_is_an_optimizer_with_its_interval_and_n():
    table = by_optimizer(rows())
    assert table.index.tolist() == [(name, "8", "100") for name in OPTIMIZERS]
    assert set(LOOKS) == set(OPTIMIZERS)
    assert table["spread, optimizer's axes"]["TurnedAdamW", "8", "100"].startswith("0.210 [0.185, 0.235")
    assert table["spread, optimizer's axes"]["AdamW", "8", "100"] == "–"
    assert (table["n"] == "3").all()


def test_panels_are_by_gamma_unless_every_optimizer_has_its_own():
    names = [Network(name, 8, gamma).name for name in ("AdamW", "Lion") for gamma in (1.0, 100.0)]
    alike = pd.DataFrame({"architecture": [*names, Network("AdamW", 4, 1.0).name], "seed": 0})
    found = SimpleNamespace(selected=alike, profile=profile("cube"))
    shown = panels(found)  # type: ignore[arg-type]
    assert [title.replace("\n", ", ") for title in shown] == [
        "8 nodes, 400 epochs, γ to 1",
        "8 nodes, 400 epochs, γ to 100",
        "4 nodes, 400 epochs, γ to 1",
    ]
    assert shown["8 nodes, 400 epochs\nγ to 100"]["architecture"].tolist() == ["AdamW-8-100", "Lion-8-100"]
    own = pd.DataFrame({"architecture": ["AdamW-8-25000", "Lion-8-2500"]})
    (title,) = panels(SimpleNamespace(selected=own, profile=profile("cube-long")))  # type: ignore[arg-type]
    assert title == "8 nodes, 2,000 epochs\nγ to 25,000 (Lion 2,500)"


def test_class_means_at_random_have_the_spread_of_half_normal_values():
    many = random_spread(classes=500, width=8, draws=50)
    assert many.mean() == pytest.approx((np.pi / 2 - 1) ** 0.5, rel=0.01)
    own = random_spread(classes=10, width=8, draws=1)[0]
    drawn = torch.randn(1, 10, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[0]
    assert own == pytest.approx(hypercube(drawn, torch.arange(10)).mean_variation)


def test_the_figure_has_every_run_hollow_along_the_optimizers_axes():
    fig, ax = plt.subplots()
    draw_spreads([ax], {"a": rows()})
    lines = [line for line in ax.get_lines() if np.size(line.get_xdata()) == 3]
    hollow = [line for line in lines if line.get_markerfacecolor() == "none"]
    assert len(lines) == 7 and len(hollow) == 1
    assert hollow[0].get_ydata() == pytest.approx([0.2, 0.21, 0.22])
    plt.close(fig)


def test_panels_that_share_an_axis_show_the_runs_of_all_in_one_order():
    fig, axes = plt.subplots(1, 2, sharey=True)
    high = rows().assign(cube_spread=lambda runs: 5 * runs["cube_spread"])
    draw_spreads(axes, {"low": rows(), "high": high.iloc[::-1]})
    for ax in axes:
        assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > high["cube_spread"].max()
        assert [label.get_text() for label in ax.get_xticklabels()] == list(LOOKS)
    plt.close(fig)


def test_the_page_trains_the_same_network_and_sees_it_along_both_axes(tmp_path):
    spec = next(run for run in specs(profile("smoke"), only=("IB",)) if run.seed == 0)
    store, images = RunStore(tmp_path), load_images(spec.data).train
    trained = beside(spec, store, ("AdamW", "TurnedAdamW"))
    assert trained["AdamW"] == spec
    only = dataclasses.replace(trained["TurnedAdamW"].train, optimizer="adamw")
    assert only == spec.train and trained["TurnedAdamW"].seed == spec.seed
    seen = views(trained, store, images)
    assert len(seen) == 3
    nodes, own = (points for title, (points, _) in seen.items() if title.startswith("Turned"))
    torch.testing.assert_close(nodes.norm(dim=1), own.norm(dim=1))
    assert not torch.allclose(nodes, own, atol=1e-3)
    found = store.result(trained["TurnedAdamW"])
    _, label = seen["AdamW\nnodes"]
    assert found["cube_spread_optimizer"] == pytest.approx(hypercube(own, label).mean_variation, rel=1e-3)
    assert found["cube_spread"] == pytest.approx(hypercube(nodes, label).mean_variation, rel=1e-3)
