"""A plain float64 reference of every public function of `lpc.evaluation` and `lpc.losses`.

Nothing here is efficient, or careful with rounding: NumPy and SciPy, by the formula. A reference raises
`Undefined` where a function has to refuse what it is given, although each argument by itself is valid.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq, linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import digamma, gammaln, log_softmax, logsumexp, softmax

from lpc import losses
from lpc.evaluation import (
    affine_layers,
    attacks,
    binarity,
    calibration,
    ceilings,
    certified,
    class_geometry,
    class_margins,
    class_moments,
    collapse,
    corruptions,
    detection,
    information,
    lipschitz,
    loop_metrics,
    misclassification,
    mixture,
    mutual_information,
    neighbours,
    neural_collapse,
    neural_collapse_metric,
    posterior,
    quantities,
    reliability,
    robustness,
)
from lpc.evaluation.odin import odin_input
from lpc.schedules import gammas

CLASSES, IMAGE = 4, (1, 2, 2)
NUMBERS = (math.nan, math.inf, "1", None, [1.0])
COUNTS = (0, -1, 1.5, True, "3", None)
NAMES = ("", "PAPER", None, 3)


class Undefined(Exception):
    """The function must refuse this."""


@dataclass(frozen=True)
class Case:
    """How to call a function, what its arguments are, and what it should return.

    Attributes
    ----------
    arrays
        Name of each array and its kind, see `Draw`.
    reference
        Of the same arguments, arrays in NumPy's float64 or int64; numbers, arrays, or sequences of them.
    call
        What is called, where that is not the function itself.
    options
        Names of options and how a valid value follows from the draw.
    wrong
        Values of options that must be refused.
    tensors
        Whether it takes tensors alone.
    exact
        Whether only float64 will do.
    tolerance
        Relative.
    smooth
        Whether repeated points are left out of what is drawn.
    """

    arrays: Mapping[str, str]
    reference: Callable[..., Any]
    call: Callable[..., Any] | None = None
    options: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    wrong: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    tensors: bool = False
    exact: bool = False
    tolerance: float = 1e-6
    smooth: bool = False


def groups(z, y):
    return [z[y == c] for c in np.unique(y)]


def centred(z, y):
    means = {c: z[y == c].mean(axis=0) for c in np.unique(y)}
    return z - np.stack([means[c] for c in y])


def means(z, y):
    return np.stack([part.mean(axis=0) for part in groups(z, y)])


def several(y):
    if len(np.unique(y)) < 2:
        raise Undefined


def covariance(latent, label, convention):
    if convention == "paper":
        d = centred(latent, label)
        return d.T @ d / len(d)
    if min(np.unique(label, return_counts=True)[1]) < 2:
        raise Undefined
    return np.mean(
        [np.cov(part.T, ddof=1).reshape(latent.shape[1], -1) for part in groups(latent, label)], axis=0
    )


def square(covariance):
    if covariance.shape[0] != covariance.shape[1]:
        raise Undefined
    return covariance.mean()


def spread(y):
    if np.unique(y, return_counts=True)[1].max() < 2:
        raise Undefined


def traces(latent, label):
    several(label)
    spread(label)
    within = (centred(latent, label) ** 2).sum(axis=1).mean()
    between = ((means(latent, label) - latent.mean(axis=0)) ** 2).sum(axis=1).mean()
    return within, between, within / between


def variation(latent):
    norm = np.linalg.norm(latent, axis=1)
    return norm.std() / norm.mean()


def nearest_mean(train_latent, train_label, latent, label):
    if set(label) - set(train_label) or latent.shape[1] != train_latent.shape[1]:
        raise Undefined
    names = np.unique(train_label)
    return np.mean(names[cdist(latent, means(train_latent, train_label)).argmin(axis=1)] == label)


def margins(train_latent, train_label, latent, label):
    several(train_label)
    if set(label) - set(train_label) or latent.shape[1] != train_latent.shape[1]:
        raise Undefined
    names = np.unique(train_label)
    distance = cdist(latent, means(train_latent, train_label))
    own = names == label[:, None]
    return np.where(own, np.inf, distance).min(axis=1) / distance[own]


def ceilings_of(points, label, among, among_label):
    norm, theirs = np.linalg.norm(points, axis=1), np.linalg.norm(among, axis=1)
    alone = len(set(among_label)) == 1 and among_label[0] in label
    if points.shape[1] != among.shape[1] or alone or (norm == 0).any():
        raise Undefined
    distance = np.where(among_label == label[:, None], np.inf, cdist(points, among))
    nearest, least = distance.argmin(axis=1), distance.min(axis=1)
    return nearest, least, least / norm, least / (2 * np.minimum(norm, theirs[nearest]))


def best_assignment(points, label):
    norm = np.linalg.norm(points, axis=1)
    if 2 * np.unique(label, return_counts=True)[1].max() > len(label) or (norm == 0).any():
        raise Undefined
    cost = cdist(points, points) / np.minimum(norm[:, None], norm)
    cost[label == label[:, None]] = cost.max() * len(label)
    rows, columns = linear_sum_assignment(cost)
    return cost[rows, columns].mean() / 2


def summary(margin):
    if (margin < 0).any():
        raise Undefined
    return len(margin), margin.mean(), np.median(margin), np.mean(margin < 1), 0


def collapse_measures(latent, label, convention):
    several(label)
    spread(label)
    k, p = len(np.unique(label)), latent.shape[1]
    sw, m = covariance(latent, label, convention), means(latent, label) - latent.mean(axis=0)
    sb = m.T @ m / k
    nc1 = np.trace(sw @ np.linalg.pinv(sb, rcond=1e-10, hermitian=True)) / k
    norm = np.linalg.norm(m, axis=1)
    cosine = (m @ m.T / norm / norm[:, None])[np.triu_indices(k, 1)]
    angles = norm.std() / norm.mean(), cosine.std(), np.abs(cosine + 1 / (k - 1)).mean()
    return (nc1, nc1 / p, nc1 / min(p, k - 1), np.trace(sw) / np.trace(sb), *angles)


def hypercube(latent, label):
    m = means(latent, label)
    size = np.abs(m)
    rms = np.sqrt((m**2).mean(axis=0))
    if rms.max() == 0:
        raise Undefined
    alive = rms >= 0.01 * rms.max()
    each = np.where(alive, size.std(axis=0) / np.where(alive, size.mean(axis=0), 1.0), np.nan)
    return each, each[alive].mean(), len(np.unique(m[:, alive] > 0, axis=0)), len(m), int((~alive).sum())


def mixture_checked(latent, **options):
    """Return the fit; its likelihood must be that of its parameters, and above that of one Gaussian."""
    fit = mixture.fit_bimodal(np.ascontiguousarray(latent), **options)
    for i in np.flatnonzero(~np.asarray(fit.degenerate)):
        x, w, m, s = latent[:, i, None], fit.weight[i], fit.mean[i], fit.sd[i]
        density = (w * np.exp(-(((x - m) / s) ** 2) / 2) / s).sum(axis=1) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(fit.log_likelihood[i], np.log(density).mean(), rtol=1e-6, atol=1e-6)
        assert ((s > 0).all() and w.sum() == 1) or math.isclose(w.sum(), 1, rel_tol=1e-12)
    return fit


def binary(latent, standardise):
    z = (latent - latent.mean(axis=0)) / latent.std(axis=0) if standardise else latent
    fit = mixture.fit_bimodal(np.ascontiguousarray(z))
    kept = ~np.asarray(fit.degenerate)
    if not kept.any():
        raise Undefined
    w, m, s = (np.asarray(v)[kept] for v in fit[:3])
    x = z[:, kept, None]
    each = -(((x - m) / s) ** 2) / 2 - np.log(s) - np.log(2 * np.pi) / 2
    chosen = np.take_along_axis(each, (each + np.log(w)).argmax(axis=2)[:, :, None], axis=2)
    size = s.mean(axis=1)
    return chosen.mean(), size.mean(), ((m[:, 1] - m[:, 0]) / size).mean(), int((~kept).sum()), None


def kth(points, k, norm, method=None):
    if k >= len(points):
        raise Undefined
    metric = "chebyshev" if norm == "linf" else "euclidean"
    return np.sort(cdist(points, points, metric), axis=1)[:, k]


def entropy(latent, k, norm):
    n, p = latent.shape
    if k >= n:
        raise Undefined
    ball = p * np.log(2) if norm == "linf" else p / 2 * np.log(np.pi) - gammaln(p / 2 + 1)
    distance = kth(latent, k, norm)
    if (distance == 0).any():
        raise Undefined
    return digamma(n) - digamma(k) + ball + p * np.log(distance).mean()


def class_entropy(latent, label, k, norm):
    return sum(len(part) / len(latent) * entropy(part, k, norm) for part in groups(latent, label))


def scaled(z):
    z = z - z.mean(axis=0)
    return z / np.sqrt((z**2).mean())


def ksg(x, y, k):
    if len(x) != len(y) or k >= len(x):
        raise Undefined
    x, y = scaled(x), scaled(y)
    radius = kth(np.concatenate([x, y], axis=1), k, "linf")[:, None]
    counts = [(cdist(v, v, "chebyshev") < radius).sum(axis=1) for v in (x, y)]
    return digamma(k) + digamma(len(x)) - np.mean(digamma(counts[0]) + digamma(counts[1]))


def ross(latent, label, k):
    z, n, total = latent, len(latent), 0.0
    for c in np.unique(label):
        member = label == c
        if k >= member.sum():
            raise Undefined
        radius = kth(z[member], k, "linf")[:, None]
        near = (cdist(z[member], z, "chebyshev") < radius).sum(axis=1)
        total += (digamma(member.sum()) + digamma(near)).sum()
    return digamma(n) + digamma(k) - total / n


def uncertainty(p_z_given_x, label):
    p_z_given_x = p_z_given_x / p_z_given_x.sum(axis=1, keepdims=True)
    joint = np.stack([p_z_given_x[label == c].sum(axis=0) for c in np.unique(label)], axis=1) / len(label)
    return -np.sum(
        np.where(joint > 0, joint * np.log(np.maximum(joint, 1e-300) / joint.sum(axis=1, keepdims=True)), 0.0)
    )


def entr(p):
    p = np.asarray(p)
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0))


def discrete(joint):
    joint = joint / joint.sum()
    h = {
        axes: entr(joint.sum(axis=tuple(i for i in range(3) if i not in axes)))
        for axes in [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    }
    x, y, z, xy, xz, yz, xyz = h.values()
    return (
        y,
        z,
        xy - x,
        xz - x,
        yz - z,
        yz - y,
        x + y - xy,
        x + z - xz,
        y + z - yz,
        xz + yz - xyz - z,
        xy + yz - xyz - y,
    )


def categorical(p_z_given_x, label):
    p_z_given_x = p_z_given_x / p_z_given_x.sum(axis=1, keepdims=True)
    names = np.unique(label)
    joint = np.zeros((len(label), len(names), p_z_given_x.shape[1]))
    joint[np.arange(len(label)), np.searchsorted(names, label)] = p_z_given_x / len(label)
    return discrete(joint)


def entropies(mean, label, variance, draws=1):
    generator = torch.Generator().manual_seed(0)
    z, n = (mean - mean.mean(axis=0)) / np.sqrt(variance), len(mean)
    found = []
    for _ in range(draws):
        noise = torch.randn((n, z.shape[1]), generator=generator, dtype=torch.float64).numpy()
        share = softmax(-cdist(z + noise, z, "sqeuclidean") / 2, axis=1)
        by_class = np.stack([share[:, label == c].sum(axis=1) for c in np.unique(label)], axis=1)
        found.append(([entr(row) for row in share], [entr(row) for row in by_class]))
    return np.moveaxis(np.asarray(found), 1, 0)


def gaussian(mean, label, variance):
    point, own = entropies(mean, label, variance)
    n, p = mean.shape
    count = np.unique(label, return_counts=True)[1]
    hy, inner = entr(count / n), np.sum(count / n * np.log(count))
    hzx = p / 2 * np.log(2 * np.pi * np.e * variance)
    mi, cmi = np.log(n) - point.mean(), inner - (point - own).mean()
    q = (hy, hzx + mi, 0.0, hzx, own.mean(), hzx + cmi, hy, mi, hy - own.mean(), own.mean(), cmi)
    return q, None


def mahalanobis(train_latent, train_label, train_predicted, latent, predicted, shrinkage):
    mean, sd = train_latent.mean(axis=0), train_latent.std(axis=0)
    if (np.ptp(train_latent, axis=0) == 0).any():
        raise Undefined
    train, points = (train_latent - mean) / sd, (latent - mean) / sd
    result = np.empty(len(points))
    for c in np.unique(predicted):
        member = train[(train_label == c) & (train_predicted == c)]
        if len(member) == 0 or (shrinkage == 0 and len(member) <= train.shape[1]):
            raise Undefined
        s = np.cov(member.T, ddof=0).reshape(train.shape[1], -1)
        s = (1 - shrinkage) * s + shrinkage * np.trace(s) / len(s) * np.eye(len(s))
        if np.linalg.cond(s) > 1e8 or len(member) == 1:
            raise Undefined
        away = points[predicted == c] - member.mean(axis=0)
        result[predicted == c] = -np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(s), away))
    return result


def odin(logits, temperature, convention):
    if logits.shape[1] < 2:
        raise Undefined
    value = softmax(logits, axis=1) if convention == "released" else logits
    return softmax(value / temperature, axis=1).max(axis=1)


def ranked(confidence, correct):
    if correct.all() or not correct.any() or (confidence == confidence[0]).all():
        raise Undefined
    return confidence[correct], confidence[~correct]


def auroc(confidence, correct, convention):
    better, worse = ranked(confidence, correct)
    if convention == "released":
        return 0.01 * sum(np.mean(better > np.quantile(worse, x / 100)) for x in range(101))
    return np.mean((better[:, None] > worse) + 0.5 * (better[:, None] == worse))


def aupr(confidence, correct, positive):
    ranked(confidence, correct)
    score, hit = (confidence, correct) if positive == "success" else (-confidence, ~correct)
    total, before = 0.0, 0.0
    for t in np.unique(score)[::-1]:
        recall = (hit & (score >= t)).sum() / hit.sum()
        total += (recall - before) * np.mean(hit[score >= t])
        before = recall
    return total


def fpr(confidence, correct, at_tpr):
    better, worse = ranked(confidence, correct)
    t = max(t for t in better if np.mean(better >= t) >= at_tpr)
    return np.mean(worse >= t)


def curve(confidence, correct):
    ranked(confidence, correct)
    order = np.argsort(-confidence, kind="stable")
    share = {s: np.mean(~correct[confidence == s]) for s in np.unique(confidence)}
    wrong = np.array([share[s] for s in confidence[order]])
    k = np.arange(1, len(order) + 1)
    return k / len(k), np.cumsum(wrong) / k


def area(confidence, correct):
    risk = curve(confidence, correct)[1].mean()
    n, m = len(correct), int((~correct).sum())
    best = sum((k - n + m) / k for k in range(n - m + 1, n + 1)) / n
    return risk, max(0.0, risk - best)


def ece(probability, label, bins, norm):
    c = probability.shape[1]
    if c < 2 or label.min() < 0 or label.max() >= c:
        raise Undefined
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    index = np.clip(np.ceil(confidence * bins - 1e-12).astype(int) - 1, 0, bins - 1)
    return binned_error(right - confidence, index, norm)


def binned_error(gap, index, norm):
    each = np.array([abs(gap[index == b].mean()) for b in np.unique(index)])
    share = np.array([np.mean(index == b) for b in np.unique(index)])
    return {"max": each.max(), "l1": (share * each).sum(), "l2": np.sqrt((share * each**2).sum())}[norm]


def adaptive_ece(probability, label, bins, norm):
    c, n = probability.shape[1], len(label)
    if c < 2 or label.min() < 0 or label.max() >= c or bins > n:
        raise Undefined
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    order, part = np.argsort(confidence, kind="stable"), np.array_split(np.arange(n), bins)
    return binned_error((right - confidence)[order], np.repeat(np.arange(bins), [len(p) for p in part]), norm)


def classwise_ece(probability, label, bins):
    c = probability.shape[1]
    if c < 2 or label.min() < 0 or label.max() >= c:
        raise Undefined
    index = np.clip(np.ceil(probability * bins - 1e-12).astype(int) - 1, 0, bins - 1)
    errors = [binned_error((label == k) - probability[:, k], index[:, k], "l1") for k in range(c)]
    return np.mean(errors)


def diagram(probability, label, bins):
    c = probability.shape[1]
    if c < 2 or label.min() < 0 or label.max() >= c:
        raise Undefined
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    index = np.clip(np.ceil(confidence * bins - 1e-12).astype(int) - 1, 0, bins - 1)
    inside = [index == b for b in range(bins)]
    return (
        np.array([confidence[i].mean() if i.any() else np.nan for i in inside]),
        np.array([right[i].mean() if i.any() else np.nan for i in inside]),
        np.bincount(index, minlength=bins),
    )


def temperature(logits, label):
    n, c = logits.shape
    if label.min() < 0 or label.max() >= c:
        raise Undefined
    own = logits[np.arange(n), label]
    if np.all(own == logits.max(axis=1)) or own.mean() <= logits.mean():
        raise Undefined

    def slope(inverse):
        return (softmax(logits * inverse, axis=1) * logits).sum(axis=1).mean() - own.mean()

    low, high = 0.0, 1.0
    while slope(high) < 0:
        high *= 2
    return 1 / brentq(slope, low, high, xtol=1e-12 * high, rtol=1e-12)


def gram(latent, label):
    several(label)
    m = means(latent, label) - latent.mean(axis=0)
    g, k = m @ m.T, len(m)
    if np.linalg.norm(g) == 0:
        raise Undefined
    return np.linalg.norm(g / np.linalg.norm(g) - (np.eye(k) - 1 / k) / np.sqrt(k - 1))


def cdnv(latent, label):
    several(label)
    spread(label)
    m, v = (
        means(latent, label),
        [((z - z.mean(axis=0)) ** 2).sum(axis=1).mean() for z in groups(latent, label)],
    )
    pairs = [(i, j) for i in range(len(m)) for j in range(i)]
    return np.mean([(v[i] + v[j]) / (2 * ((m[i] - m[j]) ** 2).sum()) for i, j in pairs])


def told_apart(inside, outside):
    score = np.concatenate([inside, outside])
    right = np.arange(len(score)) < len(inside)
    if len(set(score)) == 1:
        raise Undefined
    return auroc(score, right, "paper"), fpr(score, right, 0.95)


def far_neighbour(train_latent, latent, k, normalise):
    if k > len(train_latent):
        raise Undefined
    if normalise:
        if 0 in np.linalg.norm(latent, axis=1) or 0 in np.linalg.norm(train_latent, axis=1):
            raise Undefined
        latent, train_latent = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (latent, train_latent))
    return -np.sort(cdist(latent, train_latent), axis=1)[:, k - 1]


def gaussian_detection(train_latent, train_label, latent, covariance, relative, shrinkage):
    sd = train_latent.std(axis=0)
    train, z = train_latent / sd, latent / sd
    d = centred(train, train_label)
    width = train.shape[1]

    def squared(points, mean, deviation):
        s = deviation.T @ deviation / len(deviation)
        if shrinkage == 0 and (len(deviation) <= width or np.linalg.cond(s) > 1e12):
            raise Undefined
        s = (1 - shrinkage) * s + shrinkage * np.trace(s) / width * np.eye(width)
        if np.trace(s) == 0:
            raise Undefined
        return ((points - mean) @ np.linalg.inv(s) * (points - mean)).sum(axis=1)

    each = [
        squared(z, train[train_label == c].mean(axis=0), d if covariance == "tied" else d[train_label == c])
        for c in np.unique(train_label)
    ]
    mean = train.mean(axis=0)
    return -(np.min(each, axis=0) - (squared(z, mean, train - mean) if relative else 0))


WEIGHT = np.random.default_rng(5).standard_normal((3, math.prod(IMAGE)))


def layers(image=None):
    """Return the network as a chain of layers, on the device of the images."""
    parts = torch.from_numpy(WEIGHT), torch.zeros(3, dtype=torch.float64)
    weight, bias = (part.to(image.device) if isinstance(image, torch.Tensor) else part for part in parts)
    return affine_layers.AffineLayers((weight,), (bias,), ())


def network(image):
    return image.flatten(1) @ torch.from_numpy(WEIGHT).to(image.device, image.dtype).T


def logits(image):
    return image.reshape(len(image), -1) @ WEIGHT.T


def boundary(image, label=None):
    """Return margin, slope and distance to each other class, of the decision or the label."""
    value = logits(image)
    own = value.argmax(axis=1) if label is None else label
    gap = value[np.arange(len(value)), own][:, None] - value
    slope = np.linalg.norm(WEIGHT[own][:, None] - WEIGHT, axis=2)
    others = np.arange(3) != own[:, None]
    return np.where(others, gap, np.inf), np.where(others, slope, np.nan), others


def nearest(image):
    gap, slope, others = boundary(image)
    return np.where(others, gap / np.where(others, slope, 1.0), np.inf).min(axis=1)


def margin_gradient(image, label=None):
    if label is not None and (label.min() < 0 or label.max() >= 3):
        raise Undefined
    gap, slope, _ = boundary(image, label)
    other = gap.argmin(axis=1)
    return gap.min(axis=1), slope[np.arange(len(image)), other]


def lipschitz_of(image):
    margin, norm = margin_gradient(image)
    return len(image), norm.mean(), norm.max(), 0, (margin / norm).mean()


def relative(perturbation, image):
    norm = np.linalg.norm(image.reshape(len(image), -1), axis=1)
    if perturbation.shape != image.shape or (norm == 0).any():
        raise Undefined
    return np.linalg.norm(perturbation.reshape(len(image), -1), axis=1) / norm


def length(found):
    return torch.linalg.vector_norm(torch.as_tensor(found).flatten(1).double(), dim=1)


def positive_variance(variance):
    if not (variance > 0).all():
        raise Undefined
    return np.sum(0.5 * np.log(2 * np.pi * np.e * variance))


def log_variance(latent):
    if len(latent) < 2:
        raise Undefined
    return positive_variance(latent.var(axis=0, ddof=1))


def class_log_variance(latent, label):
    if min(np.unique(label, return_counts=True)[1]) < 2:
        raise Undefined
    return sum(len(part) / len(latent) * log_variance(part) for part in groups(latent, label))


def batch_log_variance(latent, label, classes):
    if label.min() < 0 or label.max() >= classes:
        raise Undefined
    kept = np.isin(label, [c for c in np.unique(label) if (label == c).sum() > 1])
    return class_log_variance(latent[kept], label[kept]) if kept.any() else 0.0


def gamma(epoch, initial, factor, maximum, late=None):
    value = initial
    for _ in range(epoch):
        value *= late[0] if late and value >= late[1] * (1 - 1e-12) else factor
    return min(value, maximum)


def moments_of(latent, label):
    found = class_moments.ClassMoments(classes=CLASSES)
    found.update(latent, label)
    return found.within_class_covariance()


def metric_of(latent, label):
    width = latent.shape[1] if isinstance(latent, torch.Tensor) else 2
    found = neural_collapse_metric.NeuralCollapseMetric(classes=CLASSES, width=width)
    found = found.to(getattr(latent, "device", "cpu"))
    found.update(latent, label)
    value = tuple(found.compute().values())
    if any(bool(number.isnan()) for number in value):
        raise ValueError("latent has no measures: NaN, and a warning")
    return value


def loop_metric_of(metric):
    """Return a call that feeds a metric of a loop and gives its value; NaN with a warning is a refusal."""

    def call(**given):
        first = next(iter(given.values()))
        width = first.shape[1] if isinstance(first, torch.Tensor) and first.ndim == 2 else 2
        made = metric(width).to(getattr(first, "device", "cpu"))
        made.update(*given.values())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = made.compute()
        if bool(value.isnan()):
            raise ValueError(f"{', '.join(given)}: NaN, and a warning")
        return value

    return call


def odin_step(image):
    share = softmax(logits(image) / 1e30, axis=1)  # even: no sign is a matter of rounding
    gradient = (share - np.eye(3)[logits(image).argmax(axis=1)]) @ WEIGHT
    return image - 0.1 * np.sign(gradient).reshape(image.shape)


def gaussians_of(train_latent, train_label, train_predicted, latent, predicted, *, shrinkage):
    return reliability.ClassGaussians(
        train_latent, train_label, train_predicted, shrinkage=shrinkage
    ).confidence(latent, predicted)


def in_range(function):
    def checked(latent, label, **options):
        if label.min() < 0 or label.max() >= CLASSES:
            raise Undefined
        return function(latent, label, **options)

    return checked


def corrupted_of(image, *, kind, strength):
    return corruptions.corrupted(image, kind, strength)


def noise_free(image, kind, strength):
    if image.min() < 0 or image.max() > 1:
        raise Undefined
    if kind == "noise":
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(image.shape, generator=generator)
        return np.clip(image + strength * drawn.numpy(), 0, 1)
    return image * strength + (1 - strength) * image.mean(axis=(1, 2, 3), keepdims=True)


def accuracy_of(image, label, *, chunk):
    return [
        v.accuracy
        for v in corruptions.corrupted_accuracy(
            network, image, label, strengths={"contrast": (1.0,)}, chunk=chunk
        )
    ]


def plain_accuracy(image, label, chunk):
    if image.min() < 0 or image.max() > 1:
        raise Undefined
    return [np.mean(logits(image).argmax(axis=1) == label)]


def attacked(image):
    return attacks.attack("deepfool", network, image, box=None).norm


def smallest_of(image):
    found = attacks.attack("deepfool", network, image, box=None)
    farther = found._replace(perturbation=2 * found.perturbation, norm=2 * found.norm)
    return attacks.smallest({"far": farther, "near": found}).norm


def divergence_of(mean):
    given = isinstance(mean, torch.Tensor)
    return losses.normal_divergence(mean, (1 + mean.square()).sqrt() if given else mean)


def layers_of(image):
    layer = torch.nn.Linear(math.prod(IMAGE), 3, bias=False).double()
    layer.weight.data = torch.from_numpy(WEIGHT)
    network = torch.nn.Sequential(torch.nn.Flatten(), layer).to(getattr(image, "device", "cpu")).eval()
    return affine_layers.affine_layers(network)(image)


def summary_of(perturbation, image):
    count = len(image) if hasattr(image, "__len__") else 1
    kinds = torch.zeros(count, dtype=torch.int64, device=getattr(image, "device", "cpu"))
    result = robustness.DeepFool(perturbation, kinds == 0, kinds, kinds)
    return robustness.perturbation_summary(result, image)


def plain_summary(perturbation, image):
    ratio = relative(perturbation, image)
    return len(ratio), len(ratio), 0, 0, 0, ratio.mean(), np.median(ratio), ratio.mean(), np.median(ratio)


def seeded(draw):
    return torch.Generator().manual_seed(0)


FIXED = np.random.default_rng(6).random((5, *IMAGE))


def stepped():
    rule = {"overshoot": 0.02, "max_iter": 50, "candidates": 10, "step_floor": 0.0, "chunk": 2}
    return robustness.steps(network, torch.from_numpy(FIXED), **rule)


LATENT, LABELLED = {"latent": "points"}, {"latent": "points", "label": "label"}
AMONG = {"points": "points", "label": "label", "among": "train", "among_label": "train_label"}
SPLIT = {"train_latent": "train", "train_label": "train_label", "latent": "points", "label": "label"}
JUDGED = {
    "train_latent": "train",
    "train_label": "train_label",
    "train_predicted": "train_label",
    "latent": "points",
    "predicted": "label",
}
RANKED = {"confidence": "scores", "correct": "flag"}
FEW = lambda draw: min(2, draw.points - 1) or 1  # noqa: E731
CONVENTION = {"convention": lambda draw: draw.one("paper", "released")}
NORM = {"k": FEW, "norm": lambda draw: draw.one("l2", "linf")}
METHODS = lambda draw: draw.one(None, "candidates", "pairs")  # noqa: E731
WRONG_K = {"k": (*COUNTS, 10_000)}
PICTURES = {"image": "pixels"}


def ours(reference, *names):
    """Return the reference without some of its options: they are the same to it."""
    return lambda **given: reference(**{name: value for name, value in given.items() if name not in names})


REFERENCES: dict[Any, Case] = {
    collapse.within_class_covariance: Case(
        LABELLED, covariance, options=CONVENTION, wrong={"convention": NAMES}
    ),
    collapse.mean_entry: Case({"covariance": "points"}, square),
    collapse.within_between_traces: Case(LABELLED, traces),
    collapse.norm_coefficient_of_variation: Case(LATENT, variation),
    collapse.rescale_to_unit_rms: Case(LATENT, lambda latent: latent / np.sqrt((latent**2).mean())),
    collapse.nearest_mean_accuracy: Case(SPLIT, nearest_mean),
    class_margins.distance_margin: Case(SPLIT, margins),
    class_margins.summary: Case({"margin": "scores"}, summary),
    ceilings.boundary_ceiling: Case(AMONG, ceilings_of, smooth=True),
    ceilings.mean_ceiling: Case({"points": "points", "label": "label"}, best_assignment, smooth=True),
    class_moments.ClassMoments: Case(
        LABELLED, in_range(lambda latent, label: covariance(latent, label, "paper")), call=moments_of
    ),
    neural_collapse.neural_collapse: Case(
        LABELLED,
        lambda **given: (*collapse_measures(**given), None, None),
        options=CONVENTION,
        wrong={"convention": NAMES},
    ),
    neural_collapse_metric.NeuralCollapseMetric: Case(
        LABELLED,
        in_range(lambda latent, label: collapse_measures(latent, label, "paper")),
        call=metric_of,
        tensors=True,
        tolerance=1e-5,
    ),
    loop_metrics.CollapseMetric: Case(
        LABELLED,
        in_range(gram),
        call=loop_metric_of(
            lambda width: loop_metrics.CollapseMetric(classes=CLASSES, width=width, measure="gram_distance")
        ),
        tensors=True,
        tolerance=1e-5,
    ),
    loop_metrics.CalibrationMetric: Case(
        {"probability": "probability", "label": "label"},
        lambda probability, label: ece(probability, label, bins=15, norm="l1"),
        call=loop_metric_of(lambda _: loop_metrics.CalibrationMetric(classes=CLASSES)),
        tensors=True,
    ),
    loop_metrics.ErrorDetectionMetric: Case(
        RANKED,
        lambda **given: area(**given)[0],
        call=loop_metric_of(lambda _: loop_metrics.ErrorDetectionMetric(measure="aurc")),
        tensors=True,
    ),
    binarity.hypercube: Case(LABELLED, hypercube),
    binarity.binarity: Case(
        LATENT,
        binary,
        options={"standardise": lambda draw: draw.one(True, False)},
        tolerance=1e-4,
        wrong={"standardise": (None, "no", 1), "reg_covar": (*NUMBERS, -1.0), "convention": NAMES},
        smooth=True,
    ),
    mixture.fit_bimodal: Case(
        LATENT, mixture_checked, tolerance=1e-4, wrong={"reg_covar": (*NUMBERS, -1.0)}, smooth=True
    ),
    information.knn_entropy: Case(
        LATENT, entropy, options=NORM, wrong={**WRONG_K, "norm": NAMES, "floor": (*NUMBERS, -1.0)}
    ),
    information.conditional_knn_entropy: Case(
        LABELLED, class_entropy, options={**NORM, "k": lambda draw: 1}, wrong={**WRONG_K, "norm": NAMES}
    ),
    information.decoder_uncertainty: Case({"p_z_given_x": "probability", "label": "label"}, uncertainty),
    mutual_information.mutual_information: Case(
        {"x": "points", "y": "others"},
        ksg,
        options={"k": FEW},
        wrong={**WRONG_K, "seed": (-1, 1.5, None)},
        smooth=True,
    ),
    mutual_information.mixed_mutual_information: Case(
        {"x": "points", "y": "others"},
        ksg,
        options={"k": FEW},
        wrong={**WRONG_K, "seed": (-1, 1.5, None)},
        smooth=True,
    ),
    mutual_information.discrete_mutual_information: Case(
        LABELLED, ross, options={"k": lambda draw: 1}, wrong={**WRONG_K, "seed": (-1, 1.5, None)}, smooth=True
    ),
    neighbours.check_norm: Case({}, lambda norm: None, options={"norm": NORM["norm"]}, wrong={"norm": NAMES}),
    neighbours.check_k: Case(
        {},
        lambda k, total, what: None,
        options={"k": FEW, "total": lambda draw: 100, "what": lambda draw: "points"},
        wrong={"k": COUNTS},
    ),
    neighbours.method_for: Case(
        {},
        lambda width, norm: "tree" if norm == "linf" or width <= 10 else "products",
        options={"width": lambda draw: draw.one(1, 10, 11, 500), "norm": NORM["norm"]},
        wrong={"norm": NAMES, "width": COUNTS},
    ),
    neighbours.kth_distance: Case(
        {"points": "points"},
        kth,
        options={**NORM, "method": METHODS},
        wrong={**WRONG_K, "norm": NAMES, "method": ("", "PAPER", 3)},
    ),
    neighbours.kth_distances: Case(
        {"points": "points"},
        kth,
        options={**NORM, "method": METHODS},
        wrong={**WRONG_K, "norm": NAMES, "method": ("", "PAPER", 3)},
        call=lambda points, **options: neighbours.kth_distances(points, **options).distance,
    ),
    neighbours.count_within: Case(
        {"points": "points", "radius": "radius"},
        lambda points, radius: (cdist(points, points, "chebyshev") < radius[:, None]).sum(axis=1) - 1,
    ),
    posterior.posterior_entropies: Case(
        {"mean": "points", "label": "label"},
        ours(entropies, "generator"),
        options={"variance": lambda draw: 0.5, "generator": seeded, "draws": lambda draw: draw.one(1, 2)},
        wrong={
            "variance": (*NUMBERS, 0.0),
            "generator": (None, 0),
            "draws": COUNTS,
            "points": (0, 1.5, 10_000),
        },
    ),
    quantities.gaussian_quantities: Case(
        {"mean": "points", "label": "label"},
        ours(gaussian, "generator"),
        options={"variance": lambda draw: 0.5, "generator": seeded},
        wrong={"variance": (*NUMBERS, 0.0), "generator": (None, 0), "draws": COUNTS, "chunk": (0, 1.5, True)},
    ),
    quantities.discrete_quantities: Case({"joint": "joint"}, discrete),
    quantities.categorical_quantities: Case({"p_z_given_x": "probability", "label": "label"}, categorical),
    reliability.mahalanobis_confidence: Case(
        JUDGED,
        mahalanobis,
        options={"shrinkage": lambda draw: draw.one(0.0, 0.3)},
        wrong={"shrinkage": (*NUMBERS, -0.1, 2.0), "convention": NAMES},
    ),
    reliability.ClassGaussians: Case(
        JUDGED,
        mahalanobis,
        options={"shrinkage": lambda draw: draw.one(0.0, 0.3)},
        call=gaussians_of,
        wrong={"shrinkage": (*NUMBERS, -0.1, 2.0)},
    ),
    reliability.odin_confidence: Case(
        {"logits": "points"},
        odin,
        options={**CONVENTION, "temperature": lambda draw: draw.one(1.0, 100.0)},
        wrong={"temperature": (*NUMBERS, 0.0, -1.0), "convention": NAMES},
    ),
    misclassification.misclassification_auroc: Case(
        RANKED, auroc, options=CONVENTION, wrong={"convention": NAMES}
    ),
    misclassification.misclassification_aupr: Case(
        RANKED,
        aupr,
        options={"positive": lambda draw: draw.one("success", "error")},
        wrong={"positive": NAMES},
    ),
    misclassification.misclassification_fpr: Case(
        RANKED,
        fpr,
        options={"at_tpr": lambda draw: draw.one(0.5, 0.95, 1.0)},
        wrong={"at_tpr": (*NUMBERS, 0.0, 1.5)},
    ),
    misclassification.risk_coverage_curve: Case(RANKED, curve),
    misclassification.risk_coverage_area: Case(RANKED, area),
    calibration.expected_calibration_error: Case(
        {"probability": "probability", "label": "label"},
        ece,
        options={"bins": lambda draw: draw.one(1, 7, 15), "norm": lambda draw: draw.one("l1", "l2", "max")},
        wrong={"bins": COUNTS, "norm": NAMES},
    ),
    calibration.adaptive_calibration_error: Case(
        {"probability": "probability", "label": "label"},
        adaptive_ece,
        options={"bins": lambda draw: draw.one(1, 5), "norm": lambda draw: draw.one("l1", "l2", "max")},
        wrong={"bins": COUNTS, "norm": NAMES},
    ),
    calibration.classwise_calibration_error: Case(
        {"probability": "probability", "label": "label"},
        classwise_ece,
        options={"bins": lambda draw: draw.one(1, 7, 15)},
        wrong={"bins": COUNTS},
    ),
    calibration.reliability_diagram: Case(
        {"probability": "probability", "label": "label"},
        diagram,
        options={"bins": lambda draw: draw.one(1, 7, 15)},
        wrong={"bins": COUNTS},
    ),
    calibration.fit_temperature: Case({"logits": "points", "label": "label"}, temperature, smooth=True),
    class_geometry.gram_distance: Case(LABELLED, gram),
    class_geometry.class_distance_variance: Case(LABELLED, cdnv),
    detection.detection: Case({"inside": "scores", "outside": "scores"}, told_apart),
    detection.energy_confidence: Case(
        {"logits": "points"},
        lambda logits, temperature: temperature * logsumexp(logits / temperature, axis=1),
        options={"temperature": lambda draw: draw.one(1.0, 10.0)},
        wrong={"temperature": (*NUMBERS, 0.0, -1.0)},
    ),
    detection.maximum_logit: Case({"logits": "points"}, lambda logits: logits.max(axis=1)),
    detection.neighbour_confidence: Case(
        {"train_latent": "train", "latent": "points"},
        far_neighbour,
        options={"k": lambda draw: draw.one(1, 5), "normalise": lambda draw: draw.one(True, False)},
        wrong={"k": COUNTS, "normalise": (None, "no", 1)},
    ),
    detection.mahalanobis_detection: Case(
        {"train_latent": "train", "train_label": "train_label", "latent": "points"},
        gaussian_detection,
        call=lambda *a, **o: detection.mahalanobis_detection(*a, **o).confidence,
        options={
            "covariance": lambda draw: draw.one("tied", "class"),
            "relative": lambda draw: draw.one(True, False),
            "shrinkage": lambda draw: draw.one(0.0, 0.1),
        },
        wrong={"covariance": NAMES, "relative": (None, "no", 1), "shrinkage": (*NUMBERS, -0.1, 1.5)},
        smooth=True,
    ),
    robustness.deepfool: Case(
        PICTURES,
        lambda image: 1.02 * nearest(image),
        tensors=True,
        tolerance=1e-3,
        call=lambda image: length(robustness.deepfool(network, image).perturbation),
    ),
    robustness.steps: Case(  # of what deepfool has checked
        {}, lambda: 1.02 * nearest(FIXED), call=lambda: length(stepped().perturbation), tolerance=1e-3
    ),
    robustness.relative_perturbation: Case({"perturbation": "pixels", "image": "pictures"}, relative),
    robustness.perturbation_summary: Case(
        {"perturbation": "pixels", "image": "pictures"}, plain_summary, call=summary_of
    ),
    lipschitz.margin_gradient: Case(
        PICTURES,
        margin_gradient,
        tensors=True,
        tolerance=1e-4,
        call=lambda image: tuple(lipschitz.margin_gradient(network, image)),
    ),
    lipschitz.margin_gradient_norm: Case(
        PICTURES,
        lambda image: margin_gradient(image)[1],
        tensors=True,
        tolerance=1e-4,
        call=lambda image: lipschitz.margin_gradient_norm(network, image),
    ),
    lipschitz.lipschitz_estimate: Case(
        PICTURES,
        lipschitz_of,
        tensors=True,
        tolerance=1e-4,
        call=lambda image: lipschitz.lipschitz_estimate(network, image),
    ),
    odin_input: Case(
        PICTURES,
        odin_step,
        tensors=True,
        exact=True,
        call=lambda image: odin_input(network, image, step=0.1, temperature=1e30),
    ),
    certified.silu_lipschitz: Case({}, lambda: 1.0998393194450978, tolerance=1e-9),
    certified.lipschitz_bound: Case(
        {}, lambda: np.linalg.norm(WEIGHT, 2), call=lambda: certified.lipschitz_bound(layers())
    ),
    certified.certified_radius: Case(
        PICTURES,
        lambda image, method: nearest(image),
        tensors=True,
        tolerance=1e-4,
        options={"method": lambda draw: "spectral"},
        wrong={"method": NAMES},
        call=lambda image, method: certified.certified_radius(layers(image), image, method=method),
    ),
    certified.differences: Case(
        PICTURES,
        lambda image: np.sort(boundary(image)[0], axis=1)[:, :2],
        tensors=True,
        tolerance=1e-4,
        call=lambda image: certified.differences(layers(image), image)[2].sort(dim=1).values,
    ),
    certified.gradient_radius: Case(
        PICTURES,
        nearest,
        tensors=True,
        tolerance=1e-4,
        call=lambda image: certified.gradient_radius(layers(image), image),
    ),
    certified.sampled_radius: Case(
        PICTURES,
        nearest,
        tensors=True,
        tolerance=1e-4,
        call=lambda image: certified.sampled_radius(
            layers(image), image, reach=1e-9, samples=2, generator=torch.Generator().manual_seed(0)
        ),
    ),
    affine_layers.affine_layers: Case(PICTURES, logits, call=layers_of, tensors=True),
    affine_layers.AffineLayers: Case(PICTURES, logits, call=lambda image: layers(image)(image), tensors=True),
    corruptions.corrupted: Case(
        PICTURES,
        noise_free,
        call=corrupted_of,
        tensors=True,
        tolerance=1e-4,
        options={"kind": lambda draw: "contrast", "strength": lambda draw: draw.one(0.5, 1.0)},
        wrong={"strength": (*NUMBERS, -1.0), "kind": NAMES},
    ),
    corruptions.corrupted_accuracy: Case(
        {**PICTURES, "label": "label"},
        plain_accuracy,
        call=accuracy_of,
        tensors=True,
        options={"chunk": lambda draw: draw.one(1, 1000)},
        wrong={"chunk": COUNTS},
    ),
    attacks.attack: Case(
        PICTURES, lambda image: 1.02 * nearest(image), call=attacked, tensors=True, tolerance=1e-3
    ),
    attacks.smallest: Case(
        PICTURES, lambda image: 1.02 * nearest(image), call=smallest_of, tensors=True, tolerance=1e-3
    ),
    losses.squared_norm: Case(
        LATENT,
        lambda latent, reduction: (
            (latent**2).sum(axis=1).mean() / (latent.shape[1] if reduction == "mean" else 1)
        ),
        options={"reduction": lambda draw: draw.one("sum", "mean")},
        wrong={"reduction": NAMES},
        tensors=True,
    ),
    losses.absolute_norm: Case(
        LATENT,
        lambda latent, reduction: (
            np.abs(latent).sum(axis=1).mean() / (latent.shape[1] if reduction == "mean" else 1)
        ),
        options={"reduction": lambda draw: draw.one("sum", "mean")},
        wrong={"reduction": NAMES},
        tensors=True,
    ),
    losses.norm_power: Case(
        LATENT,
        lambda latent, power: ((latent**2).sum(axis=1) ** (power / 2)).mean(),
        options={"power": lambda draw: draw.one(1.0, 2, 3.0)},
        wrong={"power": (*NUMBERS, 0.5, 0)},
        tensors=True,
    ),
    losses.normal_divergence: Case(
        {"mean": "points"},
        lambda mean: (mean**2 + (1 + mean**2) - 1 - np.log1p(mean**2)).sum(axis=1).mean() / 2,
        call=divergence_of,
        tensors=True,
        tolerance=1e-4,
    ),
    losses.log_variance: Case(LATENT, log_variance, tensors=True, tolerance=1e-4),
    losses.conditional_log_variance: Case(LABELLED, class_log_variance, tensors=True, tolerance=1e-3),
    losses.batch_conditional_log_variance: Case(
        LABELLED,
        batch_log_variance,
        options={"classes": lambda draw: CLASSES},
        wrong={"classes": COUNTS},
        tensors=True,
        tolerance=1e-3,
        smooth=True,
    ),
    gammas.geometric_gamma: Case(
        {},
        gamma,
        options={
            "epoch": lambda draw: draw.one(0, 3, 40),
            "initial": lambda draw: 0.5,
            "factor": lambda draw: draw.one(1.0, 1.5),
            "maximum": lambda draw: 100.0,
        },
        wrong={
            "epoch": (-1, 1.5, None, "3", True),
            "initial": (*NUMBERS, 0.0),
            "factor": (*NUMBERS, 0.5),
            "maximum": (*NUMBERS, 0.0),
            "overshoot": (None, "yes"),
        },
    ),
    gammas.two_regime_gamma: Case(
        {},
        lambda epoch, late_factor, late_from, **rule: gamma(epoch, **rule, late=(late_factor, late_from)),
        options={
            "epoch": lambda draw: draw.one(0, 3, 40),
            "initial": lambda draw: 0.5,
            "factor": lambda draw: 2.0,
            "maximum": lambda draw: 100.0,
            "late_factor": lambda draw: 1.1,
            "late_from": lambda draw: 4.0,
        },
        wrong={"epoch": (-1, 1.5, None), "late_factor": (*NUMBERS, 0.5), "late_from": (*NUMBERS, 0.0)},
    ),
    losses.zero_entropy_noise: Case(
        {},
        ours(
            lambda shape: torch.randn(shape, generator=seeded(None)).numpy() / np.sqrt(2 * np.pi * np.e),
            "generator",
        ),
        options={"shape": lambda draw: draw.one((3,), (2, 4)), "generator": seeded},
        wrong={"shape": (3, (1.5,), (-1,), None), "generator": (None, 0)},
        tolerance=1e-5,
    ),
}
del log_softmax
