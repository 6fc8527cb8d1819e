"""A pretended GPU: memory of the CPU that says that it is on ``cuda:0``; tests run what a GPU would run.

Inside ``with pretended_gpu() as gpu:`` a tensor lies on the GPU where its memory is marked. :class:`Calls`
sees what Python calls: it answers ``.device``, takes ``device=`` out of arguments, moves tensors by copying
them, and refuses what CUDA refuses. What reaches a kernel, from autograd and vmap too, is seen, counted and
recorded by :class:`~support.pretended_kernels.Kernels`.

What it cannot see: whether streams are ordered, how kernels round and which of them add in no fixed order,
their limits of memory and size, ``torch.compile``, and waits inside C++ that reach no operator.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo  # while the functions that it lists are still torch's own
from support.pretended_kernels import Kernels, Tape, leaves, line, mark, on_gpu, tensors
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data._utils import pin_memory

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
CHECKED_ON_CPU = {"one_hot"}
"""Functions that look at values on a CPU alone (given the number of classes)."""
PROPERTIES = {"multi_processor_count": 1, "total_memory": 2**30, "major": 0, "minor": 0}  # without Triton
MADE_OF_NUMBERS = ("tensor", "as_tensor", "new_tensor")
_own_generator, _own_load, _own_autocast = torch.Generator, torch.load, torch.autocast
_own_groups = torch._C._group_tensors_by_device_and_dtype


def _is_gpu(device: Any) -> bool:
    return torch.device(device).type == "cuda"


class Moved(torch.autograd.Function):
    """A copy on the other device; its gradient goes back to where the tensor came from."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, there: bool) -> Tensor:
        context.from_gpu = on_gpu(tensor)
        return mark(tensor.clone(), there)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> Any:
        return mark(slopes[0].clone(), context.from_gpu), None


class Generator(_own_generator):
    """A generator on a device; a GPU's state has another size than a CPU's, as on CUDA."""

    place: torch.device

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        made.place = GPU if _is_gpu(device) else CPU
        return made

    @property
    def device(self) -> torch.device:
        return self.place

    def get_state(self) -> Tensor:
        state = super().get_state()
        return torch.cat([state, state[:1]]) if self.place == GPU else state

    def set_state(self, state: Tensor) -> "Generator":
        if on_gpu(state) or len(state) != len(self.get_state()):
            raise RuntimeError("RNG state is wrong size, or not on the CPU")
        super().set_state(state[:-1].clone() if self.place == GPU else state)
        return self


class Stream:
    """A stream of CUDA's, of which it is known alone whether it is current."""

    kernels: Kernels

    def __init__(self, *_: Any) -> None:
        self.wait_stream = lambda _: None
        self.synchronize = lambda: self.kernels.wait("synchronize")
        self.is_capturing = lambda: self.kernels.tape is not None


class Calls(TorchFunctionMode):
    """Calls from Python: where tensors are, where they are put, and what a GPU does not have."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self.kernels = kernels

    def _moved(self, tensor: Tensor, name: str, args: Any, kwargs: Any) -> Tensor:
        """Return ``tensor.to(...)``, ``.cpu()`` or ``.cuda()``."""
        options = {key: value for key, value in kwargs.items() if key in ("dtype", "copy", "memory_format")}
        goal = {"cpu": CPU, "cuda": GPU}.get(name, kwargs.get("device"))
        for value in args:
            if isinstance(value, (str, torch.device)):
                goal = value
            elif isinstance(value, Tensor):
                goal, options["dtype"] = GPU if on_gpu(value) else CPU, value.dtype
            elif isinstance(value, torch.dtype):
                options["dtype"] = value
        was = on_gpu(tensor)
        there = was if goal is None else _is_gpu(goal)
        out = Tensor.to(tensor, **options) if options else tensor
        if there == was:
            return out
        self.kernels.wait(f"copy to {'cuda' if there else 'cpu'}")
        return Moved.apply(out, there)  # type: ignore[no-any-return]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name, kernels = dict(kwargs or {}), getattr(func, "__name__", ""), self.kernels
        if name == "__get__":
            attribute = func.__self__.__name__
            own = func(*args, **kwargs)
            there = attribute in ("device", "is_cuda", "is_cpu") and on_gpu(args[0])
            return {"device": GPU, "is_cuda": True, "is_cpu": False}[attribute] if there else own
        if name in ("to", "cpu", "cuda"):
            return self._moved(args[0], name, args[1:], kwargs)
        if name == "as_tensor" and isinstance(args[0], Tensor):
            return self._moved(args[0], "to", args[1:], kwargs)
        if name == "pin_memory":
            return args[0]
        there = any(on_gpu(one) for one in tensors((args, kwargs)))
        if there and name in ("numpy", "__array__"):
            raise TypeError(f"{name} at {line()}: can't convert cuda:0 device type tensor to numpy")
        asked = kwargs.pop("device", None)
        target = there if asked is None else _is_gpu(asked)
        for value in leaves((args, kwargs)):
            if isinstance(value, _own_generator) and _is_gpu(value.device) != target:
                raise RuntimeError(f"{name} at {line()}: a generator on {value.device} for another device")
        if there and name == "tolist":
            kernels.wait(name)
        if target and name in MADE_OF_NUMBERS:
            kernels.wait("copy to cuda")
        if asked is not None and not target:
            kwargs["device"] = asked
        before = kernels.target, kernels.uncounted
        kernels.target = target
        kernels.uncounted = kernels.uncounted or name in CHECKED_ON_CPU
        try:
            out = func(*args, **kwargs)
        finally:
            kernels.target, kernels.uncounted = before
        moved = asked is not None or (there and name in ("__deepcopy__", "new_tensor"))
        return mark(out, target) if moved else out


def _patches(kernels: Kernels) -> dict[Any, dict[str, Any]]:
    """Return what stands in for functions of torch that ask for the GPU, by module."""
    state = [torch.zeros(16, dtype=torch.uint8)]  # of the global generator on the GPU

    @contextlib.contextmanager
    def stream(chosen: Any) -> Iterator[None]:
        before, kernels.stream = kernels.stream, chosen
        try:
            yield
        finally:
            kernels.stream = before

    @contextlib.contextmanager
    def graph(tape: Tape, pool: Any = None, stream: Any = None, **_: Any) -> Iterator[None]:
        kernels.captured_on.append(stream)
        kernels.tape = tape
        try:
            yield
        finally:
            kernels.tape = None
            tape.undo()

    def load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
        return mark(_own_load(*args, map_location="cpu", **kwargs), "cuda" in str(map_location))

    def groups(lists: list[Any], indices: bool = False) -> Any:
        found: Any = _own_groups(lists, indices)
        return {(GPU if on_gpu(value[0][0][0]) else CPU, key[1]): value for key, value in found.items()}

    def autocast(kind: str, **options: Any) -> Any:
        return _own_autocast("cpu" if kind == "cuda" else kind, **options)

    def seeded(seed: int) -> None:
        state[0] = torch.full((16,), seed % 251, dtype=torch.uint8)

    nothing, zero = lambda *_: None, lambda *_: 0
    return {
        torch.cuda: {
            **dict.fromkeys(("is_available", "is_initialized"), lambda: True),
            "device_count": lambda: 1,
            "get_device_name": lambda *_: "pretended",
            "get_device_capability": lambda *_: (9, 0),
            "get_device_properties": lambda *_: SimpleNamespace(**PROPERTIES),
            "is_current_stream_capturing": lambda: kernels.tape is not None,
            "synchronize": lambda *_: kernels.wait("synchronize"),
            **dict.fromkeys(("manual_seed", "manual_seed_all"), seeded),
            "device": lambda _: contextlib.nullcontext(),
            "get_rng_state": lambda *_: state[0],
            "set_rng_state": lambda new, *_: state.__setitem__(0, new),
            "current_stream": lambda *_: kernels.stream,
            **{"CUDAGraph": Tape, "graph": graph, "Stream": Stream, "stream": stream},
            **{"empty_cache": nothing, "reset_peak_memory_stats": nothing},
            **{"current_device": zero, "memory_allocated": zero, "max_memory_allocated": zero},
        },
        torch.accelerator: {
            "current_accelerator": lambda *_, **__: GPU,
            "current_stream": lambda *_: kernels.stream,
            **{"current_device_index": zero, "set_device_index": nothing},
        },
        pin_memory: {"pin_memory": lambda data, *_: data},  # of a loader's thread, which sees no mode
        torch._C: {"_group_tensors_by_device_and_dtype": groups},
        torch: {"Generator": Generator, "load": load, "autocast": autocast},
    }


@contextlib.contextmanager
def pretended_gpu() -> Iterator[Kernels]:
    """Let torch find one GPU, and keep count of what it is given to do."""
    kernels = Kernels()
    Stream.kernels = Tape.kernels = kernels
    kernels.stream = Stream()
    with contextlib.ExitStack() as stack:
        for module, names in _patches(kernels).items():
            for name, own in names.items():
                stack.enter_context(mock.patch.object(module, name, own))
        stack.enter_context(kernels)
        stack.enter_context(Calls(kernels))
        yield kernels
