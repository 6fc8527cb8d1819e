from types import SimpleNamespace

import pandas as pd
import pytest

from experiments.profiles import profile, specs
from experiments.protocol import (
    PAPER_TRAIN,
    architectures,
    beside_appendix_c,
    health,
    selected_rates,
    widths,
)
from experiments.tables import measured
from lpc.data import load_images
from lpc.losses import geometric_gamma
from lpc.training import learning_rate


def gamma(epoch, dataset):
    train = PAPER_TRAIN[dataset]
    return geometric_gamma(
        epoch, initial=train.gamma_initial, factor=train.gamma_factor, maximum=train.gamma_maximum
    )


def test_the_papers_gamma_reaches_its_maximum_when_it_says():
    assert gamma(377, "CIFAR10") < 1e6 and gamma(378, "CIFAR10") == 1e6
    assert gamma(545, "SVHN") < 1e5 and gamma(546, "SVHN") == 1e5


def test_the_papers_learning_rate_is_first_halved_in_epoch_250():
    train = PAPER_TRAIN["CIFAR100"]
    rates = [learning_rate(epoch, train) / 1e-4 for epoch in (249, 250, 299, 300, 799)]
    assert rates == [1, 0.5, 0.5, 0.25, 0.5**11]


def test_architectures_are_table_3s():
    table = architectures()
    assert table.T["IB"].tolist()[:5] == ["yes", "linear", "intermediate", "–", "–"]
    assert table.T["NoPen"].tolist()[:5] == ["–"] * 5
    assert table.loc["NonLinPenL1", "L1"] == "1e-4"
    assert table.loc["NoPenDropout", "dropout"] == "0.5"
    assert (table["in the paper"] == "Tables 1 to 3").sum() == 8


def test_widths_are_appendix_cs():
    table = widths()
    assert table.loc["svhn", "narrow"] == "6" and table.loc["cifar100", "intermediate"] == "64"
    assert set(table["wide"]) == {"the backbone's"}


@pytest.fixture
def study():
    chosen = profile("smoke")
    frame = pd.DataFrame(
        [
            ("IB", 0, 0.005, "finished", True, 3.0, 0.9, 1.0),
            ("IB", 0, 0.010, "finished", False, None, 0.8, 2.0),
            ("IB", 1, 0.005, "failed", None, None, None, None),
        ],
        columns=[
            "architecture",
            "seed",
            "train.learning_rate",
            "status",
            "readout_lost",
            "terminal_epoch",
            "accuracy",
            "cross_entropy",
        ],
    )
    return SimpleNamespace(
        profile=chosen,
        specs=specs(chosen, only=("IB", "NoPen")),
        frame=frame,
        selected=frame.iloc[[1]],
        images=load_images(chosen.data),
    )


def test_a_profile_stands_beside_the_paper(study):
    table = beside_appendix_c(study)
    assert table.columns.tolist() == ["paper", "smoke (ours)"]
    assert table.T["epochs"].tolist() == ["800", "4"]
    assert table.T["steps"].tolist() == ["312,800 (CIFAR, batch 128)", "16"]
    assert table.loc["augmentation", "smoke (ours)"] == "no flips, no crops, noise of sd 0.01"


def test_missing_runs_are_missing(study):
    rates = selected_rates(study)
    assert rates.loc["IB", "seed 0"] == "0.01" and rates.loc["NoPen", "seed 0"] == "–"
    table = health(study)
    assert table.loc["IB", "failed"] == "1 of 3" and table.loc["IB", "readout lost"] == "1 of 3"
    assert table.loc["IB", "passed 99.9 %"] == "0 of 1" and table.loc["IB", "at epoch"] == "–"
    assert table.loc["NoPen", "train accuracy (%)"] == "–"


def test_a_column_that_no_run_has_is_refused_not_shown_as_missing(study):
    table = measured(study, {"accuracy": "train"})
    assert table.loc["NoPen", "train"] != "" and table.columns.tolist() == ["train"]
    with pytest.raises(ValueError, match=r"unknown column 'acuracy'\. Did you mean accuracy"):
        measured(study, {"acuracy": "train"})
