"""Attack strength: the smallest perturbations that attacks of several kinds find, on images of pixels."""

from __future__ import annotations

from lpc.data import Splits
from lpc.heads import Classifier
from lpc.probes import Probe


def probe(model: Classifier, splits: Splits) -> Probe:
    """Return what attacks find on a run's test images."""
    raise NotImplementedError
