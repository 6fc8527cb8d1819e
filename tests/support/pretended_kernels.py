"""What a pretended GPU computes: kernels and copies are counted, mixed devices refused, graphs recorded."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import experiments
import lpc

OURS = tuple(f"{Path(next(iter(package.__path__)))}/" for package in (lpc, experiments))
WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim"}
WAITING |= {"unique_consecutive", "unique_dim_consecutive", "bincount", "_linalg_check_errors"}
"""Operators of which the host must have the result, or its size, before it goes on."""
COPYING = ("copy_", "_foreach_copy_", "_to_copy")
BACKENDS = {"convolution": "conv", "convolution_backward": "conv"}
BACKENDS |= dict.fromkeys(("mm", "addmm", "bmm", "baddbmm", "mv", "addmv"), "matmul")
"""Whose setting says whether an operator may round float32 to TF32."""


def leaves(tree: Any) -> list[Any]:
    """Return what tuples, lists and dicts hold: torch's own walk takes most of a pretended call's time."""
    found, left = [], [tree]
    while left:
        one = left.pop()
        if isinstance(one, (tuple, list)):
            left.extend(one[::-1])
        elif isinstance(one, dict):
            left.extend(list(one.values())[::-1])
        else:
            found.append(one)
    return found


def tensors(tree: Any) -> list[Tensor]:
    """Return the dense tensors of nested arguments."""
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]


def storage(tensor: Tensor) -> Any:
    """Return a tensor's memory, also where it is mapped over (vmap) or differentiated (grad)."""
    while is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    return tensor.untyped_storage()


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor lies on the pretended GPU: whether its memory is marked."""
    return getattr(storage(tensor), "on_gpu", False)


def mark(tree: Any, there: bool) -> Any:
    """Put the memory of tensors, as it is, on the GPU or on the CPU."""
    for tensor in tensors(tree):
        storage(tensor).on_gpu = there
    return tree


def line() -> str:
    """Return the innermost line of the project that is being executed, as file:line."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


class Kernels(TorchDispatchMode):
    """What the GPU was given to do, counted by operator and line of the project.

    Attributes
    ----------
    launches, waits, rounded
        Kernels; waits of the host; products and convolutions of float32 that were rounded to TF32.
    stream, captured_on
        The current stream; the stream of every capture.
    target
        Whether the call from Python that is going on makes what it makes on the GPU.
    uncounted
        Whether that call reads values on a CPU only.
    tape
        The graph that is being recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[tuple[str, str]] = Counter()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.rounded: Counter[tuple[str, str]] = Counter()
        self.stream: Any = None
        self.captured_on: list[Any] = []
        self.target = False
        self.uncounted = False
        self.tape: Tape | None = None

    def wait(self, what: str) -> None:
        """Count a wait of the host; while a graph is recorded it is an error, as on CUDA."""
        if self.tape is not None:
            raise RuntimeError(f"{what} at {line()}: operation not permitted when stream is capturing")
        self.waits[what, line()] += 1

    def _check(self, name: str, given: list[Tensor], there: list[bool]) -> None:
        """Refuse operands on two devices; count waits and roundings."""
        beside = [one for one, here in zip(given, there, strict=True) if not here]
        apart = [one for one in beside if one.dim() or name in ("cat", "stack")]  # a number may be anywhere
        copying, indexing = name in COPYING, "index" in name and there[0]
        if apart and not copying and not (indexing and all(one.dtype == torch.int64 for one in apart)):
            shapes = [(tuple(one.shape), "cuda" if on_gpu(one) else "cpu") for one in given]
            raise RuntimeError(f"{name} at {line()}: expected all tensors on one device, found {shapes}")
        if name in WAITING and not self.uncounted:
            self.wait(name)
        elif indexing and any(one.dtype == torch.bool for one in given[1:]):
            self.wait(f"{name} by a mask")
        elif apart:
            self.wait(f"{name} between devices")
        backend, single = BACKENDS.get(name), given[0].dtype == torch.float32
        if backend and single and torch._C._get_fp32_precision_getter("cuda", backend) == "tf32":
            self.rounded[name, line()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        given = tensors((args, kwargs))
        there = [on_gpu(one) for one in given]
        if any(there):
            self._check(name, given, there)
            if not func.is_view:
                self.launches[name, line()] += 1
        if self.tape is not None:
            if kwargs.get("generator") is not None:
                raise RuntimeError(f"{name} at {line()}: a generator that the graph does not know")
            self.tape.remember(given)
        out = func(*args, **kwargs)
        if any(there) or (self.target and not given):
            old = {storage(one)._cdata for one in given}
            mark([one for one in tensors(out) if storage(one)._cdata not in old], True)
        if self.tape is not None:
            self.tape.calls.append((func, args, kwargs, out))
        return out


class Tape:
    """A CUDA graph: what its capture wrote is undone; a replay makes the same calls on the same memory.

    Numbers of Python's are in a call as they were when it was recorded.
    """

    kernels: Kernels

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Any, Any]] = {}

    def remember(self, given: list[Tensor]) -> None:
        """Keep what operands hold: no schema tells all that is written (batch norm's statistics)."""
        for own in map(storage, given):
            if own._cdata not in self.before:
                self.before[own._cdata] = own, own.clone()

    def undo(self) -> None:
        """Put back what the operands held before they were recorded."""
        with _disable_current_modes():
            for own, value in self.before.values():
                own.copy_(value)
        self.before.clear()

    def replay(self) -> None:
        """Make all calls again; what they return goes where the recorded ones put it."""
        self.kernels.launches["replay", line()] += 1
        with torch.no_grad(), _disable_current_modes(), torch._C.DisableTorchFunction():
            for func, args, kwargs, out in self.calls:
                for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                    if storage(old)._cdata != storage(new)._cdata:
                        old.copy_(new)
