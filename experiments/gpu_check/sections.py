"""The sections of the check, in order, each with its measurement, expected time and time limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.gpu_check import choices, correctness, evaluations, speed, training
from experiments.gpu_check.amounts import Amount, Rows


@dataclass(frozen=True)
class Section:
    """A section of the check, which is run, recorded and repeated separately.

    Attributes
    ----------
    name
        Name in the record and on the command line.
    title
        Title of its table.
    minutes
        Expected minutes on a recent GPU; not measured.
    limit
        Minutes after which it is stopped; its rows so far are kept.
    measure
        Function that takes the amount of work and the available seconds, and yields rows.
    in_pieces
        Whether it uses all the time that is left and continues in the next call.
    """

    name: str
    title: str
    minutes: float
    limit: float
    measure: Callable[[Amount, float], Rows]
    in_pieces: bool = False


SECTIONS: Sequence[Section] = (
    Section("device", "The device, and its matrix products", 0.2, 0.5, speed.device),
    Section("bits", "Bits: recorded steps beside plain ones, and repetitions", 0.4, 0.8, correctness.bits),
    Section("tests", "Tests that are marked gpu", 1.0, 2.0, correctness.tests),
    Section("training", "One run alone: images per second", 1.6, 2.5, speed.alone),
    Section("together", "Several runs at once in one process", 0.7, 1.2, speed.together),
    Section("processes", "Several runs at once in processes of their own (MPS)", 0.6, 1.0, speed.processes),
    Section("entropy", "Entropy by nearest neighbours", 0.4, 0.8, evaluations.entropy),
    Section("deepfool", "DeepFool", 0.2, 0.5, evaluations.deepfool_steps),
    Section("memory", "Memory of the GPU", 0.2, 0.5, evaluations.memory),
    Section("choices", "Choices: what each gains", 0.7, 1.2, choices.gains),
    Section("runs", "Runs of a profile, as far as time allows", 1.5, 8.0, training.piece, in_pieces=True),
)

PLAN = {section.name: section.title for section in SECTIONS}
"""Titles of the sections, by name."""
