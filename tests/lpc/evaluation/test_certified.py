import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from lpc.classifiers import bottleneck_classifier, build_classifier
from lpc.evaluation._networks.linear_relaxation import (
    SILU_INFLECTION,
    SILU_MINIMUM,
    Ball,
    BoundSiLU,
    HiddenBounds,
    silu_slope,
)
from lpc.evaluation.affine_layers import AffineLayers, affine_layers
from lpc.evaluation.certified import (
    METHODS,
    certified_radius,
    differences,
    gradient_radius,
    lipschitz_bound,
    sampled_radius,
    silu_lipschitz,
)
from lpc.evaluation.robustness import deepfool
from lpc.specs import VARIANTS, ModelSpec

bound_propagation = pytest.importorskip("bound_propagation")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def layers(generator, *widths, activation="silu", scale=1.5):
    """A random network: inputs, hidden widths, classes."""
    maps = [
        scale * torch.randn(after, before, generator=generator, dtype=torch.float64) / before**0.5
        for before, after in itertools.pairwise(widths)
    ]
    biases = [0.3 * torch.randn(width, generator=generator, dtype=torch.float64) for width in widths[1:]]
    return AffineLayers(tuple(maps), tuple(biases), (activation,) * (len(maps) - 1))


def images(generator, count=20, inputs=9):
    return torch.randn(count, inputs, generator=generator, dtype=torch.float64)


def in_ball(generator, centre, radius, points):
    """Points drawn on the spheres around some centres: (points, *centre)."""
    drawn = torch.randn(points, *centre.shape, generator=generator, dtype=torch.float64)
    return centre + radius[:, None] * drawn / drawn.norm(dim=-1, keepdim=True)


# ---------------------------------------------------------------- networks as affine maps


def unsettled(model, generator):
    """Batch normalisation with statistics and weights that are not those of a new layer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            for value in (*module.parameters(), *module.buffers()):
                if value.is_floating_point():
                    value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model.double().eval()


@pytest.mark.parametrize("penultimate", ["none", "linear", "nonlinear"])
@pytest.mark.parametrize("backbone", ["mlp", "relu_mlp"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_affine_layers_are_the_network(generator, backbone, penultimate, rescaled):
    width = None if penultimate == "none" else 4
    spec = ModelSpec(
        backbone=backbone, backbone_width=16, penultimate=penultimate, latent_width=width, rescaled=rescaled
    )
    model = unsettled(build_classifier(spec, channels=2, size=3, classes=5, seed=0), generator)
    if rescaled:
        model.head.load_state_dict(
            {
                "shift": torch.full((model.head.latent_width,), 0.7),
                "scale": torch.full((model.head.latent_width,), 1.3),
            },
            strict=False,
        )
    pixels = torch.rand(7, 2, 3, 3, generator=generator, dtype=torch.float64)
    mean, sd = (0.3, 0.6), (0.2, 0.5)
    seen = (pixels - torch.tensor(mean)[:, None, None].double()) / torch.tensor(sd)[:, None, None].double()
    torch.testing.assert_close(affine_layers(model)(seen), model(seen).logits, rtol=1e-12, atol=1e-12)
    network = affine_layers(model, mean=mean, sd=sd)
    torch.testing.assert_close(network(pixels), model(seen).logits, rtol=1e-6, atol=1e-6)
    assert len(network.weight) == (4 if penultimate == "nonlinear" else 3)
    torch.testing.assert_close(network.rescaled(1e-3)(pixels), 1e-3 * network(pixels))


def test_every_architecture_of_the_table_has_affine_layers(generator):
    for variant in VARIANTS.values():
        width = None if variant.penultimate == "none" else 4
        spec = ModelSpec(
            backbone="mlp", backbone_width=8, penultimate=variant.penultimate, latent_width=width
        )
        model = build_classifier(spec, channels=1, size=3, classes=3, seed=0).double().eval()
        image = images(generator).reshape(-1, 1, 3, 3)
        torch.testing.assert_close(affine_layers(model)(image), model(image).logits)


def test_what_has_no_bound_is_named(generator):
    image = torch.randn(2, 1, 8, 8, generator=generator)
    backbone = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    conv = bottleneck_classifier(backbone, 3, images=image).eval()
    with pytest.raises(ValueError, match=r"backbone\.0 is Conv2d"):
        affine_layers(conv)
    with pytest.raises(
        ValueError, match=r"Conv2d\) of images of shape \(1, 9000, 9000\) would be a matrix of"
    ):
        affine_layers(nn.Sequential(nn.Conv2d(1, 1, 1)).eval(), shape=(1, 9000, 9000))
    for name, block in (("small_cnn", "layers.0 is Conv2d"), ("resnet18", "stem.0 is Conv2d")):
        model = build_classifier(
            ModelSpec(backbone=name, backbone_width=4), channels=1, size=8, classes=3, seed=0
        )
        with pytest.raises(ValueError, match=f"backbone.{block}, for which the shape of an image is needed"):
            affine_layers(model.eval())
    model = build_classifier(
        ModelSpec(backbone="mlp", backbone_width=4), channels=1, size=3, classes=3, seed=0
    )
    with pytest.raises(ValueError, match="training mode"):
        affine_layers(model)
    with pytest.raises(ValueError, match="expected both or neither"):
        affine_layers(model.eval(), mean=(0.0,))
    with pytest.raises(ValueError, match="sd above 0"):
        affine_layers(model, mean=(0.0,), sd=(0.0,))
    with pytest.raises(ValueError, match="Tanh"):
        affine_layers(nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).eval())
    with pytest.raises(ValueError, match="does not end with a linear layer"):
        affine_layers(nn.Sequential(nn.Linear(3, 3), nn.SiLU()).eval())


def small_images(name, generator):
    """A network of images, and four images."""
    size = {"leaky": (2, 6, 6), "bottleneck": (1, 4, 4), "resnet18": (1, 8, 8), "small_cnn": (2, 6, 6)}[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "leaky":
            layers = nn.Conv2d(2, 3, 3, stride=2), nn.LeakyReLU(0.2), nn.AvgPool2d(2), nn.Flatten()
            model = nn.Sequential(*layers, nn.Linear(3, 8), nn.LeakyReLU(0.01), nn.Linear(8, 4))
        elif name == "bottleneck":
            layers = nn.Conv2d(1, 4, 1), nn.ReLU(), Bottleneck(4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            model = nn.Sequential(*layers, nn.Linear(4, 3))
        else:
            spec = ModelSpec(backbone=name, backbone_width=2, penultimate="linear", latent_width=4)
            model = build_classifier(spec, channels=size[0], size=size[1], classes=4, seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (*module.parameters(), *module.buffers()):
                if value.is_floating_point():
                    value.data.copy_(0.5 + torch.rand(value.shape, generator=generator))
    image = torch.rand(4, *size, generator=generator, dtype=torch.float64)
    return model.double().eval(), image


@pytest.mark.parametrize("name", ["leaky", "small_cnn", "bottleneck", "resnet18"])
def test_networks_of_small_images_have_certificates(generator, name):
    model, image = small_images(name, generator)
    _, channels, rows, columns = image.shape
    network = affine_layers(model, shape=(channels, rows, columns))

    def logits_of(x):
        found = model(x)
        return getattr(found, "logits", found)

    with torch.no_grad():
        torch.testing.assert_close(network(image), logits_of(image), rtol=1e-12, atol=1e-13)
        label = logits_of(image).argmax(dim=1)
    far = deepfool(logits_of, image).perturbation.flatten(1).norm(dim=1)
    proved = {method: certified_radius(network, image, method=method, evaluations=4) for method in METHODS}
    assert bool((proved["crown"] >= proved["spectral"]).all()) and bool((proved["spectral"] > 0).all())
    if name == "resnet18":  # 18 layers: their norms multiply
        assert bool((proved["crown"] > 100 * proved["spectral"]).all())
    for method, radius in proved.items():
        assert bool((radius <= far).all()), method
        drawn = in_ball(generator, image.flatten(1), radius, 50)
        with torch.no_grad():
            decision = logits_of(drawn.reshape(-1, *image.shape[1:])).argmax(dim=1).reshape(50, -1)
        assert bool((decision == label).all()), method


def test_bounds_of_a_kept_node_and_of_leaky_relu_hold_on_a_grid(generator):
    # one hidden layer of a single input: the least value over an interval is known
    weight = torch.randn(5, 1, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    form = torch.randn(1, 3, 5, generator=generator, dtype=torch.float64)
    for activation in ("leaky_relu:0.1", "leaky_relu:0.1+2", "silu+2", "relu+2"):
        maps = (weight, form[0]), (bias, torch.zeros(3, dtype=torch.float64))
        network = AffineLayers(*maps, (activation,))
        centre, radius = torch.tensor([[0.3]]).double(), torch.tensor([0.8]).double()
        grid = centre + radius * torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
        least = network(grid).amin(dim=0)
        bounds = HiddenBounds(network)
        for bound in (bounds.crown, bounds.interval):
            found = bound(centre, radius, form, torch.zeros(1, 3, dtype=torch.float64))[0]
            assert bool((found <= least + 1e-12).all()), activation
            assert bool((found > least - 3).all()), activation


# ---------------------------------------------------------------- SiLU


def test_silu_constants():
    grid = torch.linspace(-30, 30, 2_000_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(nn.functional.silu(grid).sum(), grid)
    torch.testing.assert_close(silu_slope(grid.detach()), slope, rtol=1e-12, atol=1e-13)
    largest = float(slope.max())
    assert largest <= silu_lipschitz() <= largest * (1 + 1e-9)
    assert silu_lipschitz() == pytest.approx(1.0998393201288669170, abs=1e-15)  # by mpmath, to 40 digits
    point = torch.tensor([SILU_INFLECTION, -SILU_INFLECTION, SILU_MINIMUM], dtype=torch.float64)
    assert SILU_INFLECTION * math.tanh(SILU_INFLECTION / 2) == pytest.approx(2, abs=1e-14)
    assert silu_slope(point)[2] == pytest.approx(0, abs=1e-14)
    assert float(silu_slope(point)[:2].sum()) == pytest.approx(1, abs=1e-14)


def test_lines_around_silu_hold_and_touch(generator):
    ends = 8 * torch.randn(2, 4000, generator=generator, dtype=torch.float64)
    ends[:, :500] *= 10
    ends[1, 500:1000] = ends[0, 500:1000] + 10 ** (-9 * torch.rand(500, generator=generator).double())
    low, high = ends.sort(dim=0).values
    module = BoundSiLU(nn.SiLU(), bound_propagation.BoundModelFactory())
    module.alpha_beta(bound_propagation.IntervalBounds(None, low, high))
    share = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
    point = (low + share * (high - low)).clamp(low, high)
    value = nn.functional.silu(point)
    lines: Any = module
    below = value - (lines.alpha_lower * point + lines.beta_lower)
    above = lines.alpha_upper * point + lines.beta_upper - value
    assert float(below.min()) >= 0 and float(above.min()) >= 0
    width = high - low
    slack = 1e-8 * (1 + low.abs() + high.abs()) + (width / 2000) ** 2  # the grid's, at the touching point
    assert bool((below.amin(dim=0) <= slack).all()) and bool((above.amin(dim=0) <= slack).all())
    bounds = module.ibp_forward(bound_propagation.IntervalBounds(None, low, high))
    assert bool((bounds.lower <= value.amin(dim=0)).all()) and bool((bounds.upper >= value.amax(dim=0)).all())
    assert bool((value.amin(dim=0) - bounds.lower <= slack).all())
    assert bool((bounds.upper - value.amax(dim=0) <= slack).all())


# ---------------------------------------------------------------- bounds over balls


def test_ball_is_exact_and_the_librarys_is_not(generator):
    form = torch.randn(3, 2, 5, generator=generator, dtype=torch.float64)
    offset = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    centre, radius = images(generator, 3, 5), torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    least = (form @ centre[..., None])[..., 0] + offset - radius[:, None] * form.norm(dim=-1)
    ours = Ball(centre, radius)
    both = bound_propagation.LinearBounds(ours, (form, offset), (form, offset))
    lower, upper = ours.concretize(both)
    assert lower is not None and upper is not None
    torch.testing.assert_close(lower, least)
    torch.testing.assert_close(upper - lower, 2 * radius[:, None] * form.norm(dim=-1))
    # The library's dual exponent is wrong, so that its bound is above values in the ball: once this fails,
    # the library is mended and its own ball may take the place of ours.
    theirs = bound_propagation.LpNormSet(centre, radius[:, None], 2.0)
    lower, _ = theirs.concretize(bound_propagation.LinearBounds(theirs, (form, offset), None))
    assert bool((lower > least + 1e-3).all())


@pytest.mark.parametrize("activation", ["silu", "relu"])
@pytest.mark.parametrize("kind", ["crown", "interval"])
def test_lower_bounds_hold_over_the_ball_and_fall(generator, activation, kind):
    network = layers(generator, 9, 16, 12, 5, activation=activation)
    centre = images(generator)
    weight, bias, margin = differences(network, centre)
    bound = getattr(HiddenBounds(network), kind)
    before = margin + 1e-12
    for size in (0.0, 0.01, 0.1, 0.5, 2.0):
        radius = torch.full((20,), size, dtype=torch.float64)
        lower = bound(centre, radius, weight, bias)
        points = in_ball(generator, centre, radius, 2000)
        logits = network(points.flatten(0, 1)).reshape(2000, 20, 5)
        decision = network(centre).argmax(dim=1)
        own = logits.gather(2, decision.expand(2000, -1)[..., None])
        others = [[k for k in range(5) if k != y] for y in decision.tolist()]
        gaps = own - logits.gather(2, torch.tensor(others).expand(2000, -1, -1))
        assert bool((lower <= gaps.amin(dim=0) + 1e-9).all())
        assert bool((lower <= before).all())
        before = lower
        if size == 0:
            torch.testing.assert_close(lower, margin, rtol=1e-6, atol=1e-7)


def test_crown_against_the_librarys_own_forms(generator):
    from bound_propagation import BoundModelFactory, Mul

    centre, radius = images(generator), torch.full((20,), 0.2, dtype=torch.float64)
    for activation in ("relu", "silu"):
        network = layers(generator, 9, 16, 12, 5, activation=activation)
        modules = []
        for weight, bias in zip(network.weight, network.bias, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
            linear.weight.data, linear.bias.data = weight, bias
            modules += [linear, nn.ReLU() if activation == "relu" else Mul(nn.Identity(), nn.Sigmoid())]
        theirs = BoundModelFactory().build(nn.Sequential(*modules[:-1]).requires_grad_(False))
        lower = theirs.crown(Ball(centre, radius), bound_upper=False).concretize().lower
        weight, bias = (part.expand(20, *part.shape) for part in (network.weight[-1], network.bias[-1]))
        ours = HiddenBounds(network).crown(centre, radius, weight, bias)
        if activation == "relu":
            torch.testing.assert_close(ours, lower)
        else:  # a product of two bounded factors forgets that they are one variable's
            assert float((ours - lower).mean()) > 0


# ---------------------------------------------------------------- radii


@pytest.mark.parametrize("method", METHODS)
def test_of_a_linear_network_the_radius_is_the_distance(generator, method):
    network = layers(generator, 9, 4)
    image = images(generator, 30)
    logits, expected = (image.numpy() @ network.weight[0].numpy().T + network.bias[0].numpy()), []
    for row in logits:
        y = int(row.argmax())
        gaps = [
            (row[y] - row[k]) / np.linalg.norm((network.weight[0][y] - network.weight[0][k]).numpy())
            for k in range(4)
            if k != y
        ]
        expected.append(min(gaps))
    found = certified_radius(network, image, method=method, evaluations=30).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert bool((found <= np.array(expected) * (1 + 1e-12)).all())
    np.testing.assert_allclose(gradient_radius(network, image), expected, rtol=1e-12)
    fooled = deepfool(network, image, overshoot=1e-6)
    np.testing.assert_allclose(fooled.perturbation.norm(dim=1), expected, rtol=1e-5)


def trained(generator, activation="silu"):
    """A network that has learnt three blobs on a circle, and images."""
    label = torch.arange(300) % 3
    angle = 2 * math.pi * label / 3
    image = 1.5 * torch.stack([angle.cos(), angle.sin()], dim=1).double()
    image = torch.cat([image, torch.zeros(300, 4)], dim=1)
    image = image + 0.4 * torch.randn(300, 6, generator=generator, dtype=torch.float64)
    module = nn.SiLU() if activation == "silu" else nn.ReLU()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 24), module, nn.Linear(24, 24), module, nn.Linear(24, 3)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(image), label).backward()
        optimizer.step()
    return affine_layers(model.eval().requires_grad_(False)), image[:60]


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_certified_below_attacks_and_no_point_in_the_ball_changes_the_decision(generator, activation):
    network, image = trained(generator, activation)
    attack = deepfool(network, image)
    assert bool(attack.fooled.all())
    length = attack.perturbation.norm(dim=1)
    found = {method: certified_radius(network, image, method=method) for method in METHODS}
    decision = network(image).argmax(dim=1)
    for radius in found.values():
        assert bool((radius > 0).all()) and bool((radius <= length).all())
        points = in_ball(generator, image, radius, 2000)
        assert bool((network(points.flatten(0, 1)).reshape(2000, 60, 3).argmax(dim=2) == decision).all())
        # Towards the attack, the most dangerous direction known, as far as the radius reaches.
        toward = image + radius[:, None] * attack.perturbation / length[:, None]
        assert bool((network(toward).argmax(dim=1) == decision).all())
    assert bool((found["crown"] >= found["spectral"]).all())
    assert float(found["crown"].median()) > 1.2 * float(found["spectral"].median())
    # A factor of two too much would be seen.
    assert bool((2 * found["crown"] > length).any())
    doubled = image + 2 * found["crown"][:, None] * attack.perturbation / length[:, None]
    assert bool((network(doubled).argmax(dim=1) != decision).any())


def test_spectral_by_hand(generator):
    network = layers(generator, 9, 16, 12, 4)
    image = images(generator)
    norms = [np.linalg.svd(weight.numpy(), compute_uv=False)[0] for weight in network.weight]
    constant = silu_lipschitz() ** 2 * norms[0] * norms[1]
    assert lipschitz_bound(network) == pytest.approx(constant * norms[2], rel=1e-12)
    logits = network(image).numpy()
    for row, radius in zip(logits, certified_radius(network, image, method="spectral"), strict=True):
        y = int(row.argmax())
        gaps = [
            (row[y] - row[k])
            / (constant * np.linalg.norm((network.weight[-1][y] - network.weight[-1][k]).numpy()))
            for k in range(4)
            if k != y
        ]
        assert float(radius) == pytest.approx(min(gaps), rel=1e-12)
    # It bounds differences of logits between any two images.
    one, other = images(generator, 500), images(generator, 500)
    slopes = (network(one) - network(other)).norm(dim=1) / (one - other).norm(dim=1)
    assert float(slopes.max()) <= lipschitz_bound(network)


@pytest.mark.parametrize("method", METHODS)
def test_scale_chunks_and_trials(generator, method):
    network, image = trained(generator)
    image = image[:15]
    radius = certified_radius(network, image, method=method)
    for factor in (1e-9, 1e-3, 1e6):
        again = certified_radius(network.rescaled(factor), image, method=method)
        torch.testing.assert_close(again, radius, rtol=1e-9, atol=0)
    parts = certified_radius(network, image, method=method, chunk=7)
    torch.testing.assert_close(parts, radius, rtol=1e-9, atol=0)
    trials = [certified_radius(network, image, method=method, evaluations=n) for n in (1, 2, 4, 8, 16)]
    for fewer, more in itertools.pairwise(trials):
        assert bool((more >= fewer).all())
    if method != "spectral":
        assert float((trials[-2] / trials[-1]).min()) > 0.97
    shrunk = AffineLayers((2 * network.weight[0], *network.weight[1:]), network.bias, network.activation)
    halved = certified_radius(shrunk, image / 2, method=method, evaluations=16)
    torch.testing.assert_close(2 * halved, trials[-1], rtol=1e-6, atol=0)


def test_ties_and_decisions_that_nothing_changes(generator):
    network = layers(generator, 9, 8, 3)
    same = AffineLayers((network.weight[0], torch.zeros(3, 8).double()), network.bias, network.activation)
    for method, expected in (("spectral", math.inf), ("interval", None), ("crown", math.inf)):
        radius = certified_radius(same, images(generator), method=method)  # type: ignore[arg-type]
        assert bool((radius > 0).all())
        assert expected is None or bool((radius == expected).all())
    tied = AffineLayers(same.weight, (same.bias[0], torch.zeros(3).double()), same.activation)
    for method in METHODS:
        assert bool((certified_radius(tied, images(generator), method=method) == 0).all())


def test_refusals(generator, monkeypatch, unchecked):
    network, image = layers(generator, 9, 8, 3), images(generator)
    with pytest.raises(ValueError, match="method is 'ibp'"):
        unchecked(certified_radius)(network, image, method="ibp")
    with pytest.raises(ValueError, match="evaluations is 0"):
        certified_radius(network, image, evaluations=0)
    broken = AffineLayers(network.weight, (network.bias[0], network.bias[1] * torch.nan), network.activation)
    with pytest.raises(ValueError, match="NaN or infinite for image 0"):
        certified_radius(broken, image)
    with pytest.raises(ValueError, match="samples is 0"):
        sampled_radius(network, image, reach=0.1, samples=0, generator=generator)
    monkeypatch.delitem(sys.modules, "lpc.evaluation._networks.linear_relaxation")
    monkeypatch.setitem(sys.modules, "bound_propagation", None)
    assert bool((certified_radius(network, image, method="spectral") > 0).all())
    with pytest.raises(ModuleNotFoundError, match="certified"):
        certified_radius(network, image)


# ---------------------------------------------------------------- estimates


def test_gradient_radius_against_autograd(generator):
    network, image = layers(generator, 9, 16, 12, 5), images(generator)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: network(x[None])[0], one) for one in image]
    )
    logits = network(image)
    for row, slope, found in zip(logits, jacobian, gradient_radius(network, image), strict=True):
        y = int(row.argmax())
        expected = min(float((row[y] - row[k]) / (slope[y] - slope[k]).norm()) for k in range(5) if k != y)
        assert float(found) == pytest.approx(expected, rel=1e-10)


def test_sampled_radius_is_an_estimate(generator):
    network, image = trained(generator)

    def sampled(samples, reach):
        own = torch.Generator().manual_seed(1)
        return sampled_radius(network, image, reach=reach, samples=samples, generator=own)

    here = gradient_radius(network, image)
    torch.testing.assert_close(sampled(5, 0.0), here, rtol=1e-9, atol=0)
    few, many = sampled(4, 0.5), sampled(64, 0.5)
    assert bool((many <= few).all()) and bool((many < few).any())
    each = torch.full((60,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(sampled(4, each), few)
    # It never falls below what is proved for the ball that it samples, and the gradient's exceeds an attack.
    assert bool((many >= certified_radius(network, image, method="spectral")).all())
    length = deepfool(network, image, overshoot=1e-4).perturbation.norm(dim=1)
    assert bool((here > certified_radius(network, image)).all())
    assert float((here > 0.999 * length).double().mean()) > 0
