"""Several runs on one GPU in one process: their steps take turns, each on a stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from lpc.computing.precision import cudnn_trials, exact_float32
from lpc.computing.threads import one_thread
from lpc.training.solo import Solo
from lpc.training.trainers import EpochLoss


class SideBySide:
    """Runs that share a device, each using the time that the others leave idle.

    Parameters
    ----------
    members
        Trainers of single runs on one device. They may differ, and each computes what it would compute alone.

    Notes
    -----
    The host hands out one step of each run in turn. On a GPU the steps and draws of a run lie on a
    stream of its own, so that the device may work on several at once; a recorded step is one call, so that
    one thread keeps up with a few runs. On a CPU the steps follow one another, and nothing is gained.
    """

    def __init__(self, members: Sequence[Solo]) -> None:
        self.members = list(members)
        devices = {str(member.device) for member in self.members}
        if len(devices) != 1:
            raise ValueError(
                f"the runs are on {', '.join(sorted(devices)) or 'no device'}; expected runs on one device"
            )
        self.device = self.members[0].device
        on_gpu = self.device.type == "cuda"
        self.streams = [torch.cuda.Stream(self.device) if on_gpu else None for _ in self.members]

    def train_epoch(self) -> list[EpochLoss]:
        """Train one epoch of every run and return its mean losses, in the order of the members."""
        current = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        for stream in self.streams:
            if stream is not None and current is not None:
                stream.wait_stream(current)
        waiting = [
            (member.steps(), stream) for member, stream in zip(self.members, self.streams, strict=True)
        ]
        trials = all("cudnn_trials" in member.choices for member in self.members)
        with one_thread(), exact_float32(), cudnn_trials(trials):
            while waiting:
                going = []
                for steps, stream in waiting:
                    with _on(stream):
                        if next(steps, steps) is None:  # a step was taken
                            going.append((steps, stream))
                waiting = going
        for stream in self.streams:
            if stream is not None and current is not None:
                current.wait_stream(stream)
        return [member.end_epoch(member.totals.clone()) for member in self.members]


def _on(stream: Any) -> AbstractContextManager[object]:
    """Return what makes a stream the current one; None: nothing."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)
