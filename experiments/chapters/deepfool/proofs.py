"""Proved bounds for a network, to compare with the results of attacks."""

from __future__ import annotations

from experiments.probes.certified import sample
from lpc.data import ImageSet
from lpc.evaluation.affine_layers import affine_layers
from lpc.evaluation.certified import certified_radius, lipschitz_bound
from lpc.heads import Classifier


def bounds(model: Classifier, images: ImageSet) -> dict[str, float]:
    """Return a bound on the logits' Lipschitz constant and median certified radii, in pixel units.

    Parameters
    ----------
    model
        Classifier in evaluation mode, with a dense backbone.
    images
        Test set; radii are computed for the images that :func:`experiments.probes.certified.sample` takes.

    Returns
    -------
    dict
        Values ``bound of L``, ``spectral radius`` and ``CROWN radius``.

    Raises
    ------
    ValueError
        If the network is not dense (:func:`lpc.evaluation.affine_layers.affine_layers`).
    """
    network = affine_layers(model, mean=images.mean, sd=images.sd)
    _, image = sample(images)
    spectral, crown = (
        float(radius.quantile(0.5))
        for radius in (
            certified_radius(network, image, method="spectral"),
            certified_radius(network, image, method="crown"),
        )
    )
    return {"bound of L": lipschitz_bound(network), "spectral radius": spectral, "CROWN radius": crown}
