"""Every function that takes a network: what it accepts, what it notices, and what it leaves unchanged."""

import functools
import importlib
import inspect
import pkgutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lpc.evaluation
from lpc.classifiers import bottleneck_classifier
from lpc.evaluation.affine_layers import affine_layers
from lpc.evaluation.attacks import attack, check_target, rescaled
from lpc.evaluation.certified import METHODS, certified_radius, gradient_radius, sampled_radius
from lpc.evaluation.corruptions import corrupted, corrupted_accuracy
from lpc.evaluation.lipschitz import lipschitz_estimate, margin_gradient, margin_gradient_norm
from lpc.evaluation.odin import odin_input
from lpc.evaluation.robustness import deepfool, perturbation_summary

IMAGE = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABEL = torch.arange(12) % 3
MILD = {"noise": (0.1,), "contrast": (0.3,), "rotation": (20.0,)}

CALLS = {
    "deepfool": lambda network, image: deepfool(network, image),
    "margin_gradient": lambda network, image: margin_gradient(network, image),
    "margin_gradient_norm": lambda network, image: margin_gradient_norm(network, image),
    "lipschitz_estimate": lambda network, image: lipschitz_estimate(network, image),
    "corrupted_accuracy": lambda network, image: corrupted_accuracy(network, image, LABEL, strengths=MILD),
    "odin_input": lambda network, image: odin_input(network, image),
    "check_target": lambda network, image: check_target(network, image),
    "attack": lambda network, image: attack("ddn", network, image, budget=20),
    "rescaled": lambda network, image: margin_gradient(rescaled(network, 1.0), image),
}
every = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def layers() -> Any:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(12, 3),
    )


def network(seed=0) -> Any:
    """A network with batch normalisation and dropout, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = layers()
        made[2].running_mean.normal_()
        made[2].running_var.uniform_(0.5, 2.0)
    return made.eval()


def numbers(result):
    """Return a result's numbers as arrays."""
    if isinstance(result, (list, tuple)):
        return [value for part in result for value in numbers(part)]
    return [] if result is None or isinstance(result, str) else [np.asarray(result, dtype=np.float64)]


def same(one, other, **tolerance: Any):
    ours, theirs = numbers(one), numbers(other)
    assert len(ours) == len(theirs) > 0
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, **{"rtol": 0, "atol": 0, **tolerance})


def test_every_function_that_takes_a_network_is_tested_here():
    names = [found.name for found in pkgutil.iter_modules(lpc.evaluation.__path__)]
    public = [name for name in names if not name.startswith("_")]
    modules = [
        importlib.import_module(f"lpc.evaluation.{name}") for name in [*public, "_networks.attack_checks"]
    ]
    taking = {
        name
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and "logits_fn" in inspect.signature(function).parameters
    }
    assert taking == set(CALLS)


@every
def test_logits_are_found_in_what_networks_return(call):
    own = bottleneck_classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.SiLU()), 3, images=IMAGE)
    own.eval()
    expected = call(lambda x: own(x).logits, IMAGE)
    same(call(own, IMAGE), expected)
    same(call(lambda x: {"loss": None, "logits": own(x).logits}, IMAGE), expected)
    same(call(lambda x: SimpleNamespace(logits=own(x).logits, hidden_states=None), IMAGE), expected)


@every
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda x: (x.flatten(1), None),
            r"returned a tuple of \(a tensor of shape \(\d+, 16\).*model\(x\)\[0\]",
        ),
        (lambda x: {"scores": x.flatten(1)}, r"a dict with 'scores'.*model\(x\)\['scores'\]"),
        (lambda x: x.flatten(1).argmax(dim=1), r"dtype torch\.int64; expected logits"),
        (lambda x: x.flatten(1).detach().numpy(), "a ndarray; expected logits"),
        (lambda x: None, "returned None; expected logits"),
        (lambda x: x.flatten(1)[:, 0], r"gave shape \(\d+,\) for \d+ images"),
        (lambda x: x, r"gave shape \(\d+, 1, 4, 4\) for \d+ images"),
    ],
)
def test_what_holds_no_logits_is_named(call, wrong, words):
    with pytest.raises(ValueError, match=words):
        call(wrong, IMAGE)


LEFT_TRAINING = network(1).train()


def by_a_global(x):
    return LEFT_TRAINING(x)


class Wrapper:
    def __init__(self, model):
        self.model = model

    def logits(self, x):
        return self.model(x)

    def __call__(self, x):
        return self.logits(x)


HIDING = {
    "itself": lambda net: net,
    "closure": lambda net: lambda x: net(x),
    "closure of a closure": lambda net: (lambda inner: lambda x: inner(x))(lambda x: net(x)),
    "forward": lambda net: net.forward,
    "partial": lambda net: functools.partial(lambda x, model: model(x), model=net),
    "method of an object": lambda net: Wrapper(net).logits,
    "object": lambda net: Wrapper(net),
    "list": lambda net: (lambda models: lambda x: sum(model(x) for model in models))([net, net]),
    "children": lambda net: lambda x: functools.reduce(lambda value, part: part(value), net, x),
    "decorated": lambda net: torch.no_grad()(lambda x: net(x)),
    "loaded in the call": lambda net: (
        HIDDEN.append(net) or (lambda x: vars(importlib.import_module(__name__))["HIDDEN"][-1](x))
    ),
}
HIDDEN = []


@every
@pytest.mark.parametrize("way", HIDING)
def test_training_mode_is_noticed_wherever_the_network_hides(call, way):
    net = network().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"training mode.*eval"):
        call(HIDING[way](net), IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    call(HIDING["closure"](net.eval()), IMAGE)  # a control: the same network in evaluation mode


@every
def test_training_mode_behind_a_global_and_of_one_layer(call):
    with pytest.raises(ValueError, match=r"'the model itself' \(Sequential\) is in training mode"):
        call(by_a_global, IMAGE)
    net = network()
    net[4].train()
    with pytest.raises(
        ValueError, match=r"module '4' \(Dropout\) is in training mode; expected model\.eval\(\)"
    ):
        call(lambda x: net(x), IMAGE)


class ForgetsToAsk(nn.Module):
    """Dropout that ignores modes: ``torch.nn.functional.dropout`` is on unless told otherwise."""

    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        return self.layers(nn.functional.dropout(x, 0.3))


class BatchStatistics(nn.Module):
    def __init__(self, momentum):
        super().__init__()
        self.layers, self.momentum = network(), momentum
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("var", torch.ones(3))

    def forward(self, x):
        kept: Any = (self.mean, self.var) if self.momentum else (None, None)
        return nn.functional.batch_norm(self.layers(x), *kept, training=True, momentum=self.momentum)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = network()
        self.register_buffer("average", torch.zeros(3))

    def forward(self, x):
        logits = self.layers(x)
        self.average += 0.1 * (logits.detach().mean(dim=0) - self.average)
        return logits


@every
@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        (ForgetsToAsk, "between two calls: they depend on chance"),
        (lambda: BatchStatistics(0.0), "computed again without the others"),
        (lambda: BatchStatistics(0.1), "computed again without the others"),
        (Counts, "average of a Counts changed while the network was called"),
    ],
)
def test_what_no_mode_tells_is_noticed_and_put_back(call, hidden, words):
    net = hidden().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.random.get_rng_state()
    with pytest.raises(ValueError, match=words):
        call(lambda x: net(x), IMAGE)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def answer(call, words):
    """Return the result of a call, or None if it raises an error with these words."""
    try:
        return call()
    except (KeyError, RuntimeError, ValueError) as error:
        if words not in str(error):
            raise
        return None


def remembered(net):
    drawn: Any = np.random.get_state()  # noqa: NPY002
    return {
        "modes": [module.training for module in net.modules()],
        "buffers": {name: value.clone() for name, value in net.named_buffers()},
        "places": {name: value.data_ptr() for name, value in net.named_buffers()},
        "trained": [parameter.requires_grad for parameter in net.parameters()],
        "grad": [parameter.grad is None or parameter.grad.clone() for parameter in net.parameters()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in net.modules()],
        "state": torch.random.get_rng_state(),
        "numpy": drawn[1].copy(),
        "everywhere": len(nn.modules.module._global_forward_pre_hooks),
    }


def unchanged(net, before):
    for name, value in remembered(net).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=f"{name} changed")


@every
@pytest.mark.parametrize("fails_at", [None, 2, 5])
def test_the_network_is_left_as_it_was(call, fails_at):
    net, count = network(), 0
    net[1].requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    stepped = net[5].bias.register_post_accumulate_grad_hook(lambda parameter: parameter.data.add_(1))
    bias = net[5].bias.detach().clone()
    net[3].register_forward_hook(lambda module, inputs, output: None)
    before = remembered(net)

    def logits_fn(x):
        nonlocal count
        count += 1
        if count == fails_at:
            raise KeyError("interrupted")
        return net(x)

    answer(lambda: call(logits_fn, IMAGE), "interrupted")
    unchanged(net, before)
    assert torch.equal(net[5].bias, bias)
    stepped.remove()


@every
def test_a_network_that_works_in_place_changes_no_images(call):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = network()

        def forward(self, x):
            return self.layers(x.sub_(0.5).mul_(2.0))

    net, image = InPlace().eval(), IMAGE.clone()
    found = call(net, image)
    assert torch.equal(image, IMAGE)
    same(found, call(lambda x: net(x.clone()), IMAGE))
    first = nn.Sequential(nn.ReLU(inplace=True), network()).eval()
    same(call(first, image), call(nn.Sequential(nn.ReLU(), network()).eval(), IMAGE))
    assert torch.equal(image, IMAGE)


@every
def test_images_may_be_arrays(call):
    net = network()
    expected = call(net, IMAGE)
    found = call(net, IMAGE.numpy())
    same(found, expected)
    if isinstance(found, tuple):
        given = [part for part in expected if isinstance(part, torch.Tensor)]
        assert sum(isinstance(part, np.ndarray) for part in found) == len(given)
    with pytest.raises(ValueError, match=r"images are torch\.float64 on cpu.*weights torch\.float32 on cpu"):
        call(net, IMAGE.double().numpy())


@pytest.mark.parametrize(
    "function", [deepfool, margin_gradient, check_target, functools.partial(attack, "fab")]
)
def test_images_of_bytes_and_networks_that_are_none_are_named(function, unchecked):
    whole = unchecked(getattr(function, "func", function))
    call = functools.partial(whole, *getattr(function, "args", ()))
    with pytest.raises(ValueError, match="image has dtype"):
        call(network(), (255 * IMAGE).to(torch.uint8).numpy())
    with pytest.raises(ValueError, match="logits_fn is a str; expected a function"):
        call("resnet18", IMAGE)


def test_results_of_arrays_are_good_for_what_takes_them():
    net = network()
    found, ours = deepfool(net, IMAGE.numpy()), deepfool(net, IMAGE)
    same(perturbation_summary(found, IMAGE.numpy()), perturbation_summary(ours, IMAGE))
    same(margin_gradient(net, IMAGE.numpy()).distance, margin_gradient(net, IMAGE).distance)
    assert isinstance(margin_gradient(net, IMAGE.numpy(), label=LABEL.numpy()).distance, np.ndarray)
    turned = corrupted(IMAGE.numpy(), "rotation", 20.0)
    assert isinstance(turned, np.ndarray)
    same(turned, corrupted(IMAGE, "rotation", 20.0))


@every
def test_gradients_are_taken_where_they_are_off(call):
    net = network()
    expected = call(net, IMAGE)
    with torch.no_grad():
        same(call(net, IMAGE), expected)
    with torch.inference_mode():
        found = answer(lambda: call(net, IMAGE), "torch.inference_mode is on")
        made, born = network(), IMAGE.clone()
    assert found is None or same(found, expected) is None
    same(call(net, born), expected)
    found = answer(lambda: call(made, IMAGE), "weights were made under torch.inference_mode")
    assert found is None or same(found, expected) is None


@every
def test_a_default_device_breaks_nothing(call):
    net = network()
    expected = call(net, IMAGE)
    try:
        torch.set_default_device("meta")
        found = call(net, IMAGE)
    finally:
        torch.set_default_device(None)
    same(found, expected)


def dense(seed=0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    return net.eval()


RADII: dict[str, Any] = {
    **{method: functools.partial(certified_radius, method=method) for method in METHODS},
    "gradient": lambda layers, image: gradient_radius(layers, image),
    "sampled": lambda layers, image: sampled_radius(
        layers, image, reach=0.1, samples=2, generator=torch.Generator().manual_seed(0)
    ),
}


@pytest.mark.parametrize("radius", RADII.values(), ids=RADII.keys())
def test_radii_under_no_grad_of_arrays_and_beside_a_default_device(radius):
    layers_, state = affine_layers(dense()), torch.random.get_rng_state()
    expected = radius(layers_, IMAGE)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        same(radius(layers_, IMAGE), expected)
    with torch.inference_mode():
        with pytest.raises(ValueError, match=r"torch\.inference_mode is on"):
            radius(layers_, IMAGE)
        made = affine_layers(dense())
    same(radius(made, IMAGE), expected)
    found = radius(layers_, IMAGE.numpy())
    assert isinstance(found, np.ndarray)
    same(found, expected)
    try:
        torch.set_default_device("meta")
        same(radius(affine_layers(dense_on_cpu()), IMAGE), expected)
    finally:
        torch.set_default_device(None)


def dense_on_cpu():
    with torch.device("cpu"):
        return dense()


def test_a_network_is_no_layers(unchecked):
    with pytest.raises(ValueError, match=r"network is a Sequential; expected AffineLayers: affine_layers"):
        unchecked(certified_radius)(dense(), IMAGE)


class Normalised(nn.Sequential):
    def forward(self, x):
        return super().forward((x - 0.5) / 0.25)


def hooked(net, factor):
    net[1].register_forward_hook(lambda module, inputs, output: factor * output)
    return net


def before(net, shift):
    net[3].register_forward_pre_hook(lambda module, inputs: (inputs[0] + shift,))
    return net


def stale(norm):
    """A network whose weight a hook computes, after new values were loaded."""
    net, other = dense(), dense(1)
    norm(net[1])
    norm(other[1])
    net(IMAGE)
    net.load_state_dict(other.state_dict())
    return net.eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("net", "words"),
    [
        (lambda: Normalised(*dense()).eval(), r"the model itself \(Normalised\) has a forward of its own"),
        (
            lambda: nn.Sequential(Normalised(*dense()), nn.Linear(3, 3)).eval(),
            r"0 \(Normalised\) has a forward",
        ),
        (lambda: hooked(dense(), 2.0), r"1 \(Linear\) has the hook hooked"),
        (lambda: hooked(dense(), 1.01), r"1 \(Linear\) has the hook hooked"),
        (lambda: before(dense(), 0.1), r"3 \(Linear\) has the hook before"),
        (lambda: stale(nn.utils.weight_norm), "has the hook WeightNorm"),
        (lambda: stale(nn.utils.spectral_norm), "has the hook SpectralNorm"),
    ],
)
def test_layers_of_another_network_are_refused(net, words):
    made = net()
    with pytest.raises(
        ValueError, match=rf"do not compute its logits: on \d+ random inputs they differ.*{words}"
    ):
        affine_layers(made)


def test_layers_of_a_classifier_with_a_forward_of_its_own_are_refused():
    from lpc.heads import BottleneckHead, Classifier

    class Pixels(Classifier):
        def forward(self, images, **drawn):
            return super().forward(2 * images - 1, **drawn)

    backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.SiLU())
    with pytest.raises(ValueError, match=r"differ by up to .*the model itself \(Pixels\) has a forward"):
        affine_layers(Pixels(backbone, BottleneckHead(8, 3)).eval())
    layers_ = affine_layers(Classifier(backbone, BottleneckHead(8, 3)).eval())
    assert layers_(IMAGE).shape == (12, 3)


def test_layers_that_are_the_networks_own_are_taken():
    seen = []
    net = dense()
    net[1].register_forward_hook(lambda module, inputs, output: seen.append(output))  # looks, changes nothing
    torch.testing.assert_close(affine_layers(net)(IMAGE), net(IMAGE).double(), rtol=1e-5, atol=1e-6)

    class Named(nn.Sequential):
        def forward(self, x):
            return super().forward(x.flatten(1))

    same_net = Named(*dense()).eval()
    torch.testing.assert_close(affine_layers(same_net)(IMAGE), same_net(IMAGE).double(), rtol=1e-5, atol=1e-6)
    nn.utils.parametrizations.weight_norm(net[3])
    net.eval()
    torch.testing.assert_close(affine_layers(net)(IMAGE), net(IMAGE).double(), rtol=1e-5, atol=1e-6)


def test_layers_do_not_follow_a_network_that_trains_on():
    net = dense().double()
    layers_, weight = affine_layers(net), net[1].weight.detach().clone()
    with torch.no_grad():
        net[1].weight.add_(1.0)
    assert torch.equal(layers_.weight[0], weight)
    assert net[1].weight.requires_grad


def test_what_was_proved_holds_for_the_network():
    # of a network that normalises, 387 of 400 radii once contained an example that is decided otherwise
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3)).double().eval()
    image = torch.rand(100, 1, 6, 8, generator=torch.Generator().manual_seed(1)).double()
    reach = deepfool(net, image).perturbation.flatten(1).norm(dim=1)
    for method in ("spectral", "crown"):
        assert bool((certified_radius(affine_layers(net), image, method=method) <= reach).all())
    with pytest.raises(ValueError, match="differ by up to"):
        affine_layers(Normalised(*net).eval())
