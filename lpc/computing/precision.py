"""Exact float32 while a measurement or a training step runs: nothing is rounded to a shorter format."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_SETTINGS = (
    ("generic", "all"),  # what others inherit from comes first
    ("cuda", "all"),
    ("mkldnn", "all"),
    *((backend, operation) for backend in ("cuda", "mkldnn") for operation in ("matmul", "conv", "rnn")),
)
"""Settings ``torch.backends...fp32_precision``; "cuda" is cuDNN for convolutions, cuBLAS for products."""
precision_of: Callable[[str, str], str] = torch._C._get_fp32_precision_getter
"""Return the format to which a backend ("generic", "cuda", "mkldnn") may round float32 in an operation."""
_set: Callable[[str, str, str], Any] = torch._C._set_fp32_precision_setter
_lock = threading.Lock()
_inside, _undo = 0, ExitStack()


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep float32 products and convolutions in float32, and cuDNN to algorithms that repeat to the bit.

    By default cuDNN rounds the inputs of float32 convolutions to TF32's 10 bits of mantissa, and products
    are rounded to TF32 or bfloat16 where ``torch.backends.fp32_precision`` or
    ``torch.set_float32_matmul_precision`` allow it, on a CPU too. Tensors that are bfloat16 themselves, as
    under autocast, stay so.

    Notes
    -----
    The caller's settings are restored at the end, also after an exception; inherited ones are inherited
    again. They belong to the process: if several threads are inside, the last one to leave restores them.
    Inside, the old flag ``torch.backends.cudnn.allow_tf32`` cannot be read (torch refuses to mix old and new
    settings).
    """
    global _inside, _undo
    with _lock:
        if _inside == 0:
            with ExitStack() as stack:
                _enter(stack)
                _undo = stack.pop_all()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _undo.close()


@contextmanager
def cudnn_trials(wanted: bool = True) -> Iterator[None]:
    """Inside :func:`exact_float32`: let cuDNN try its algorithms for every new shape and keep the fastest.

    Only algorithms that repeat to the bit, as before; but the clock decides which of them is fastest, and
    another process may choose another.

    Parameters
    ----------
    wanted
        Whether cuDNN tries its algorithms; False changes nothing.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted or before
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _enter(stack: ExitStack) -> None:
    before = [(setting, precision_of(*setting)) for setting in _SETTINGS]
    stack.callback(_restore, before)
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError:  # it disagrees with the new settings: these alone are in force
        old = "highest"
    if old != "highest":
        stack.callback(torch.set_float32_matmul_precision, old)
        torch.set_float32_matmul_precision("highest")
    for setting in _SETTINGS:
        if precision_of(*setting) != "ieee":  # else inherited from one that was changed before
            _set(*setting, "ieee")
    cudnn = torch.backends.cudnn
    for name, value in (("enabled", True), ("benchmark", False), ("deterministic", True)):
        if getattr(cudnn, name) != value:
            stack.callback(setattr, cudnn, name, getattr(cudnn, name))
            setattr(cudnn, name, value)


def _restore(before: list[tuple[tuple[str, str], str]]) -> None:
    for setting, value in before:
        if precision_of(*setting) != value:  # else inherited from one that was restored before
            _set(*setting, value)
