import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, special, stats

from experiments.chapters.noise import figures, float_formats
from experiments.chapters.noise.entropies import Piece, fano_error, measured_entropies, noisy_entropy
from experiments.chapters.noise.float_formats import FORMATS, Readout, error_in_format, limits
from experiments.studies import bottlenecks
from lpc.backbones import DropoutCNN, build_backbone
from lpc.classifiers import bottleneck_classifier
from lpc.data import ImageSet, Splits
from lpc.heads import BottleneckHead, CategoricalHead, Classifier
from lpc.latents import collect

# entropies that are known


def test_entropy_of_a_point_and_noise_is_the_noises():
    for sd in (1e-6, 0.3, 20.0):
        assert noisy_entropy([Piece(5.0, 5.0)], sd=sd) == pytest.approx(
            stats.norm(scale=sd).entropy(), abs=1e-8
        )


@pytest.mark.parametrize("sd", [0.05, 0.4, 3.0])
def test_entropy_of_pieces_is_the_integral(sd):
    pieces = [Piece(0, 0.1, 0.3), Piece(1, 3, 0.5), Piece(0.5, 0.5, 0.2)]

    def surprise(z: float) -> float:
        density = 0.2 * stats.norm.pdf(z, 0.5, sd)
        for start, end, share in pieces[:2]:
            below = [float(special.ndtr((z - edge) / sd)) for edge in (start, end)]
            density += share / (end - start) * (below[0] - below[1])
        return float(special.entr(max(float(density), 0.0)))

    ends = np.linspace(-9 * sd, 3 + 9 * sd, 30)
    expected = sum(integrate.quad(surprise, a, b)[0] for a, b in pairwise(ends))
    assert noisy_entropy(pieces, sd=sd) == pytest.approx(expected, abs=1e-5)


def test_information_of_the_papers_example_grows_as_the_noise_shrinks():
    """Z = X + R: H[Z + noise] - H[R + noise] goes to log 0.1 + log 1/sd - log sqrt(2 pi e)."""
    halves = [Piece(0, 0.1, 0.5), Piece(1, 1.1, 0.5)], [Piece(0, 0, 0.5), Piece(1, 1, 0.5)]
    for sd in (1e-4, 1e-6):
        information = noisy_entropy(halves[0], sd=sd) - noisy_entropy(halves[1], sd=sd)
        limit = math.log(0.1 / sd) - 0.5 * math.log(2 * math.pi * math.e)
        assert information == pytest.approx(limit, abs=20 * sd)
        assert information > 0 > math.log(0.1)


@pytest.mark.parametrize(
    ("pieces", "sd", "message"),
    [
        ([], 1.0, "expected one or more"),
        ([Piece(1, 0)], 1.0, "start <= end"),
        ([Piece(0, 1, 0.4)], 1.0, "shares of the pieces sum to 0.4"),
        ([Piece(0, 1)], 0.0, "sd is 0.0"),
        ([Piece(0, 1)], 1e-12, "sd is 1e-12"),
        ([Piece(0, 0)], math.inf, "sd is inf"),
    ],
)
def test_no_noisy_entropy(pieces, sd, message):
    with pytest.raises(ValueError, match=message):
        noisy_entropy(pieces, sd=sd)


def test_measures_of_one_gaussian():
    latent = torch.randn(1500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    label = torch.arange(1500) % 2
    found = measured_entropies(3 * latent, label, noise_variance=0.5, k=3)
    closed = stats.multivariate_normal(cov=9.5 * np.eye(2)).entropy()
    for value in (found.bound, found.knn, found.exact, found.matched.truth):
        assert value == pytest.approx(closed, abs=0.15)
    ceiling = measured_entropies(1e4 * latent, label, noise_variance=0.5, k=3)
    noise = stats.multivariate_normal(cov=0.5 * np.eye(2)).entropy()
    assert ceiling.exact == pytest.approx(math.log(1500) + noise)
    assert ceiling.knn > ceiling.exact + 5
    assert measured_entropies(latent, label, noise_variance=0.0, k=3).exact == -math.inf


def test_fano():
    assert fano_error(0.0, classes=10) == 0
    assert fano_error(math.log(10), classes=10) == pytest.approx(0.9)
    error = 0.2
    uncertainty = stats.entropy([0.8, *[0.2 / 9] * 9])
    assert fano_error(float(uncertainty), classes=10) == pytest.approx(error)
    with pytest.raises(ValueError, match=r"uncertainty is 2.4; expected 0 to log 10"):
        fano_error(2.4, classes=10)


# formats


def test_limits_are_numpys():
    for name in ("float16", "float32", "float64"):
        info = np.finfo(name)
        ours = limits(FORMATS[name])
        assert ours == (info.max, info.smallest_normal, info.smallest_subnormal)
    assert limits(torch.bfloat16).subnormal == 2.0**-133


def line(weight=2.0):
    """Two classes told apart by the sign of one node."""
    latent = torch.tensor([[-1.0], [1.0], [-0.5], [2.0]], dtype=torch.float64)
    label = torch.tensor([0, 1, 0, 1])
    decoder = torch.tensor([[-weight], [weight]], dtype=torch.float64)
    return Readout(latent, label, latent, label, decoder, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("name", list(FORMATS))
def test_decoder_ends_where_its_weight_overflows_and_latent_where_it_underflows(name):
    of, dtype = limits(FORMATS[name]), FORMATS[name]
    overflow = math.log10(2.0) - math.log10(of.largest)
    at = {"readout": line(), "dtype": dtype}
    assert error_in_format(**at, log10_sd=overflow + 0.01) == 0
    assert error_in_format(**at, log10_sd=overflow - 0.01) == 1
    assert error_in_format(**at, log10_sd=overflow - 0.01, exact_decoder=True) == 0
    zero = math.log10(of.subnormal) - math.log10(2)  # where 1 rounds to zero; 0.5 does a factor of two above
    assert error_in_format(**at, log10_sd=zero + 0.35, exact_decoder=True) == 0
    assert error_in_format(**at, log10_sd=zero - 0.35, exact_decoder=True) == 0.5  # all zero: the first class


def test_ends_of_formats():
    readout = line()
    errors = float_formats.errors_in_formats(readout)
    found = float_formats.ends(errors, readout)
    assert list(found.index) == list(FORMATS)
    late = found["decoder_measured"] - found["decoder_predicted"]
    assert ((late >= 0) & (late <= 0.25)).all()
    assert ((found["latent_measured"] - found["latent_predicted"]).abs() < 0.5).all()
    fig, ax = plt.subplots()
    float_formats.draw_ends(ax, errors[errors["format"] == "float32"], found.T["float32"])
    assert ax.get_title() == "float32"
    first, last = ax.get_xlim()
    assert first > -38 > -45 > last
    plt.close(fig)


# networks


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(60) % 3, 3, (0.5,), (0.25,))


@pytest.fixture(scope="module")
def network(images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone("dropout_cnn", channels=1, size=8, width=4)
        assert isinstance(backbone, DropoutCNN)
        head = BottleneckHead(backbone.feature_width, 3, latent_width=5, rescaled=True)
        return Classifier(backbone, head).eval()


def test_readout_is_the_networks(network, images):
    splits = Splits(images, None, images)
    readout = float_formats.unit_readout(network, splits)
    expected = collect(network, images)
    np.testing.assert_allclose(readout.latent.std(dim=0), 1, atol=1e-12)
    np.testing.assert_allclose(readout.latent.mean(dim=0), 0, atol=1e-7)
    logits = readout.latent @ readout.weight.T + readout.bias
    np.testing.assert_allclose(logits, expected.logits, atol=1e-6)
    error = 1 - float((expected.predicted == images.label).double().mean())
    for log10_sd in (3.0, -30.0):
        assert error_in_format(readout, log10_sd=log10_sd, dtype=torch.float64) == pytest.approx(error)


def test_noise_at_test_is_harmless_when_small_and_total_when_large(network, images):
    readout = float_formats.unit_readout(network, Splits(images, None, images))
    found = figures.noise_at_test(readout, sds=[1e4, 1e-4])
    clean = error_in_format(readout, log10_sd=0, dtype=torch.float64)
    assert found["test_error"][0] == found["one_draw"][0] == pytest.approx(clean)
    assert found["preserved_information"][0] == pytest.approx(math.log(60))
    assert found["preserved_information"][1] == pytest.approx(0, abs=1e-4)
    assert found["one_draw"][1] > 0.4


def test_encoders_gradient_does_not_know_the_scale_and_decoders_follows_it(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    steps = figures.adam_steps(network, images, sds=[1.0, 1e-3, 1e-20], learning_rate=0.01)
    np.testing.assert_allclose(steps["encoder_gradient"], steps["encoder_gradient"][0], rtol=1e-4)
    np.testing.assert_allclose(
        steps["decoder_gradient"] / steps["sd"], steps["decoder_gradient"][0], rtol=1e-3
    )
    np.testing.assert_allclose(steps["encoder_change"], steps["encoder_change"][0], rtol=1e-2)
    unit = float_formats.unit_readout(network, Splits(images, None, images)).weight
    expected = 0.01 / float(unit.square().mean().sqrt())  # the first step of Adam moves a weight by its rate
    assert steps["decoder_change"][0] == pytest.approx(expected, rel=0.01)
    assert steps["decoder_change"][1] == pytest.approx(expected * 1e-3, rel=0.1)
    assert steps["decoder_change"][2] == 0  # the gradient's 1e-20 is nothing beside Adam's 1e-8
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_latents_under_dropout(network, images):
    generator = torch.Generator().manual_seed(0)
    found = figures.dropout_latents(network, images, samples=3, generator=generator, sd=2.0)
    assert found.latent.shape == (180, 5)
    np.testing.assert_allclose(found.latent.std(dim=0), 2, atol=1e-9)
    assert torch.equal(found.image[:60], found.image[60:120])
    assert torch.equal(found.label, images.label[found.image])
    assert not torch.allclose(found.latent[:60], found.latent[60:120], atol=0.1)  # other masks


def test_networks_that_have_no_scale_or_no_dropout(images):
    plain = bottleneck_classifier(torch.nn.Flatten(), classes=3, latent_width=4, images=images.normalised())
    with pytest.raises(ValueError, match=r"not rescaled; expected ModelSpec\.rescaled"):
        figures.adam_steps(plain, images, sds=[1.0], learning_rate=0.1)
    with pytest.raises(ValueError, match="the backbone is a Flatten; expected a DropoutCNN"):
        figures.dropout_latents(plain, images, samples=1, generator=torch.Generator(), sd=1.0)
    head = CategoricalHead(64, 3, categories=4)
    with pytest.raises(ValueError, match="the classifier's latent is categorical"):
        float_formats.unit_readout(Classifier(torch.nn.Flatten(), head), Splits(images, None, images))


# runs


def test_history_of_runs_with_entropies_a_node(tmp_path):
    runs = bottlenecks.study("smoke", seeds=1, only=["dropout"], store=tmp_path, workers=1, progress=False)
    history = figures.with_errors(runs, ["dropout", "dropout-noise"])
    assert set(history["architecture"]) == {"dropout", "dropout-noise"}
    free = history[history["architecture"] == "dropout"]
    noisy = history[history["architecture"] == "dropout-noise"]
    np.testing.assert_allclose(free["sd"], np.geomspace(10, 1e-3, 4))
    np.testing.assert_allclose(free["bound"], [figures.per_node(sd) for sd in free["sd"]], atol=1e-6)
    np.testing.assert_allclose(free["test_error"], 1 - free["test_accuracy"])
    np.testing.assert_allclose(noisy["test_error"], 1 - noisy["noisy_test_accuracy"])
    assert free["exact"].isna().all()
    np.testing.assert_allclose(noisy["exact"] * 6, noisy["preserved_information"])
    assert figures.per_node(2.0) == pytest.approx(stats.norm(scale=2.0).entropy())


def test_trials_are_drawn_with_their_median():
    history = pd.DataFrame(
        {"seed": [0, 0, 1, 1, 2, 2], "epoch": [2, 1] * 3, "x": [0.0, 1.0] * 3, "y": [5.0, 1, 6, 2, 9, 4]}
    )
    fig, ax = plt.subplots()
    figures.draw_trials(ax, history, "x", "y", label="median", colour="black")
    *trials, median = ax.get_lines()
    assert len(trials) == 3
    np.testing.assert_array_equal(np.asarray(trials[1].get_ydata()), [2, 6])  # in the order of epochs
    np.testing.assert_array_equal(np.asarray(median.get_xdata()), [1, 0])
    np.testing.assert_array_equal(np.asarray(median.get_ydata()), [2, 6])
    assert median.get_label() == "median"
    plt.close(fig)
