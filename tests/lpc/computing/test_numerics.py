"""Losses and measurements under autocast, and what the decorators preserve of a function."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable

import pytest
import torch

import lpc.evaluation
from lpc import centres, losses, metric_learning, objectives
from lpc.computing.numerics import measurement
from lpc.computing.precision import precision_of
from lpc.evaluation.binarity import binarity
from lpc.evaluation.class_margins import distance_margin
from lpc.evaluation.collapse import nearest_mean_accuracy, within_class_covariance
from lpc.evaluation.corruptions import corrupted
from lpc.evaluation.information import conditional_knn_entropy, knn_entropy, mutual_information
from lpc.evaluation.lipschitz import margin_gradient
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.evaluation.posterior import posterior_entropies
from lpc.evaluation.quantities import gaussian_quantities
from lpc.evaluation.reliability import mahalanobis_confidence
from lpc.evaluation.robustness import deepfool

CLASSES = 3


@pytest.fixture
def points() -> torch.Tensor:
    """Collapsed classes away from zero."""
    means = torch.tensor([[3.3], [-1.7], [0.6]]).expand(3, 16)
    drawn = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    return means[torch.arange(300) % CLASSES] + 1e-2 * drawn


@pytest.fixture
def label() -> torch.Tensor:
    return torch.arange(300) % CLASSES


@pytest.fixture
def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, CLASSES)
        ).eval()


def leaves(value: object) -> list[torch.Tensor]:
    """Return all numbers of a result as tensors."""
    flat = value if isinstance(value, tuple) else (value,)
    return [torch.as_tensor(part) for part in flat if part is not None]


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(0)


MEASUREMENTS: dict[str, Callable] = {
    "knn_entropy": lambda z, y, f: knn_entropy(z, k=3),
    "conditional_knn_entropy": lambda z, y, f: conditional_knn_entropy(z, y, k=3),
    "mutual_information": lambda z, y, f: mutual_information(z[:, :2], z[:, 2:4], k=3),
    "neural_collapse": lambda z, y, f: neural_collapse(z, y, classifier_weight=f[2].weight[:, :16]),
    "within_class_covariance": lambda z, y, f: within_class_covariance(z, y),
    "nearest_mean_accuracy": lambda z, y, f: nearest_mean_accuracy(z, y, z, y),
    "mahalanobis_confidence": lambda z, y, f: mahalanobis_confidence(z, y, y, z, y),
    "binarity": lambda z, y, f: binarity(z),
    "gaussian_quantities": lambda z, y, f: gaussian_quantities(z[:40], y[:40], generator=drawn()),
    "posterior_entropies": lambda z, y, f: posterior_entropies(
        z[:40], y[:40], variance=1.0, generator=drawn()
    ),
    "distance_margin": lambda z, y, f: distance_margin(z, y, z, y),
    "deepfool": lambda z, y, f: deepfool(f, z),
    "margin_gradient": lambda z, y, f: margin_gradient(f, z),
    "rotation": lambda z, y, f: corrupted(z.sigmoid().reshape(-1, 1, 4, 4), "rotation", 20.0),
    "blur": lambda z, y, f: corrupted(z.sigmoid().reshape(-1, 1, 4, 4), "blur", 0.3),
}
LOSSES: dict[str, Callable] = {
    "squared_norm": lambda z, y, w: losses.squared_norm(z, reduction="sum"),
    "absolute_norm": lambda z, y, w: losses.absolute_norm(z, reduction="sum"),
    "log_variance": lambda z, y, w: losses.log_variance(z),
    "conditional_log_variance": lambda z, y, w: losses.conditional_log_variance(z, y),
    "batch_conditional_log_variance": lambda z, y, w: losses.batch_conditional_log_variance(
        z, y, classes=CLASSES
    ),
    "norm_power": lambda z, y, w: losses.norm_power(z, power=3),
    "normal_divergence": lambda z, y, w: losses.normal_divergence(z, z.abs() + 0.1),
    "centre_distance": lambda z, y, w: centres.centre_distance(z, y, w),
    "supervised_contrastive": lambda z, y, w: metric_learning.supervised_contrastive(z, y, temperature=0.1),
    "arcface": lambda z, y, w: metric_learning.arcface(z, y, w, margin=0.3, scale=8.0),
    "cosface": lambda z, y, w: metric_learning.cosface(z, y, w, margin=0.3, scale=8.0),
    "decoder_uncertainty_loss": lambda z, y, w: objectives.decoder_uncertainty_loss(
        z.softmax(dim=1), y, classes=CLASSES
    ),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_a_measurement_is_the_same_to_the_bit_inside_autocast(name, points, label, network):
    outside = leaves(MEASUREMENTS[name](points, label, network))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = leaves(MEASUREMENTS[name](points, label, network))
        assert (points @ points.T).dtype == torch.bfloat16  # the caller's autocast is on again
    assert len(inside) == len(outside) > 0
    for one, other in zip(inside, outside, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_are_the_same_to_the_bit_inside_autocast(name, points, label):
    weight = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(1))

    def loss(leaf: torch.Tensor) -> torch.Tensor:
        return LOSSES[name](leaf, label, weight)

    leaf = points.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(leaf)
    outside = loss(leaf)
    slopes = [torch.autograd.grad(value, leaf)[0] for value in (inside, outside)]
    assert torch.equal(inside, outside)
    assert torch.equal(*slopes)


def test_without_the_decorator_autocast_ruins_a_loss(points, label):
    """The control: this is why there is a decorator."""
    means = torch.tensor([3.3, -1.7, 0.6])[label, None]
    latent = means + 1e-2 * (points - means).double()
    plain = inspect.unwrap(losses.batch_conditional_log_variance)
    exact = float(losses.batch_conditional_log_variance(latent, label, classes=CLASSES))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ruined = float(plain(latent.float(), label, classes=CLASSES))
        found = float(losses.batch_conditional_log_variance(latent.float(), label, classes=CLASSES))
    assert abs(ruined - exact) > 5
    assert abs(found - exact) < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [1e-4, 300.0])
def test_a_penalty_of_half_precision_neither_under_nor_overflows(dtype, value):
    latent = torch.full((4, 8), value, dtype=dtype, requires_grad=True)
    found = losses.squared_norm(latent, reduction="sum")
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(8 * float(latent.detach()[0, 0]) ** 2, rel=1e-6)
    (slope,) = torch.autograd.grad(found, latent)
    assert slope.dtype == dtype
    assert float(slope[0, 0]) == pytest.approx(float(latent.detach()[0, 0]) / 2, rel=1e-2)


@functools.cache
def public_functions() -> dict[str, Callable]:
    """Return the functions and methods of the public modules that say that they take or return arrays."""
    names = [f"lpc.evaluation.{module.name}" for module in pkgutil.iter_modules(lpc.evaluation.__path__)]
    modules = [importlib.import_module(name) for name in names if not name.split(".")[-1].startswith("_")]
    found = {}
    for module in (*modules, losses, centres, metric_learning, objectives):
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__ or name.startswith("_"):
                continue
            if inspect.isfunction(value):
                found[f"{module.__name__}.{name}"] = value
            elif inspect.isclass(value):
                own = {f"{module.__name__}.{name}.{key}": method for key, method in vars(value).items()}
                found |= {
                    key: method
                    for key, method in own.items()
                    if inspect.isfunction(method) and not key.split(".")[-1].startswith("_")
                }
    arrays = ("Tensor", "Array", "Float", "AffineLayers")
    return {
        name: value
        for name, value in found.items()
        if any(word in str(note) for note in value.__annotations__.values() for word in arrays)
    }


def decorated(function: Callable) -> bool:
    return getattr(function, "numeric_context", None) in ("measuring", "full_precision")


EXEMPT = {"lpc.losses.zero_entropy_noise"}
"""It draws float32 numbers."""


def test_every_public_function_of_arrays_is_decorated():
    found = public_functions()
    assert len(found) > 60
    assert {name for name, value in found.items() if not decorated(value)} == EXEMPT


def test_a_decorator_keeps_signature_docstring_and_annotations():
    for name, value in public_functions().items():
        plain = inspect.unwrap(value)
        assert inspect.signature(value) == inspect.signature(plain), name
        assert value.__doc__ == plain.__doc__, name
        assert value.__name__ == plain.__name__, name


def test_a_generator_computes_inside_and_its_caller_outside():
    @measurement
    def steps(first):
        """Count."""
        sent = yield torch.is_autocast_enabled("cpu"), first
        yield precision_of("cuda", "conv"), sent
        return "end"

    before = precision_of("cuda", "conv")
    assert before != "ieee"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        going = steps(3)
        assert next(going) == (False, 3)
        assert torch.is_autocast_enabled("cpu")
        assert precision_of("cuda", "conv") == before
        assert going.send("sent") == ("ieee", "sent")
        assert precision_of("cuda", "conv") == before
        with pytest.raises(StopIteration) as end:
            next(going)
    assert end.value.value == "end"
    assert steps.__doc__ == "Count."


def test_an_exception_leaves_the_callers_settings():
    @measurement
    def fails():
        raise KeyError("no")

    before = precision_of("cuda", "conv"), torch.backends.cudnn.deterministic
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(KeyError):
            fails()
        assert torch.is_autocast_enabled("cpu")
    assert (precision_of("cuda", "conv"), torch.backends.cudnn.deterministic) == before
