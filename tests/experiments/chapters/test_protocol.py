from types import SimpleNamespace

import pandas as pd
import pytest

from experiments.chapters.protocol.paper_profiles import judged, margin, margins, predictions, runs
from experiments.chapters.protocol.tables import (
    architectures,
    beside_appendix_c,
    health,
    selected_rates,
    switches,
    widths,
)
from experiments.chapters.protocol.wander import checked
from experiments.reporting.tables import measured
from experiments.studies import recorded
from experiments.studies.profiles import profile, specs
from experiments.studies.schedules import PAPER_TRAIN
from lpc.data import load_images
from lpc.equilibrium import bias_sd
from lpc.losses import geometric_gamma
from lpc.schedules import learning_rate
from lpc.specs import VARIANTS, run_key


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
            ("IB", 0, 0.005, "finished", True, False, 3.0, 0.9, 1.0),
            ("IB", 0, 0.010, "finished", False, True, None, 0.8, 2.0),
            ("IB", 1, 0.005, "failed", None, None, None, None, None),
        ],
        columns=[
            "architecture",
            "seed",
            "train.learning_rate",
            "status",
            "readout_lost",
            "at_chance",
            "terminal_epoch",
            "accuracy",
            "cross_entropy",
        ],
    )
    declared = specs(chosen, only=("IB", "NoPen"))
    known = {(spec.architecture, spec.seed, spec.train.learning_rate): run_key(spec) for spec in declared}
    rows = zip(frame["architecture"], frame["seed"], frame["train.learning_rate"], strict=True)
    frame = frame.assign(key=[known[row] for row in rows])
    return SimpleNamespace(
        profile=chosen,
        specs=declared,
        frame=frame,
        selected=frame.iloc[[1]],
        images=load_images(chosen.data),
    )


def test_profiles_stand_beside_the_paper(monkeypatch, tmp_path):
    monkeypatch.setattr(recorded, "RESULTS", tmp_path)
    table = beside_appendix_c(profile("smoke"))
    ours = "smoke (this page)"
    assert table.columns.tolist() == ["paper", ours, "fashion-cpu (declared)", "fashion (declared)"]
    assert not table.isna().any(axis=None)
    assert table.T["epochs"].tolist()[:2] == ["800", "4"]
    assert table.T["steps"].tolist()[:2] == ["312,800 (CIFAR, batch 128)", "16"]
    assert table.loc["augmentation", ours] == "no flips, no crops, noise of sd 0.01"
    assert table.T["data"].iloc[3] == "fashion_mnist, 55,000 training images of 32 x 32 pixels"
    assert table.T["steps"].iloc[3] == "43,000"
    assert beside_appendix_c(profile("fashion"), ("fashion",)).shape[1] == 2


def test_the_settings_of_a_profile_are_those_of_its_images(study):
    images = f"{len(study.images.train):,} training images of {study.images.train.size} x"
    assert images in beside_appendix_c(study.profile, ()).T["data"].iloc[1]


def test_appendix_c_and_its_profile_agree():
    """The paper's column is typed; the profile is what would be trained."""
    table = beside_appendix_c(profile("paper-cifar10"), ())
    for name in ("epochs", "weight decay", "γ, first epoch", "augmentation", "first halving, then every"):
        paper, ours = table.T[name]
        assert paper == ours, name
    assert table.loc["trained again with them", "paper-cifar10 (this page)"] == "yes"


def test_the_releases_choices_are_settings():
    table = switches()
    assert table.index.tolist() == [1, 2, 3, 4, 5, 6, 7, 17, 18]
    rows = {line: tuple(row) for line, row in zip(table.index, table.to_numpy(), strict=True)}
    assert rows[1] == ("RunSpec.train.penalty_reduction", "sum", "mean")
    assert rows[2] == ("RunSpec.train.weight_decay", "5e-05", "0.0005")
    assert rows[3] == ("RunSpec.train.gamma_overshoot", "False", "True")
    assert rows[4] == ("RunSpec.train.decay_start", "250", "300")
    assert rows[5] == ("Profile.learning_rates", "5 of them", "the first 2")
    assert rows[17] == ("RunSpec.model.dropout_site", "latent", "logits")
    assert rows[18][1] in VARIANTS and rows[18][2] in VARIANTS


def test_the_paper_asks_for_600_runs_and_120_again():
    table = runs()
    assert table.T["all"][["runs", "trained again"]].tolist() == ["600", "120"]
    assert table.T["paper-cifar100"].tolist()[:5] == ["200", "40", "800", "36,000,000", "40,000,000"]
    assert table.loc["paper-svhn", "images per run, again"] == f"{800 * 73_257:,}"
    total = 800 * (200 * (68_257 + 2 * 45_000) + 40 * (73_257 + 2 * 50_000))
    assert table.loc["all", "images in all"] == f"{total:,}"


def test_margins_of_the_paper():
    """By hand where the gap is small: g = D^2 / (4 gamma) to 5 %, and the biases' sd at epoch ends."""
    table = margins()
    assert table.shape == (9, 5) and not table.isna().any(axis=None)
    steps, gamma_end, rate, width = 800 * 352, 1e6, 1e-4, 4
    gap = 20 / 9 * width * (rate * steps) ** 2 / (4 * gamma_end)
    sd = bias_sd(learning_rate=rate, classes=10, batch_size=128, images=45_000)
    assert float(table.T["cifar10", "NarrowIB"].iloc[0]) == pytest.approx(gap / sd, rel=0.05)
    wide = next(s for s in specs(profile("paper-cifar100"), only=("WideIB",)) if s.seed == 0)
    narrow = next(s for s in specs(profile("paper-cifar100"), only=("NarrowIB",)) if s.seed == 0)
    assert margin(wide) > 100 * margin(narrow)  # 2,048 nodes, not 8


def test_the_prediction_is_shown_in_every_form_that_it_had():
    table = predictions()
    first, pair, now = (table.T["cifar10", form].tolist() for form in table.T["cifar10"].columns)
    assert first[0] == "1.7 lost" and first[-1] == "88"
    assert pair[0] == "26 lost" and now[0] == "14 lost"
    values = [[float(text.split()[0]) for text in row] for row in (pair, now)]
    small = values[0][0] / values[1][0]
    assert small == pytest.approx(1.8, rel=0.05), "2 (K - 1) / K where the gap is small"
    assert table.T["svhn", "now: bridge, all pairs"].str.fullmatch(r"[\d.e]+").all()


def test_the_biases_of_adamw_follow_the_law_of_their_kind_of_epoch():
    table = checked(learning_rates=(2e-2,))
    assert table["ratio"].astype(float).tolist() == pytest.approx([1.0, 1.0], abs=0.08)
    law = table["law"].astype(float)
    assert law.iloc[1] > 2 * law.iloc[0]


def test_readouts_stand_beside_their_margins(study):
    table = judged(study)
    assert table.index.tolist() == [("IB", "0.005"), ("IB", "0.01")]
    assert table["readout lost or at chance"].tolist() == ["1 of 1", "1 of 1"]
    assert table["train accuracy (%)"].tolist() == ["90.0", "80.0"]


def test_missing_runs_are_missing(study):
    rates = selected_rates(study)
    assert rates.loc["IB", "seed 0"] == "0.01" and rates.loc["NoPen", "seed 0"] == "–"
    table = health(study)
    assert table.index.tolist() == list(VARIANTS)
    assert table.T["IB"][["failed", "at chance", "readout lost"]].tolist() == ["1 of 3"] * 3
    assert table.loc["IB", "passed 99.9 %"] == "0 of 1" and table.loc["IB", "at epoch"] == "–"
    assert table.loc["NoPen", "train accuracy (%)"] == "–"


def test_a_column_that_no_run_has_is_refused_not_shown_as_missing(study):
    table = measured(study, {"accuracy": "train"}, others=())
    assert table.loc["NoPen", "train"] != "" and table.columns.tolist() == ["train"]
    with pytest.raises(ValueError, match=r"unknown column 'acuracy'\. Did you mean accuracy"):
        measured(study, {"acuracy": "train"}, others=())
