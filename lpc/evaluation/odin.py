"""ODIN's step of the input: images moved towards more confidence in the network's decision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from lpc.arrays import ArrayT, images_at_once
from lpc.computing.numerics import measurement
from lpc.computing.options import number
from lpc.evaluation._networks.networks import Logits, given, guarded


@measurement
def odin_input(
    logits_fn: Logits,
    image: Float[ArrayT, " batch *shape"],
    *,
    step: float = 0.0014,
    temperature: float = 1000.0,
    sd: Sequence[float] | None = None,
    chunk: int | None = None,
) -> Float[ArrayT, " batch *shape"]:
    r"""Return the images after ODIN's step; :func:`~.reliability.odin_confidence` then scores their logits.

    Parameters
    ----------
    logits_fn
        Function from images to logits, each image independent of the others; it returns a tensor, or holds
        one as ``logits``.
    image
        Images as the network takes them, float32 or float64.
    step
        Size of the step, at least 0; the paper chooses it on held-out points, from 0 to 0.004.
    temperature
        Temperature T of the softmax, above 0.
    sd
        Divisor of the pixels in the normalisation, one number per channel: the step is then in units of the
        pixels.
    chunk
        Largest number of images per pass; None: chosen by their size.

    Raises
    ------
    ValueError
        If options or images are invalid, the network is in training mode, or its logits have no gradient in
        the images.

    Notes
    -----
    :math:`\tilde x = x - \epsilon\,\mathrm{sign}(-\nabla_x \log S_{\hat y}(x; T))` with S the softmax of
    logits / T and :math:`\hat y` the decision. Familiar points gain more confidence than others. The
    result may leave the box of pixels by the step, as in the paper.

    References
    ----------
    Liang, Li and Srikant 2018, Enhancing the reliability of out-of-distribution image detection in neural
    networks, Eq. 2.
    """
    step, temperature = number("step", step, least=0), number("temperature", temperature, above=0)
    with guarded(logits_fn, image) as network:
        pixels = network.image
        scale = torch.ones((), dtype=pixels.dtype, device=pixels.device)
        if sd is not None:
            if pixels.ndim < 3 or len(sd) != pixels.shape[1] or not all(value > 0 for value in sd):
                raise ValueError(
                    f"sd is {tuple(sd)} for images of shape {tuple(pixels.shape)}; expected one number "
                    "above 0 per channel"
                )
            scale = pixels.new_tensor(tuple(sd)).reshape(-1, *[1] * (pixels.ndim - 2))
        parts = [
            part - step * _direction(network, part, temperature) / scale
            for part in pixels.split(images_at_once(pixels, chunk))
        ]
    return given(torch.cat(parts), image)


def _direction(network: Logits, image: Tensor, temperature: float) -> Tensor:
    """Return the sign of the gradient of minus the decision's log-probability."""
    with torch.enable_grad():
        leaf = image.detach().clone().requires_grad_()
        logits = network(leaf) / temperature
        if not logits.requires_grad:
            raise ValueError("no path leads from the logits back to the image: is it detached, or rounded?")
        loss = cross_entropy(logits, logits.argmax(dim=1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.sign()
