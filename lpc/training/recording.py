"""A training step that is recorded as a CUDA graph and from then on replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lpc.training.draws import Batch

WARM_UP = 3
"""Number of steps taken directly before recording as a CUDA graph."""


def check_recordable(device: torch.device) -> None:
    """Raise a ValueError unless steps on a device can be recorded."""
    if device.type != "cuda":
        raise ValueError(f"graphed is True, but a CUDA graph needs a GPU and the images are on {device}")


class RecordedStep:
    """Takes training steps: the first ones directly, the others by replaying a recorded graph.

    Parameters
    ----------
    step
        Function that takes a training step on a batch, in place: it must not wait for the device, and
        everything that changes from step to step must lie in tensors that stay where they are.
    optimizer
        Optimizer whose gradients the step computes.
    device
        GPU on which steps are recorded.

    Attributes
    ----------
    stream
        CUDA stream on which steps warm up and are recorded.
    recorded
        The graph and the batch that it reads; None: not recorded yet.
    """

    def __init__(
        self, step: Callable[[Batch], object], optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        self.step, self.optimizer, self.device = step, optimizer, device
        self.stream = torch.cuda.Stream(device)
        self.forget()

    def forget(self) -> None:
        """Warm up and record again, because the optimizer's tensors are new."""
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
