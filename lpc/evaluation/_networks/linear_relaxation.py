"""Lower bounds of linear forms of a dense network over Euclidean balls (extra ``certified``).

The library bound-propagation computes them, with two things of our own: its ball, whose dual norm is wrong as
released, and a relaxation of SiLU, which it knows only as a product and bounds more loosely.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from lpc.evaluation._networks.unrolled_layers import Kept, activation_of
from lpc.evaluation.affine_layers import AffineLayers

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it compiles functions with torch.jit.script
    from bound_propagation import (
        BoundActivation,
        BoundLinear,
        BoundModelFactory,
        IntervalBounds,
        LinearBounds,
        LpNormSet,
    )

SILU_INFLECTION = 2.3993572805154677
"""Point of SiLU's greatest slope: x tanh(x / 2) = 2. At minus this point the slope is smallest."""
SILU_MINIMUM = -1.2784645427610738
"""Point of SiLU's minimum: x (1 - sigmoid(x)) = -1."""
_FAR = 40.0
"""Point from which SiLU's slope is 1 to float64's precision."""
_BISECTIONS = 24
"""Number of steps: they leave 3e-6 of an interval of 40, and 1e-12 of SiLU minus a line, flat there."""
_GUARD = 1e-11
"""Margin for that and for rounding, added to offsets and ranges, times 1 plus the size of the ends."""


def silu_slope(value: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    r"""Return the derivative of SiLU, :math:`\sigma(x) (1 + x (1 - \sigma(x)))`."""
    gate = torch.sigmoid(value)
    return gate * (1 + value * (1 - gate))


class Ball(LpNormSet):
    """Euclidean balls, one centre and one radius per image.

    The library's own class takes the dual of the p-norm to be p / (1 - p), which is -2 for p = 2, and not
    p / (p - 1): its bounds over balls are not bounds. Here a form's least value over a ball is that at the
    centre less the radius times the Euclidean norm of the form.

    Parameters
    ----------
    centre
        Centre of each ball.
    radius
        Radius of each ball.
    """

    def __init__(self, centre: Float64[Tensor, "batch inputs"], radius: Float64[Tensor, " batch"]) -> None:
        super().__init__(centre, radius[:, None], 2)

    def concretize(self, linear_bounds: LinearBounds) -> tuple[Tensor | None, Tensor | None]:
        """Return the least value of the lower and the greatest of the upper bounds."""
        bounds: Any = (linear_bounds.lower, -1), (linear_bounds.upper, 1)
        low, high = (None if forms is None else self.extreme(forms, sign) for forms, sign in bounds)
        return low, high

    def extreme(self, forms: tuple[Tensor, Tensor], sign: int) -> Tensor:
        """Return the greatest value (sign 1) or the least (sign -1) of slope @ input + intercept."""
        slope, intercept = forms
        middle = (slope @ self.mid[..., None])[..., 0] + intercept
        return middle + sign * self.eps * torch.linalg.vector_norm(slope, dim=-1)


class BoundSiLU(BoundActivation):
    r"""SiLU between two lines of one slope, that of its chord.

    Notes
    -----
    On [l, u] with chord slope a, f(x) = SiLU(x) - a x is equal at both ends. SiLU is convex between its
    inflection points and concave outside, so f's least value is at an end or where SiLU' = a between them,
    its greatest at an end or where SiLU' = a outside. SiLU' is monotone on each of the three parts, and
    SiLU'(-x) = 1 - SiLU'(x) makes the left part the right one's mirror image.
    """

    def alpha_beta(self, preactivation: IntervalBounds) -> None:
        """Set slopes and offsets of the lines below and above."""
        low, high = preactivation.lower, preactivation.upper
        wide = high - low > 1e-6
        chord = (self.module(high) - self.module(low)) / torch.where(wide, high - low, 1.0)
        slope = torch.where(wide, chord, silu_slope((low + high) / 2))

        def above(point: Tensor) -> Tensor:
            point = point.clamp(low, high)
            return self.module(point) - slope * point

        ends = above(low), above(high)
        least = torch.minimum(torch.minimum(*ends), above(_root(slope, rising=True)))
        outer = torch.maximum(above(_root(slope, rising=False)), above(-_root(1 - slope, rising=False)))
        greatest = torch.maximum(torch.maximum(*ends), outer)
        guard = _guard(low, high)
        self.alpha_lower, self.beta_lower = slope, least - guard
        self.alpha_upper, self.beta_upper = slope, greatest + guard

    def ibp_forward(
        self, bounds: IntervalBounds, save_relaxation: bool = False, save_input_bounds: bool = False
    ) -> IntervalBounds:
        """Return SiLU's range, which falls to its minimum and rises from there."""
        super().ibp_forward(bounds, save_relaxation, save_input_bounds)
        least = self.module(torch.full_like(bounds.lower, SILU_MINIMUM).clamp(bounds.lower, bounds.upper))
        greatest = torch.maximum(self.module(bounds.lower), self.module(bounds.upper))
        guard = _guard(bounds.lower, bounds.upper)
        return IntervalBounds(bounds.region, least - guard, greatest + guard)

    def backward_relaxation(self, region: LpNormSet) -> tuple[LinearBounds, BoundActivation]:
        """Return where the backward pass to this layer's input begins: the identity, once for all images."""
        assert self.size is not None  # set by propagate_size
        identity = torch.eye(self.size, dtype=region.dtype, device=region.device)[None]
        start = identity, identity.new_zeros(1, len(identity[0]))
        return LinearBounds(region, start, start), self

    def crown_backward(self, linear_bounds: LinearBounds, optimize: bool) -> LinearBounds:
        """Put the lines in place of SiLU; both have one slope, so forms bounded from both sides keep one."""
        found: Any = super().crown_backward(linear_bounds, optimize)
        if linear_bounds.upper is not None and linear_bounds.lower[0] is linear_bounds.upper[0]:
            found.upper = (found.lower[0], found.upper[1])
        return found

    def parameterize_alpha_beta(self, *lines: Tensor) -> tuple[Tensor, ...]:
        """Return the lines as they are: there is nothing to optimise."""
        return lines


class BoundLeakyReLU(BoundSiLU):
    r"""LeakyReLU of a slope from 0 to 1 between two lines of one slope, that of its chord.

    Notes
    -----
    It is convex: less a line, it is greatest at an end, and least at zero or, where that lies outside, at an
    end.
    """

    def alpha_beta(self, preactivation: IntervalBounds) -> None:
        """Set slopes and offsets of the lines below and above."""
        low, high = preactivation.lower, preactivation.upper
        bent = self.module.negative_slope
        rise = self.module(high) - self.module(low)
        level = torch.where(low + high > 0, 1.0, bent).to(low)
        slope = torch.where(high > low, rise / torch.where(high > low, high - low, 1.0), level).clamp(bent, 1)
        ends = self.module(low) - slope * low, self.module(high) - slope * high
        least = torch.minimum(*ends)
        least = torch.where((low < 0) & (high > 0), least.clamp(max=0.0), least)
        guard = _guard(low, high)
        self.alpha_lower, self.beta_lower = slope, least - guard
        self.alpha_upper, self.beta_upper = slope, torch.maximum(*ends) + guard

    def ibp_forward(
        self, bounds: IntervalBounds, save_relaxation: bool = False, save_input_bounds: bool = False
    ) -> IntervalBounds:
        """Return its range, from end to end: it never falls."""
        return BoundActivation.ibp_forward(self, bounds, save_relaxation, save_input_bounds)


class BoundKept(BoundSiLU):
    """An activation of all but the last nodes, for which both lines are the value itself."""

    def __init__(self, module: Kept, factory: BoundModelFactory, **options: Any) -> None:
        super().__init__(module, factory, **options)
        self.inner: Any = factory.build(module.activation)

    def alpha_beta(self, preactivation: IntervalBounds) -> None:
        """Set slopes and offsets of the lines below and above."""
        some = self._first(preactivation)
        self.inner.alpha_beta(preactivation=some)
        one = torch.ones_like(preactivation.lower[..., -self.module.kept :])
        for side in ("lower", "upper"):
            for name, rest in ((f"alpha_{side}", one), (f"beta_{side}", torch.zeros_like(one))):
                setattr(self, name, torch.cat([getattr(self.inner, name), rest], dim=-1))

    def ibp_forward(
        self, bounds: IntervalBounds, save_relaxation: bool = False, save_input_bounds: bool = False
    ) -> IntervalBounds:
        """Return the range of the activation, and the other ranges unchanged."""
        BoundActivation.ibp_forward(self, bounds, save_relaxation, save_input_bounds)
        found, kept = self.inner.ibp_forward(self._first(bounds)), self.module.kept
        low = torch.cat([found.lower, bounds.lower[..., -kept:]], dim=-1)
        return IntervalBounds(bounds.region, low, torch.cat([found.upper, bounds.upper[..., -kept:]], dim=-1))

    def _first(self, bounds: IntervalBounds) -> IntervalBounds:
        kept = self.module.kept
        return IntervalBounds(bounds.region, bounds.lower[..., :-kept], bounds.upper[..., :-kept])


class BoundSharedLinear(BoundLinear):
    """A linear layer that multiplies a slope only once when it bounds from both sides."""

    def crown_backward(self, linear_bounds: LinearBounds, optimize: bool) -> LinearBounds:
        """Put the layer's map in place of its output."""
        if linear_bounds.upper is None or linear_bounds.lower[0] is not linear_bounds.upper[0]:
            return super().crown_backward(linear_bounds, optimize)
        slope = linear_bounds.lower[0]
        shift, slope = slope @ self.module.bias, slope @ self.module.weight
        return LinearBounds(
            linear_bounds.region,
            (slope, linear_bounds.lower[1] + shift),
            (slope, linear_bounds.upper[1] + shift),
        )


def _guard(low: Tensor, high: Tensor) -> Tensor:
    return _GUARD * (1 + low.abs() + high.abs())


def _root(slope: Tensor, *, rising: bool) -> Tensor:
    """Return the points where SiLU' has some values: between its inflection points, or right of them."""
    low = torch.full_like(slope, -SILU_INFLECTION if rising else SILU_INFLECTION)
    high = torch.full_like(slope, SILU_INFLECTION if rising else _FAR)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        left = (silu_slope(middle) > slope) == rising
        low, high = torch.where(left, low, middle), torch.where(left, middle, high)
    return (low + high) / 2


class HiddenBounds:
    """Bounds on a network's last hidden layer over balls around images.

    Parameters
    ----------
    network
        Classifier without its last map, which the bounded forms replace.
    """

    def __init__(self, network: AffineLayers) -> None:
        factory = BoundModelFactory()
        factory.register(nn.SiLU, BoundSiLU)
        factory.register(nn.LeakyReLU, BoundLeakyReLU)
        factory.register(Kept, BoundKept)
        factory.register(nn.Linear, BoundSharedLinear)
        layers: list[nn.Module] = []
        for weight, bias, activation in zip(network.weight, network.bias, network.activation, strict=False):
            layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # nothing is drawn
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
            layers += [layer, activation_of(activation)]
        self._first = network.weight[0] if layers else None
        self._bounds = factory.build(nn.Sequential(*layers)).requires_grad_(False)

    @torch.no_grad()
    def crown(
        self,
        centre: Float64[Tensor, "batch inputs"],
        radius: Float64[Tensor, " batch"],
        weight: Float64[Tensor, "batch forms hidden"],
        bias: Float64[Tensor, "batch forms"],
    ) -> Float64[Tensor, "batch forms"]:
        """Return CROWN's lower bounds of ``weight @ hidden + bias`` over each ball.

        References
        ----------
        Zhang et al. 2018, Efficient neural network robustness certification with general activation
        functions.
        """
        self._bounds.propagate_size(centre.shape[1])
        with centre.device:  # the library makes tensors on the default one
            region = Ball(centre, radius)
            self._bounds.crown_relax(region)
            found: Any = self._bounds.crown_backward(LinearBounds(region, (weight, bias), None), False)
        self._bounds.clear_relaxation()
        return region.extreme(found.lower, -1)

    @torch.no_grad()
    def interval(
        self,
        centre: Float64[Tensor, "batch inputs"],
        radius: Float64[Tensor, " batch"],
        weight: Float64[Tensor, "batch forms hidden"],
        bias: Float64[Tensor, "batch forms"],
    ) -> Float64[Tensor, "batch forms"]:
        """Return interval bound propagation's lower bounds; the first map's range over the ball is exact.

        References
        ----------
        Gowal et al. 2018, On the effectiveness of interval bound propagation for training verifiably robust
        models.
        """
        with centre.device:
            region = Ball(centre, radius)
        if self._first is None:
            return region.extreme((weight, bias), -1)
        first, *others = self._bounds.bound_sequential
        middle = first(centre)
        reach = radius[:, None] * torch.linalg.vector_norm(self._first, dim=1)
        bounds = IntervalBounds(region, middle - reach, middle + reach)
        with centre.device:
            for module in others:
                bounds = module.ibp_forward(bounds)
        centre, reach = (
            (bounds.lower + bounds.upper)[..., None] / 2,
            (bounds.upper - bounds.lower)[..., None] / 2,
        )
        return (weight @ centre - weight.abs() @ reach)[..., 0] + bias
