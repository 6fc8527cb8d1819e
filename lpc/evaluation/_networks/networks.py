"""Checks of a network before a measurement, and restoration of its state afterwards."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lpc.arrays import Array, as_float64
from lpc.computing.generators import as_they_were
from lpc.computing.threads import by_work
from lpc.evaluation._networks.modules_behind import modules_behind
from lpc.inputs.networks import Snapshot, logits_of

Logits = Callable[[Tensor], Any]
"""Images to logits: a tensor, or an object or mapping that holds them as ``logits``."""
TupleT = TypeVar("TupleT", bound=tuple)

LOOKED_AT = 8
"""Number of images on which a network is called twice before a measurement, and on half of them once more."""
AGAIN = 1e-4
"""Largest share of their range by which logits may differ between two calls; more is chance."""
SAME = 1e-2
"""Largest share of their range by which logits may depend on the other images of a batch."""


class TrainingModeError(ValueError):
    """A network that is, or behaves as if it were, in training mode."""


class AttackError(RuntimeError):
    """An exception in an attack, or in the network under it: nothing is known about the images."""


class Network:
    """A network as this package calls it, on as many threads as suit its work.

    Parameters
    ----------
    function
        Function from images to logits.
    image
        Example of its input, float32 or float64.
    name
        Name of the caller in error messages; None: exceptions of the network pass unchanged.
    snapshot
        Saved state of its modules.
    """

    def __init__(self, function: Logits, image: Tensor, name: str | None, snapshot: Snapshot) -> None:
        self.image = image
        self._function, self._name, self._snapshot = by_work(function), name, snapshot

    def __call__(self, image: Tensor) -> Tensor:
        """Return the logits of images; a network that works in place cannot change the images."""
        try:
            output = self._function(image.clone())
        except TrainingModeError:
            raise
        except Exception as error:
            self._raise(error, image)
        logits = logits_of(output)
        if logits.ndim != 2 or len(logits) != len(image) or logits.shape[1] < 2:
            raise ValueError(
                f"logits_fn gave shape {tuple(logits.shape)} for {len(image)} images; expected (images, 2 or "
                "more classes)"
            )
        return logits

    @property
    def precision(self) -> float:
        """The coarsest rounding of the weights, relative; at least that of the images."""
        dtypes = {part.dtype for part in self._snapshot.parameters if part.is_floating_point()}
        return max(torch.finfo(dtype).eps for dtype in {self.image.dtype, *dtypes})

    def _raise(self, error: Exception, image: Tensor) -> NoReturn:
        """Raise the network's exception with its likely cause."""
        weights = [part for part in self._snapshot.parameters if part.is_floating_point()]
        places = {(part.dtype, part.device) for part in weights}
        unlike = places and (image.dtype, image.device) not in places
        if unlike and isinstance(error, RuntimeError) and re.search("type|device", str(error)):
            dtype, device = next(iter(places))
            raise ValueError(
                f"the images are {image.dtype} on {image.device}, the network's weights {dtype} on {device}: "
                f"convert one of them ({error})"
            ) from error
        if self._name is not None:
            raise AttackError(f"{self._name}: the network raised {type(error).__name__}: {error}") from error
        raise error


@contextmanager
def guarded(
    function: Any,
    image: Array,
    *,
    gradients: bool = True,
    dims: int | None = None,
    name: str | None = None,
    chunk: int | None = None,
) -> Iterator[Network]:
    """Check a network on some of its images, hand it out, and leave it as it was.

    Parameters
    ----------
    function
        Function from images to logits.
    image
        Images, float32 or float64, as an array or a tensor.
    gradients
        Whether the caller takes gradients.
    dims
        Required number of dimensions of the images, the batch included; None: any from 2 up.
    name
        Name of the caller in error messages, as in :class:`Network`.
    chunk
        Largest number of images per call of the network; None: unlimited.

    Raises
    ------
    ValueError
        If ``function`` is not callable or returns no logits; if the images are invalid; if images and weights
        differ in dtype or device; or under ``torch.inference_mode`` where gradients are needed.
    TrainingModeError
        If a module is in training mode (named), logits differ between two calls or when other images come
        along, or a call overwrites a buffer, as batch normalisation does in training mode. A ValueError.

    Notes
    -----
    Modules are searched behind methods, partials, closures and globals; a hook finds any other module during
    the first calls. Until the end parameters do not require gradients. Modes, buffers, ``requires_grad`` and
    torch's generators are then restored, also after an exception.
    """
    if not callable(function):
        raise ValueError(
            f"logits_fn is a {type(function).__name__}; expected a function from images to logits, such as a "
            "network in evaluation mode"
        )
    if gradients and torch.is_inference_mode_enabled():
        raise ValueError("torch.inference_mode is on: it keeps no gradients; use torch.no_grad or neither")
    used, known = modules_behind(function)
    for module in used:
        check_evaluation_mode(module)
    with ExitStack() as stack:
        stack.enter_context(as_they_were())
        snapshot = Snapshot(frozen=True)
        stack.callback(snapshot.restore)
        for module in (*used, *known):
            snapshot.add(module)
        batch = as_images(image, like=snapshot.parameters, dims=dims)
        network = Network(function, batch, name, snapshot)
        with torch.no_grad(), _met(snapshot):
            _look(network, batch[: min(LOOKED_AT, chunk or LOOKED_AT)])
        _check_buffers(snapshot)
        if gradients and any(part.is_inference() for part in snapshot.parameters):
            raise ValueError(
                "the network's weights were made under torch.inference_mode, which keeps no gradients: "
                "make or load it outside"
            )
        yield network
        _check_buffers(snapshot)


def _look(network: Network, image: Tensor) -> None:
    """Call a network on the same images twice and on some of them alone, and compare."""
    first, second = network(image).detach().clone(), network(image)
    half = network(image[: -(-len(image) // 2)])
    spread = float(first.max() - first.min()) if first.numel() else 0.0
    rounding = 64 * network.precision * float(first.abs().max())
    moved = float((second - first).abs().max())
    if moved > AGAIN * spread + rounding:
        raise TrainingModeError(
            f"the logits of {len(image)} images moved by {moved:.3g} (they range over {spread:.3g}) between "
            "two calls: they depend on chance, as dropout in training mode does; expected model.eval()"
        )
    moved = float((half - first[: len(half)]).abs().max())
    if moved > SAME * spread + rounding:
        raise TrainingModeError(
            f"the logits of the first {len(half)} images moved by {moved:.3g} (all range over {spread:.3g}) "
            "when they were computed again without the others: is the network in training mode? Expected "
            "model.eval()"
        )


@contextmanager
def _met(snapshot: Snapshot) -> Iterator[None]:
    """Register every module that this thread calls, before it runs; raise if it is in training mode."""
    thread = threading.get_ident()
    checked: set[nn.Module] = set()

    def hook(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == thread and module not in checked:
            check_evaluation_mode(module)
            snapshot.add(module)
            checked.update(module.modules())

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _check_buffers(snapshot: Snapshot) -> None:
    moved = snapshot.moved()
    if moved is not None:
        raise TrainingModeError(
            f"{moved} changed while the network was called, as batch statistics do in training mode; it is "
            "restored. Expected model.eval()"
        )


def check_evaluation_mode(model: nn.Module) -> None:
    """Raise a TrainingModeError that names the first module in training mode."""
    for name, module in model.named_modules():
        if getattr(module, "training", False):
            raise TrainingModeError(
                f"module {name or 'the model itself'!r} ({type(module).__name__}) is in training mode; "
                "expected model.eval()"
            )


def as_images(
    image: Array, *, like: list[nn.Parameter] | None = None, dims: int | None = None, name: str = "image"
) -> Tensor:
    """Return images as a detached tensor of their own dtype; arrays are moved to the device of the weights.

    Parameters
    ----------
    image
        Images, one per row, float32 or float64, finite.
    like
        Weights of the network.
    dims
        Required number of dimensions; None: at least 2.
    name
        Name of the argument, for error messages.

    Raises
    ------
    ValueError
        If the dtype or number of dimensions is another, the array is empty, or it holds NaN or infinity.
    """
    values = as_float64(image, name=name, dims=dims)
    if values.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(values.shape)}; expected (batch, ...)")
    if isinstance(image, Tensor):
        found = image.detach()
        return found.clone() if found.is_inference() and not torch.is_inference_mode_enabled() else found
    found = values.to(torch.float32 if image.dtype.itemsize == 4 else torch.float64)
    return found.to(like[0].device) if like else found


def as_given(result: TupleT, image: Array) -> TupleT:
    """Return a named tuple with arrays in place of tensors where the images were an array."""
    if isinstance(image, Tensor):
        return result
    parts = [part.cpu().numpy() if isinstance(part, Tensor) else part for part in result]
    return type(result)(*parts)


def given(value: Tensor, image: Array) -> Any:
    """Return an array in place of a tensor where the images were an array."""
    return value.cpu().numpy() if isinstance(image, np.ndarray) else value
