"""Ways to train faster on a GPU, used only on request, after measuring that they pay off."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lpc.errors import unknown_name

VARIABLE = "LPC_FASTER"
"""Environment variable with the choices to use, separated by commas."""
CHOICES: Mapping[str, str] = {
    "half_accuracies": "accuracies between the recorded epochs are taken in bfloat16 where a run trains in "
    "it; near the threshold of the terminal phase again in float32",
    "cudnn_trials": "cuDNN tries its deterministic algorithms once for every shape and keeps the fastest",
    "recorded_cohorts": "a cohort's steps are recorded as a CUDA graph too",
    "side_by_side": "runs that train alone share a process in twos, and their steps take turns",
}
"""Effect of each choice. They change speed and rounding only, and a run's provenance names them."""


def taken() -> tuple[str, ...]:
    """Return the choices that :data:`VARIABLE` names, in the order of :data:`CHOICES`.

    Raises
    ------
    ValueError
        If the variable contains an unknown name.
    """
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in named:
        if name not in CHOICES:
            raise unknown_name(f"choice in {VARIABLE}", name, CHOICES)
    return tuple(name for name in CHOICES if name in named)
