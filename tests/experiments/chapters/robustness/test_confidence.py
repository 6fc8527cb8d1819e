import math

import pytest
import torch

from experiments.chapters.robustness import confidence
from experiments.chapters.robustness.confidence import Judged
from experiments.probes.perturbations import bounds
from experiments.reporting.significance import hanley_mcneil
from experiments.studies.ablation import study


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    store = tmp_path_factory.mktemp("runs")
    return study("smoke", seeds=1, only=("IB", "NoPen"), store=store, workers=1, progress=False)


def test_judgements_are_those_that_the_runs_were_measured_with(runs):
    table = confidence.aurocs(confidence.judgements(runs)).set_index("architecture")
    stored = runs.selected.set_index("architecture")
    for name in ("IB", "NoPen"):
        assert table.loc[name, "odin"] == pytest.approx(stored.loc[name, "test_auroc_odin"], abs=1e-12)
        assert table.loc[name, "errors"] == pytest.approx(360 * (1 - stored.loc[name, "test_accuracy"]))


def test_attacks_are_those_that_the_runs_were_measured_with(runs):
    table = bounds(runs, ["IB", "NoPen"]).set_index("architecture")
    stored = runs.selected.set_index("architecture")["test_deepfool_relative_norm"]
    for name in ("IB", "NoPen"):
        assert table["deepfool"][name] == pytest.approx(stored[name], rel=1e-9)
        assert table["shortest"][name] <= table["own_line"][name] <= table["deepfool"][name] * (1 + 1e-9)


def made(right: list[int], scores: list[float]) -> Judged:
    return Judged(torch.tensor(right).bool(), {"odin": torch.tensor(scores, dtype=torch.float64)})


def test_differences_are_of_means_over_seeds_with_an_interval_around():
    right, wrong = [1, 1, 1, 0] * 25, [1, 1, 0, 0] * 25
    judgements = {
        ("IB", 0): made(right, [3.0, 2.0, 1.0, 0.0] * 25),
        ("IB", 1): made(right, [3.0, 2.0, 1.0, 0.0] * 25),
        ("NoPen", 0): made(wrong, [3.0, 1.0, 2.0, 0.0] * 25),
        ("NoPen", 1): made(right, [3.0, 2.0, 1.0, 0.0] * 25),
    }
    mean, low, high = confidence.accuracy_interval(judgements, "IB", "NoPen")
    assert mean == pytest.approx(0.125) and 0.05 < low < 0.125 < high < 0.2
    mean, low, high = confidence.auroc_interval(judgements, "odin", "IB", "NoPen", resamples=100)
    assert mean == pytest.approx(0.125) and low < 0.125 < high
    assert all(map(math.isnan, confidence.auroc_interval(judgements, "softmax", "IB", "NoPen")))
    table = confidence.aurocs(judgements)
    assert table["errors"].tolist() == [25, 25, 50, 25] and table["softmax"].isna().all()
    assert table["odin_error"][2] == pytest.approx(hanley_mcneil(0.75, 50, 50))
