"""Latent point collapse: bottleneck heads, losses, training, and measurements that survive collapse.

The most common names are here: ``lpc.bottleneck_classifier``, ``lpc.squared_norm``, ``lpc.execute``;
``dir(lpc)`` lists them all. Names are imported on first use: ``import lpc`` itself loads nothing.
"""

from typing import TYPE_CHECKING

from lpc._front.faces import face
from lpc._front.moved import RENAMED, announce

if TYPE_CHECKING:
    from lpc import evaluation as evaluation
    from lpc._front.version import __version__ as __version__
    from lpc.architectures import EMBEDDINGS as EMBEDDINGS
    from lpc.architectures import GAMMAS as GAMMAS
    from lpc.architectures import VARIANTS as VARIANTS
    from lpc.architectures import WIDTHS as WIDTHS
    from lpc.architectures import Variant as Variant
    from lpc.architectures import variant_spec as variant_spec
    from lpc.classifiers import bottleneck_classifier as bottleneck_classifier
    from lpc.equilibrium import budget_warning as budget_warning
    from lpc.heads import BottleneckHead as BottleneckHead
    from lpc.heads import Classifier as Classifier
    from lpc.latents import collect_latents as collect_latents
    from lpc.losses import squared_norm as squared_norm
    from lpc.reporting.by_layer import collapse_by_layer as collapse_by_layer
    from lpc.reporting.report import report as report
    from lpc.runs import execute as execute
    from lpc.runs import execute_all as execute_all
    from lpc.schedules.gammas import geometric_gamma as geometric_gamma
    from lpc.specs import DataSpec as DataSpec
    from lpc.specs import ModelSpec as ModelSpec
    from lpc.specs import RunSpec as RunSpec
    from lpc.specs import TrainSpec as TrainSpec
    from lpc.specs import run_key as run_key
    from lpc.store import RunStore as RunStore
else:
    __getattr__, __dir__ = face(__name__)
    announce(__name__, RENAMED)
