import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from experiments.chapters.decoder_uncertainty import curves, networks
from experiments.chapters.decoder_uncertainty.networks import Encoded
from experiments.studies import bottlenecks
from lpc.classifiers import build_classifier
from lpc.data import load_images
from lpc.evaluation.quantities import categorical_quantities
from lpc.specs import ModelSpec


def row(**changes):
    """Return a categorical run in which all of Section 5 holds, each statement with its own slack."""
    values = {
        "key": "a",
        "architecture": "permuted-decoder",
        "epoch": 1,
        "accuracy": 0.9,
        "noisy_accuracy": math.nan,
        "stochastic_error": 0.12,
        "decoder_uncertainty": 0.2,
        "decoder_uncertainty_error": math.nan,
        "decoder_cross_entropy": 0.3,
        "prediction_cross_entropy": 0.25,
    }
    return {**values, **changes}


def slack(history):
    table = curves.inequality_checks(history)
    return table["least"].tolist(), table["fails"].tolist()


# inequalities


def test_every_statement_has_the_slack_of_its_two_sides():
    least, fails = slack(pd.DataFrame([row()]))
    expected = [
        0.05,
        0.1,
        1 - math.exp(-0.3) - 0.12,
        1 - math.exp(-0.25) - 0.12,
        1 - math.exp(-0.3) - 0.1,
        0.25 / math.log(2) - 0.1,
    ]
    assert least[:6] == pytest.approx(expected, abs=1e-12) and fails == [0] * 12


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"prediction_cross_entropy": 0.31}, [0]),
        ({"decoder_uncertainty": 0.31}, [1]),
        ({"stochastic_error": 0.23}, [3]),
        ({"stochastic_error": 0.26}, [2, 3]),
        ({"accuracy": 0.7}, [4]),
        ({"accuracy": 0.6}, [4, 5]),
        ({"decoder_uncertainty": 0.3 + 5e-7}, []),
    ],
)
def test_what_is_missed_is_counted_and_rounding_is_not(changes, failing):
    _, fails = slack(pd.DataFrame([row(), row(key="b", **changes)]))
    assert [place for place, count in enumerate(fails) if count] == failing


def test_noisy_latents_are_judged_by_the_accuracy_with_noise():
    noisy = row(decoder_uncertainty_error=0.01, accuracy=1.0, noisy_accuracy=0.5)
    deterministic = row(decoder_uncertainty=math.nan, accuracy=0.0)
    table = curves.inequality_checks(pd.DataFrame([row(), noisy, deterministic]))
    assert table["latent"].tolist() == ["categorical"] * 6 + ["with noise"] * 6
    assert table["checks"].tolist() == [1] * 12
    assert table["fails"].tolist() == [0] * 10 + [1, 1]


def test_the_bound_is_not_about_the_likeliest_class():
    """For a label with 0.49 against 0.51, a drawn class meets the bound; the likeliest is always wrong."""
    entropy = -math.log(0.49)
    found = row(
        accuracy=0.0,
        stochastic_error=0.51,
        decoder_uncertainty=0.0,
        decoder_cross_entropy=entropy,
        prediction_cross_entropy=entropy,
    )
    least, fails = slack(pd.DataFrame([found]))
    assert least[2] == pytest.approx(0, abs=1e-12) and least[4] == pytest.approx(-0.49)
    assert fails[:6] == [0, 0, 0, 0, 1, 0]


# figures and tables


def histories(trials=4):
    return pd.DataFrame(
        row(key=f"{name}{seed}", architecture=name, epoch=epoch, decoder_cross_entropy=0.3 + seed / epoch)
        for name in curves.settings()
        for seed in range(trials)
        for epoch in (1, 2)
    )


def test_trials_are_drawn_as_median_and_quartiles():
    ax = Figure().subplots()
    curves.draw_trials(ax, histories(), "images-decoder")
    line = next(one for one in ax.lines if one.get_label() == curves.SYMBOLS["decoder"])
    assert np.asarray(line.get_ydata()) == pytest.approx([1.8, 1.05])
    band = np.asarray(ax.collections[1].get_paths()[0].vertices)
    assert band[:, 1].min() == pytest.approx(0.3 + 0.75 / 2) and band[:, 1].max() == pytest.approx(0.3 + 2.25)
    with pytest.raises(ValueError, match="setting with recorded epochs"):
        curves.draw_trials(ax, histories(), "images-decode")


def test_points_of_the_error_bound_are_where_they_belong():
    ax = Figure().subplots()
    noisy = row(decoder_uncertainty_error=0.01, decoder_cross_entropy=math.log(4), stochastic_error=0.6)
    curves.draw_error_bound(ax, pd.DataFrame([row(), noisy]))
    points = {line.get_label(): np.asarray(line.get_xydata()) for line in ax.lines}
    assert points["noisy latents"].tolist() == [pytest.approx([0.75, 0.6])]
    own = points["permuted pixels, decoder cross-entropy"]
    assert own.tolist() == [pytest.approx([1 - math.exp(-0.3), 0.12])]


def test_median_and_quartiles_as_text():
    assert curves.median_quartiles([1.0, 2.0, 3.0, 4.0, math.nan]) == "2.50 (1.75 to 3.25)"
    assert curves.median_quartiles([math.nan]) == "–"


def test_results_leave_out_what_has_not_finished():
    frame = histories(3).assign(status="finished")
    frame.loc[frame["key"] == "images-decoder2", "status"] = "failed"
    table = curves.results(frame[frame["epoch"] == 2], {"decoder_cross_entropy": "H"})
    assert table["H"].T["images, decoder cross-entropy"] == "0.550 (0.425 to 0.675)"
    assert table["trials"].tolist() == ["3", "3", "3", "3", "2", "3"]


def test_headings_of_settings():
    assert curves.heading("images-prediction") == "images, prediction cross-entropy"
    with pytest.raises(ValueError, match="setting of Figure 3"):
        curves.heading("images-predictions")


# shared categories


def soft(chosen, categories, confidence):
    weight = torch.full((len(chosen), categories), (1 - confidence) / (categories - 1), dtype=torch.float64)
    weight[torch.arange(len(chosen)), torch.tensor(chosen)] = confidence
    return weight


LABEL = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])


def test_classes_that_share_their_most_probable_category():
    weight = soft([4, 4, 1, 1, 4, 4, 4, 0], 5, 0.9)
    weight[7, 0], weight[7, 4] = 0.9, 0.025  # class 3 is at 0 and 4 alike; a little more at 0
    weight[6, 4], weight[6, 0] = 0.88, 0.045
    assert networks.shared_classes(weight, LABEL) == [[0, 2]]
    assert networks.shared_classes(soft([4] * 8, 5, 0.9), LABEL) == [[0, 1, 2, 3]]
    assert networks.shared_classes(soft([0, 0, 1, 1, 2, 2, 3, 3], 5, 0.9), LABEL) == []


@pytest.mark.parametrize("objective", ["decoder", "prediction"])
def test_the_slope_of_held_points_is_the_closed_form(objective):
    confidence = 0.99
    weight = soft([0, 0, 1, 1, 0, 0, 2, 2], 3, confidence)
    decoder = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.1, 0.7, 0.1, 0.1], [0.2, 0.1, 0.2, 0.5]]).double()
    found = curves.held_points(Encoded(weight, LABEL, decoder.clamp(min=1e-38).log()), objective=objective)
    assert found is not None
    p, q = weight[0], decoder[:, 0]
    surprise = -q.log()
    if objective == "decoder":
        loss, slope = p @ surprise, p * (surprise - p @ surprise)
    else:
        loss, slope = -(p @ q).log(), p * (1 - q / (p @ q))
    assert found.share == 0.5
    assert found.outside == pytest.approx(1 - confidence)
    assert found.loss == pytest.approx(float(loss)) and found.slope == pytest.approx(float(slope.norm()))


def test_nothing_holds_where_nothing_is_shared():
    one = Encoded(soft([0, 0, 1, 1, 2, 2, 3, 3], 4, 0.9), LABEL, torch.zeros(4, 4).double())
    assert curves.held_points(one, objective="decoder") is None
    with pytest.raises(ValueError, match="objective"):
        curves.held_points(one, objective="encoder")


# samples of dropout


def test_one_sample_is_the_mean_of_losses_and_few_samples_are_too_large():
    """A label's probability is a or b, each half the time: the averages of K samples are binomial sums."""
    a, b, samples = 0.2, 0.9, 40_000
    generator = torch.Generator().manual_seed(0)
    probability = torch.where(torch.rand(samples, 3, generator=generator) < 0.5, a, b).double()
    found = networks.sample_estimates(probability.log(), sizes=[1, 2, 3])
    for place, size in enumerate((1, 2, 3)):
        counts = [math.comb(size, k) / 2**size for k in range(size + 1)]
        exact = -sum(c * math.log((k * a + (size - k) * b) / size) for k, c in enumerate(counts))
        one = found.iloc[place]
        assert abs(one["loss_of_mean"] - exact) < 4 * one["loss_of_mean_error"]
        assert abs(one["mean_of_losses"] + math.log(a * b) / 2) < 4 * one["mean_of_losses_error"]
    sd = math.log(b / a) / 2 / math.sqrt(3)  # of a mean over the three points
    assert found["mean_of_losses_error"].iloc[0] == pytest.approx(sd / math.sqrt(samples), rel=0.02)
    assert found["loss_of_mean"].iloc[0] == pytest.approx(found["mean_of_losses"].iloc[0], abs=1e-12)


@pytest.mark.parametrize("size", [0, 6, -1])
def test_sizes_that_leave_no_two_groups(size):
    with pytest.raises(ValueError, match=f"size {size} of 10 samples"):
        networks.sample_estimates(torch.zeros(10, 2).double(), sizes=[size])


def test_samples_of_dropout_are_those_of_torch():
    model = ModelSpec(backbone="dropout_cnn", backbone_width=4, penultimate="linear", latent_width=6)
    classifier = build_classifier(model, channels=1, size=8, classes=3, seed=0).eval()
    images, label = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 3
    generator = torch.Generator().manual_seed(2)
    found = networks.dropout_log_probability(classifier, images, label, samples=3000, generator=generator)
    assert found.shape == (3000, 5)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        logits = classifier.train()(images.repeat(3000, 1, 1, 1)).logits.double().reshape(3000, 5, 3)
    other = logits.log_softmax(dim=2)[:, torch.arange(5), label]
    error = ((found.var(dim=0) + other.var(dim=0)) / 3000).sqrt()
    assert bool(((found.mean(dim=0) - other.mean(dim=0)).abs() < 4 * error).all())
    assert (found.std(dim=0) / other.std(dim=0)).numpy() == pytest.approx(np.ones(5), abs=0.1)


def test_a_network_without_dropout_is_refused():
    spec = bottlenecks.declared("smoke", only=["norm"])[0]
    model = build_classifier(spec.model, channels=1, size=8, classes=10, seed=0)
    with pytest.raises(ValueError, match=r"the backbone is a .*; expected one with dropout"):
        networks.dropout_log_probability(
            model, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), samples=2, generator=torch.Generator()
        )


# batches


def test_a_batch_knows_too_much_of_the_label():
    """Two points in one category, of two classes, are alike with the hypergeometric probability."""
    weight, label = torch.ones(10, 1).double(), torch.arange(10) % 2
    generator = torch.Generator().manual_seed(0)
    found = networks.batch_uncertainties(weight, label, size=2, batches=3000, generator=generator)
    mean, error = float(found.mean()), float(found.std()) / math.sqrt(3000)
    assert abs(mean - 5 / 9 * math.log(2)) < 4 * error
    whole = networks.batch_uncertainties(weight, label, size=10, batches=2, generator=generator)
    assert whole.tolist() == pytest.approx([math.log(2)] * 2)
    with pytest.raises(ValueError, match="size is 11"):
        networks.batch_uncertainties(weight, label, size=11, batches=1, generator=generator)


# first steps


@pytest.fixture(scope="module")
def small():
    spec = bottlenecks.declared("smoke", only=["permuted-decoder"])[0]
    spec = replace(spec, train=replace(spec.train, batch_size=64))
    return spec, load_images(spec.data)


def test_settings_start_from_the_same_encoder_and_go_down(small):
    spec, splits = small
    found = {
        pair: networks.first_steps(
            spec, splits, objective=pair[0], decoder=pair[1], steps=60, every=20, points=200
        )
        for pair in [("decoder", "learned"), ("decoder", "optimal"), ("prediction", "optimal")]
    }
    model = build_classifier(spec.model, channels=1, size=8, classes=10, seed=spec.seed).eval()
    weight = model(splits.train.normalised(slice(None))).latent.detach().double()
    start = categorical_quantities(weight, splits.train.label)
    for table in found.values():
        assert table["step"].tolist() == [0, 20, 40, 60]
        assert table["decoder_uncertainty"].iloc[0] == pytest.approx(start.decoder_uncertainty, abs=1e-6)
        assert table["encoding_entropy"].iloc[0] == pytest.approx(start.encoding_entropy, abs=1e-6)
        assert table["decoder_uncertainty"].iloc[-1] < start.decoder_uncertainty - 0.1
    ends = {table["decoder_uncertainty"].iloc[-1] for table in found.values()}
    assert len(ends) == 3


@pytest.mark.parametrize("choice", [("uncertainty", "learned"), ("decoder", "best")])
def test_unknown_choices_of_training(small, choice):
    spec, splits = small
    with pytest.raises(ValueError, match=f"objective='{choice[0]}', decoder='{choice[1]}'"):
        networks.first_steps(spec, splits, objective=choice[0], decoder=choice[1], steps=1, every=1)


def test_a_continuous_latent_has_no_table(small):
    spec = bottlenecks.declared("smoke", only=["norm"])[0]
    with pytest.raises(ValueError, match="continuous latent"):
        networks.first_steps(spec, small[1], objective="decoder", decoder="learned", steps=1, every=1)
