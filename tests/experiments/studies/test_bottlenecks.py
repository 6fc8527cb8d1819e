import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

from experiments.studies import bottlenecks, recorded
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES, GAMMAS, bottleneck_profile, settings
from experiments.studies.bottleneck_summaries import with_summaries
from experiments.studies.progress import counted
from lpc.specs import run_key


def of(found):
    return counted(found.specs, found.frame, found.store.holders())


def by_name(profile):
    return {spec.architecture: spec for spec in bottlenecks.declared(profile)}


def test_the_paper_is_declared_as_section_7_says():
    runs = by_name("paper")
    for spec in runs.values():
        train = spec.train
        assert (train.learning_rate, train.weight_decay) == (1e-4, 0.0)
        assert (train.plateau_factor, train.plateau_patience) == (0.8, 3)
        assert train.metrics == "information" and not (spec.data.flip or spec.data.crop_padding)
    permuted, images = runs["permuted-decoder"], runs["images-prediction"]
    assert (permuted.data.name, images.data.name) == ("mnist", "cifar10")
    assert permuted.data.permutation_seed is not None and images.data.permutation_seed is None
    assert (permuted.model.backbone, permuted.model.backbone_width) == ("relu_mlp", 1024)
    assert permuted.model.latent_width == images.model.latent_width == 100
    assert permuted.model.decoder_width == images.model.decoder_width == 1024
    assert (images.model.backbone, images.model.backbone_width) == ("resnet18", 64)
    dropout = runs["dropout-noise"]
    assert (dropout.model.backbone, dropout.model.backbone_width) == ("dropout_cnn", 32)
    assert (dropout.model.latent_width, dropout.train.samples, dropout.data.name) == (128, 12, "mnist")
    surrogate = runs["conditional-10"]
    assert (surrogate.model.latent_width, surrogate.model.latent_noise) == (100, "zero_entropy")
    assert (surrogate.train.penalty, surrogate.train.samples) == ("conditional_log_variance", 1)
    assert np.allclose(np.log10(GAMMAS), np.arange(-4, 2))
    counts = pd.Series([spec.architecture for spec in bottlenecks.declared("paper")]).value_counts()
    assert (counts.filter(regex="^(permuted|images)") == 8).all()


@pytest.mark.parametrize("profile", BOTTLENECK_PROFILES)
def test_every_profile_declares_every_figure_and_each_run_once(profile):
    runs = bottlenecks.declared(profile)
    assert len({run_key(spec) for spec in runs}) == len(runs)
    named = set(bottlenecks.names(profile))
    figures = {f"{place}-{name}" for place in ("permuted", "images") for name in bottlenecks.OBJECTIVES}
    figures |= {"dropout", "dropout-noise", "dropout-cliff"}
    figures |= {
        bottlenecks.name_of(n, g) for n in bottlenecks.SURROGATES for g in bottleneck_profile(profile).gammas
    }
    assert figures <= named
    assert named - figures <= {f"{name}-noise" for name in bottlenecks.MEETING}


def test_what_a_row_is_called_says_what_it_is():
    runs = by_name("laptop")
    for name, objective in bottlenecks.OBJECTIVES.items():
        spec = runs[f"images-{name}"]
        assert spec.train.objective == objective and spec.model.encoder == "categorical"
        assert (spec.model.decoder == "optimal") == (name == "uncertainty")
    for name, penalty in bottlenecks.SURROGATES.items():
        train = runs[f"{name}-0.01"].train
        assert (train.penalty, train.gamma_initial, train.gamma_maximum) == (penalty, 0.01, 0.01)
    assert runs["dropout"].model.latent_noise == runs["dropout-cliff"].model.latent_noise == "none"
    met = runs["IB-noise"]
    ablation = by_name("laptop")["LinPen-noise"]
    assert met.train.penalty == "squared_norm" and ablation.train.penalty == "none"
    assert met.train.gamma_maximum == ablation.train.gamma_maximum > 1
    assert dataclasses.replace(met.model, latent_noise="none").latent_width == 8


@pytest.mark.parametrize(
    ("name", "seeds", "only", "words"),
    [
        ("laptpo", None, None, "Did you mean laptop"),
        ("paper-svhn", None, None, "unknown profile"),
        ("smoke", 0, None, "seeds is 0"),
        ("smoke", None, ("nrom",), "unknown run of profile smoke"),
    ],
)
def test_unknown_profiles_seeds_and_names_are_refused(name, seeds, only, words):
    with pytest.raises(ValueError, match=words):
        bottlenecks.declared(name, seeds=seeds, only=only)


def test_names_choose_by_how_they_begin_and_seeds_by_number():
    chosen = bottlenecks.declared("laptop", seeds=2, only=["norm", "images-decoder"])
    assert {spec.seed for spec in chosen} == {0, 1}
    assert {spec.architecture.split("-")[0] for spec in chosen} == {"norm", "images"}
    assert len(chosen) == 2 * (len(GAMMAS) + 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    only = ["permuted-decoder", "permuted-uncertainty", "dropout-noise", "norm"]
    return bottlenecks.study("smoke", seeds=1, only=only, store=root, workers=1, progress=False)


def test_a_study_trains_what_is_missing_and_nothing_twice(trained):
    assert trained.frame["status"].tolist() == ["finished"] * 5
    before = {path: path.stat().st_mtime_ns for path in trained.store.root.rglob("result.json")}
    again = bottlenecks.study(
        "smoke", seeds=1, only=["norm"], store=trained.store.root, workers=1, progress=False
    )
    assert set(again.frame["architecture"]) == {"norm-0.01", "norm-1"}
    assert before == {path: path.stat().st_mtime_ns for path in trained.store.root.rglob("result.json")}
    counts = of(bottlenecks.existing("smoke", seeds=1, store=trained.store.root))
    assert int(counts["finished"].sum()) == 5 and int(counts["missing"].sum()) == len(counts) - 5


def test_what_a_study_says_is_what_its_networks_do(trained):
    row = trained.frame.set_index("architecture").T["permuted-uncertainty"]
    latents = trained.latents("permuted-uncertainty", 0)
    share = float((latents.predicted == latents.label).double().mean())
    assert row["accuracy"] == pytest.approx(share, abs=1e-12)
    assert row["decoder_gap"] == pytest.approx(0.0, abs=1e-6), "its decoder is p(y | z)"
    assert row["bound_slack"] >= 0
    with pytest.raises(ValueError, match="unknown run with seed 0"):
        trained.latents("permutd-decoder", 0)


def test_an_empty_store_has_no_runs(tmp_path):
    empty = bottlenecks.existing("smoke", store=tmp_path)
    assert empty.frame.empty and empty.history.empty
    assert int(of(empty)["missing"].sum()) == len(empty.specs)


def test_what_is_recorded_is_what_was_there(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(recorded, "RESULTS", tmp_path)
    assert recorded.recorded("smoke", study="bottlenecks") is None
    recorded.record(bottlenecks.existing("smoke", store=trained.store.root), partial=True)
    found = recorded.recorded("smoke", study="bottlenecks")
    assert found is not None and found.provenance["runs"] == 5
    theirs = found.frame.set_index("key")["preserved_information"]
    ours = trained.frame.set_index("key")["preserved_information"]
    assert theirs.to_dict() == ours.to_dict()
    assert len(found.history) == len(trained.history)
    path = tmp_path / "smoke" / "bottlenecks" / "runs.csv"
    path.write_text(path.read_text().replace(str(found.frame["key"][0]), "0" * 64))
    with pytest.raises(ValueError, match="not among those that it declares"):
        recorded.recorded("smoke", study="bottlenecks")


def test_nothing_finished_is_not_recorded(tmp_path):
    with pytest.raises(ValueError, match="train it before"):
        recorded.record(bottlenecks.existing("smoke", store=tmp_path))


def test_summaries_by_hand():
    history = pd.DataFrame(
        {
            "key": ["a"] * 4 + ["b"] * 2,
            "epoch": [1, 2, 3, 4, 1, 2],
            "test_accuracy": [0.5, 1.0, 0.91, 0.2, 0.7, 0.8],
            "noisy_test_accuracy": [0.4, 0.8, 0.73, 0.1, math.nan, math.nan],
            "preserved_information": [3.0, 5.0, 2.5, 1.0, math.nan, math.nan],
        }
    )
    frame = pd.DataFrame(
        {
            "key": ["a", "b"],
            "decoder_cross_entropy": [1.0, math.log(2)],
            "decoder_uncertainty": [0.75, math.nan],
            "stochastic_error": [0.5, 0.25],
            "label_entropy": [2.0, math.nan],
            "preserved_information": [1.0, math.nan],
            "residual_information": [1.5, math.nan],
            "train.latent_sd": [10.0, None],
            "train.latent_sd_factor": [0.1, 1.0],
        }
    )
    first, second = with_summaries(frame, history).to_dict("records")
    assert first["decoder_gap"] == 0.25 and first["bound_slack"] == pytest.approx(0.5 - math.exp(-1))
    assert second["bound_slack"] == pytest.approx(0.25)
    assert first["plane_excess"] == 0.5, "1.5 nats where H[Y] - I[X; Z] = 1 would do"
    assert first["accuracy_lost"] == pytest.approx(0.7) and second["accuracy_lost"] == 0.0
    assert first["knee_information"] == 2.5 and math.isnan(second["knee_information"])
    assert (first["information_rise"], first["information_fall"]) == (2.0, 4.0)
    assert first["last_log10_sd"] == pytest.approx(-2.0) and math.isnan(second["last_log10_sd"])
    assert "last_epoch" not in first and json.dumps(first["decoder_gap"])


def test_settings_beside_the_papers_are_those_of_the_runs():
    table = settings(["paper", "laptop"])
    assert table.columns.tolist() == ["paper", "laptop"] and table.notna().all(axis=None)
    paper = table["paper"].to_dict()
    assert paper["Figure 4", "samples per image"] == "12"
    assert paper["Figure 3, permuted pixels", "data"] == "mnist"
    laptop = by_name("laptop")["norm-0.1"]
    said = table["laptop"].to_dict()["Figures 1, 5, 6", "network"]
    assert said == f"{laptop.model.backbone}, width {laptop.model.backbone_width}"
