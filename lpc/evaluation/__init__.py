"""Measurements of latents, logits and classifiers: pure functions of arrays, computed in float64.

They always compute outside autocast, networks included, with float32 not rounded to TF32 or bfloat16:
:func:`lpc.computing.numerics.measurement`.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from lpc._front.faces import face

TASKS: dict[str, tuple[str, ...]] = {
    "Collapse": ("collapse", "class_geometry", "class_margins", "class_moments"),
    "Neural collapse": ("neural_collapse", "neural_collapse_metric", "loop_metrics"),
    "Binarity": ("binarity", "mixture"),
    "Information": ("information", "mutual_information", "quantities", "posterior", "neighbours"),
    "Robustness": ("robustness", "attacks", "ceilings", "lipschitz", "corruptions"),
    "Certified radii": ("certified", "affine_layers"),
    "Reliability": ("reliability", "misclassification", "detection", "odin", "calibration"),
}
"""The public modules by task."""

__doc__ = "\n".join([f"{__doc__}\n", *(f"{task}: {', '.join(names)}." for task, names in TASKS.items())])

if TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType: ...
else:
    __getattr__, __dir__ = face(__name__)
