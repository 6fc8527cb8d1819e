"""Records of runs whose metrics are information, against values recomputed from stored weights."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from lpc.classifiers import build_classifier
from lpc.data import load_images
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.quantities import Quantities
from lpc.heads import BottleneckHead, CategoricalHead
from lpc.latents import collect
from lpc.runs import execute, execute_all, load_model
from lpc.runs.information_measurements import NOISE_SAMPLES, information_metrics
from lpc.specs import DataSpec, ModelSpec, RunSpec, TrainSpec, run_key
from lpc.store import RunStore

DATA = DataSpec(name="digits", train_limit=150)
TRAIN = TrainSpec(
    epochs=3,
    batch_size=32,
    learning_rate=1e-2,
    weight_decay=0.0,
    record_every=2,
    plateau_factor=0.5,
    plateau_patience=0,
    metrics="information",
    gamma_factor=1.0,
)
CATEGORICAL = ModelSpec(
    backbone="relu_mlp",
    backbone_width=32,
    penultimate="linear",
    latent_width=20,
    encoder="categorical",
    decoder="network",
    decoder_width=16,
)
CONTINUOUS = ModelSpec(backbone="mlp", backbone_width=32, penultimate="linear", latent_width=4)
NOISY = dataclasses.replace(CONTINUOUS, latent_noise="zero_entropy")
CROSS_ENTROPIES = {"decoder_cross_entropy", "prediction_cross_entropy"}
OF_DENSITY = {"knn_entropy", "conditional_knn_entropy", "entropy_bound", "conditional_entropy_bound"}
OF_LATENT = {"nearest_mean_accuracy", "trace_within", "trace_between", "trace_ratio", "rms"}


def make(model: ModelSpec, *, seed: int = 0, **train: Any) -> RunSpec:
    spec = dataclasses.replace(TRAIN, **train)
    return RunSpec(architecture="any", data=DATA, model=model, train=spec, seed=seed)


@pytest.fixture(scope="module")
def splits():
    return load_images(DATA)


def entropy(probability: np.ndarray) -> float:
    positive = probability[probability > 0]
    return float(-(positive * np.log(positive)).sum())


@pytest.mark.parametrize("decoder", ["network", "optimal"])
def test_a_categorical_run_records_quantities_of_its_stored_weights(tmp_path, splits, decoder):
    store = RunStore(tmp_path)
    model = dataclasses.replace(CATEGORICAL, decoder=decoder)
    objective = "decoder_uncertainty" if decoder == "optimal" else "decoder_cross_entropy"
    spec = make(model, objective=objective, learning_rate=3e-3)
    result = execute(spec, store)
    assert result["status"] == "finished" and result["missing"] == {}
    expected = {"accuracy", "test_accuracy", "stochastic_error", *CROSS_ENTROPIES, *Quantities._fields}
    assert expected <= set(result) and not OF_DENSITY & set(result)
    assert "trace_ratio" not in result and "cube_spread" not in result

    trained = load_model(spec, store, splits.train)
    assert isinstance(trained.head, CategoricalHead)
    latents, label = collect(trained, splits.train), splits.train.label.numpy()
    encoder = latents.latent.double().numpy()
    decoder_table = trained.head.log_decoder().detach().double().exp().numpy()
    joint = np.stack([encoder[label == y].sum(axis=0) / 150 for y in range(10)], axis=1)
    h_z, h_zy, h_y = entropy(joint.sum(axis=1)), entropy(joint), entropy(np.bincount(label) / 150)
    h_z_given_x = np.mean([entropy(row) for row in encoder])
    exact = {
        "label_entropy": h_y,
        "encoding_entropy": h_z,
        "encoding_uncertainty": h_z_given_x,
        "decoder_uncertainty": h_zy - h_z,
        "reverse_decoder_uncertainty": h_zy - h_y,
        "preserved_information": h_z - h_z_given_x,
        "preserved_relevant_information": h_y + h_z - h_zy,
        "label_uncertainty": 0.0,
    }
    for name, value in exact.items():
        assert result[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    of_label = decoder_table[:, label].T
    assert result["decoder_cross_entropy"] == pytest.approx(
        -(encoder * np.log(of_label)).sum() / 150, rel=1e-5
    )
    predicted = encoder @ decoder_table
    loss = log_loss(label, predicted / predicted.sum(axis=1, keepdims=True), labels=range(10))
    assert result["prediction_cross_entropy"] == pytest.approx(loss, rel=1e-5)
    assert result["stochastic_error"] == pytest.approx(1 - predicted[np.arange(150), label].mean(), rel=1e-5)
    assert result["accuracy"] == (predicted.argmax(axis=1) == label).mean()
    assert result["test_accuracy"] == pytest.approx(
        float((collect(trained, splits.test).predicted == splits.test.label).double().mean())
    )
    assert result["prediction_cross_entropy"] <= result["decoder_cross_entropy"]
    assert result["stochastic_error"] <= 1 - math.exp(-result["decoder_cross_entropy"])
    gap = result["decoder_cross_entropy"] - result["decoder_uncertainty"]
    assert abs(gap) < 1e-5 if decoder == "optimal" else gap > 1e-3


def test_a_history_has_losses_of_every_epoch_and_metrics_of_the_recorded_ones(tmp_path):
    """The learning rate is what the plateaus have left of it."""
    store = RunStore(tmp_path)
    falling = make(CATEGORICAL, learning_rate=3e-3)
    wall = {"penalty": "squared_norm", "gamma_initial": 0.1, "gamma_factor": 100.0}
    rising = make(NOISY, **wall, epochs=4)
    execute_all([falling, rising], store, progress=False)
    history = store.history()
    first, second = (history[history["key"] == run_key(spec)] for spec in (falling, rising))
    assert first["epoch"].tolist() == [1, 2, 3] and first["gamma"].tolist() == [0] * 3
    assert first["decoder_uncertainty"].notna().tolist() == [False, True, True]
    assert first["loss_cross_entropy"].notna().all()
    assert second["learning_rate"].tolist() == pytest.approx([1e-2, 1e-2, 5e-3, 2.5e-3])


def test_noisy_latents_record_estimates_between_their_bounds(tmp_path, splits):
    store = RunStore(tmp_path)
    spec = make(NOISY, penalty="log_variance", gamma_initial=1e-3, epochs=12, plateau_factor=None)
    result = execute(spec, store)
    assert result["missing"] == {}
    noisy = {"noisy_accuracy", "noisy_test_accuracy", "stochastic_error"}
    errors = {f"{name}_error" for name in Quantities._fields}
    assert {*CROSS_ENTROPIES, *OF_DENSITY, *OF_LATENT, *noisy, *errors, *Quantities._fields} <= set(result)
    found = Quantities(**{name: result[name] for name in Quantities._fields})
    assert found.encoding_uncertainty == pytest.approx(0, abs=1e-9), "the noise's entropy"
    assert found.preserved_information == pytest.approx(found.encoding_entropy, abs=1e-9)
    assert 0.5 < found.preserved_information < math.log(150)
    assert found.label_entropy == pytest.approx(entropy(np.bincount(splits.train.label) / 150))
    assert found.decoder_uncertainty < result["decoder_cross_entropy"]
    assert result["prediction_cross_entropy"] < result["decoder_cross_entropy"]
    assert result["stochastic_error"] < 1 - math.exp(-result["decoder_cross_entropy"])
    spread = 5 * result["encoding_entropy_error"] + 0.1
    assert result["entropy_bound"] > found.encoding_entropy - spread
    assert result["conditional_entropy_bound"] < result["entropy_bound"]

    model = load_model(spec, store, splits.train)
    latents, label = collect(model, splits.train), splits.train.label
    generator, sd = torch.Generator().manual_seed(99), 1 / math.sqrt(2 * math.pi * math.e)
    shape = (400, *latents.latent.shape)
    many = latents.latent + sd * torch.randn(shape, generator=generator)
    assert isinstance(model.head, BottleneckHead)
    log_decoder = model.head.classifier(many).detach().double().log_softmax(dim=2)
    each = -log_decoder[:, torch.arange(150), label].mean(dim=1)
    off = 5 * float(each.std()) / math.sqrt(NOISE_SAMPLES)
    assert result["decoder_cross_entropy"] == pytest.approx(float(each.mean()), abs=off)
    assert off < 0.2 * float(each.mean())
    wrong = 1 - log_decoder.exp()[:, torch.arange(150), label].mean()
    assert result["stochastic_error"] == pytest.approx(float(wrong), abs=0.03)
    variances = many[0].double().var(dim=0)
    bound = float(0.5 * (2 * math.pi * math.e * variances).log().sum())
    assert result["entropy_bound"] == pytest.approx(bound, abs=0.3)
    again = [knn_entropy(one, k=1) for one in many[:20]]
    assert result["knn_entropy"] == pytest.approx(np.mean(again), abs=5 * np.std(again))
    assert 5 * np.std(again) < 4 * math.log(2), "a factor of two in every node would show"
    assert result["rms"] == pytest.approx(float(latents.latent.square().mean().sqrt()), rel=1e-5)


def test_a_latent_without_noise_has_no_mutual_information_with_the_image(tmp_path, splits):
    store = RunStore(tmp_path)
    spec = make(CONTINUOUS)
    result = execute(spec, store)
    assert not {*Quantities._fields, "stochastic_error", "noisy_accuracy"} & set(result)
    assert {*CROSS_ENTROPIES, *OF_DENSITY, *OF_LATENT} <= set(result)
    latents = collect(load_model(spec, store, splits.train), splits.train)
    loss = torch.nn.functional.cross_entropy(latents.logits.double(), latents.label)
    for name in CROSS_ENTROPIES:
        assert result[name] == pytest.approx(float(loss), rel=1e-5)
    assert result["knn_entropy"] == pytest.approx(knn_entropy(latents.latent, k=1), abs=1e-3)
    variances = latents.latent.double().var(dim=0)
    bound = float(0.5 * (2 * math.pi * math.e * variances).log().sum())
    assert result["entropy_bound"] == pytest.approx(bound, abs=1e-4)


def test_a_latent_of_noise_alone_has_the_noises_entropy_and_no_information(splits):
    models = [
        build_classifier(model, channels=1, size=8, classes=10, seed=0).eval()
        for model in (NOISY, CONTINUOUS)
    ]
    for model in models:
        assert isinstance(model.head, BottleneckHead) and model.head.penultimate is not None
        torch.nn.init.zeros_(model.head.penultimate.weight)
    noisy, silent = (information_metrics(model, splits) for model in models)
    for name in ("entropy_bound", "conditional_entropy_bound", "knn_entropy", "conditional_knn_entropy"):
        assert noisy.values[name] == pytest.approx(0, abs=0.6), name
    for name in ("encoding_entropy", "reverse_decoder_uncertainty"):
        assert abs(noisy.values[name]) <= 5 * noisy.values[f"{name}_error"] + 1e-9 < 1
    assert noisy.values["decoder_uncertainty"] == pytest.approx(math.log(10), abs=1e-6)
    assert noisy.values["preserved_relevant_information"] == pytest.approx(0, abs=1e-6)
    traces = {"trace_within", "trace_between", "trace_ratio"}
    assert set(noisy.missing) == traces, "of the latent before the noise"
    assert set(silent.missing) == traces | OF_DENSITY, "repeated points have no density"


def test_measuring_again_repeats_every_number(tmp_path, splits):
    store = RunStore(tmp_path)
    spec = make(NOISY, epochs=1)
    execute(spec, store)
    model = load_model(spec, store, splits.train)
    first, second = (information_metrics(model, splits).as_dict() for _ in range(2))
    assert first == second and not model.training


def test_runs_that_leave_the_floats_fail_with_their_history_and_the_others_go_on(tmp_path):
    """Latents brought to sizes below float32, and a rate no network survives."""
    store = RunStore(tmp_path)
    rescaled = dataclasses.replace(CONTINUOUS, rescaled=True)
    shrinking = make(rescaled, epochs=6, latent_sd=1.0, latent_sd_factor=1e-15)
    alike = make(rescaled, epochs=6, latent_sd=1.0, latent_sd_factor=1e-5)
    wild, tame = make(CATEGORICAL, learning_rate=1e30), make(CATEGORICAL, seed=1)
    execute_all([shrinking, alike, wild, tame], store, progress=False)
    for spec, status in ((shrinking, "failed"), (alike, "finished"), (wild, "failed"), (tame, "finished")):
        assert store.result(spec)["status"] == status
    failed = store.result(shrinking)
    assert failed["epoch"] == 4 and "not finite in epoch 4" in failed["reason"]
    history = store.history()
    of_shrinking = history[history["key"] == run_key(shrinking)]
    assert of_shrinking["epoch"].tolist() == [1, 2, 3]
    assert of_shrinking["rms"].iloc[1] == pytest.approx(1e-15 * math.sqrt(149 / 150), rel=1e-3)
    finished = store.result(alike)
    assert finished["rms"] == pytest.approx(1e-25 * math.sqrt(149 / 150), rel=1e-3)
    assert finished["accuracy"] > 0.5
    width, sizes = 4, (1e-5, 1e-25)
    of_alike = history[history["key"] == run_key(alike)].set_index("epoch")["entropy_bound"]
    fallen = float(of_alike[2]) - float(of_alike[6])
    assert fallen == pytest.approx(width * math.log(sizes[0] / sizes[1]), rel=1e-3)
