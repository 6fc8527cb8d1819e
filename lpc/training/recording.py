"""A step of training that is recorded as a CUDA graph, and from then on taken by its replay."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lpc.training.draws import Batch

WARM_UP = 3
"""Steps that are taken one by one before the next ones are recorded as a CUDA graph."""


def check_recordable(device: torch.device) -> None:
    """Raise a ValueError unless steps on a device can be recorded."""
    if device.type != "cuda":
        raise ValueError(f"graphed is True, but a CUDA graph needs a GPU and the images are on {device}")


class RecordedStep:
    """Takes steps: the first ones as they are, the others by a graph that is recorded on the same stream.

    Parameters
    ----------
    step
        Takes a step on a batch, in place: it waits for nothing, and everything that changes from step to step
        lies in tensors that stay where they are.
    optimizer
        Whose gradients the step makes anew.
    device
        A GPU.

    Attributes
    ----------
    stream
        On which steps warm up and are recorded.
    recorded
        The graph, and the batch that it reads; None: not yet.
    """

    def __init__(
        self, step: Callable[[Batch], object], optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self.step, self.optimizer, self.device = step, optimizer, device
        self.stream = torch.cuda.Stream(device)
        self.forget()

    def forget(self) -> None:
        """Warm up and record again: the optimizer's tensors are new ones."""
        self.recorded: tuple[torch.cuda.CUDAGraph, Batch] | None = None
        self.taken = 0

    def __call__(self, batch: Batch) -> None:
        """Take a step on a batch; all of them have one shape."""
        current = torch.cuda.current_stream(self.device)
        if self.recorded is None and self.taken < WARM_UP:
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                self.step(batch)
            current.wait_stream(self.stream)
            self.taken += 1
            return
        if self.recorded is None:
            fixed = Batch(*(None if part is None else part.clone() for part in batch))  # type: ignore[arg-type]
            graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph, stream=self.stream):
                self.step(fixed)
            self.recorded = graph, fixed
        graph, fixed = self.recorded
        for place, part in zip(fixed, batch, strict=True):
            if place is not None and part is not None:
                place.copy_(part)
        graph.replay()
