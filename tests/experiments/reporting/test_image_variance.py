"""How other test images would change a claim's value: statistics of resampled images, pairing, bounds."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from experiments.reporting import image_statistics as statistics
from experiments.reporting.declarations import Claim, read
from experiments.reporting.image_variance import BOUND, LEFT_OUT, PAIRED, Images, of_claim
from experiments.reporting.significance import hanley_mcneil
from experiments.studies.probing import PROBES

IMAGES = 400


def claim(**changes) -> Claim:
    fields: dict[str, Any] = {
        **dict.fromkeys(("id", "where", "dataset", "statement", "paper", "chapter"), ""),
        "profile": "laptop",
        "quantity": "ratio",
        "metric": "attacks_box_smallest_median",
        "of": ("IB",),
        "over": ("NoPen",),
        "holds": (1.0, math.inf),
    }
    return Claim(**{**fields, **changes})


def runs(seeds=1, **columns):
    rows = [{"architecture": name, "seed": seed} for name in ("IB", "NoPen") for seed in range(seeds)]
    return pd.DataFrame(rows).assign(**columns)


def table(**columns):
    """Return one seed of two networks; columns are pairs of IB's and NoPen's values."""
    sides = [
        pd.DataFrame({"architecture": name, "seed": 0, **{c: v[place] for c, v in columns.items()}})
        for place, name in enumerate(("IB", "NoPen"))
    ]
    return pd.concat([side.assign(image=np.arange(len(side))) for side in sides])


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_counts_as_weights_are_images_that_stand_several_times(generator):
    value = np.where(generator.random(60) < 0.2, np.nan, generator.normal(size=60))
    value[5] = math.inf
    other, right = generator.random(60) + 1, generator.random(60) < 0.7
    rows = pd.DataFrame({"value": value, "other": other, "right": right, "tied": (10 * other).round()})
    counts = generator.multinomial(60, np.full(60, 1 / 60), size=20)
    found = {
        "median": statistics.median("value")(counts, rows),
        "of a ratio": statistics.median("value", over="other")(counts, rows),
        "mean": statistics.mean("other", where="right")(counts, rows),
        "auroc": statistics.auroc("tied")(counts, rows),
    }
    for draw, count in enumerate(counts):
        many = rows.loc[rows.index.repeat(count)]
        rank = rankdata(many["tied"])
        n, m = int(many["right"].sum()), int((~many["right"]).sum())
        expected = {
            "median": many["value"].median(),
            "of a ratio": (many["value"] / many["other"]).median(),
            "mean": many.loc[many["right"], "other"].mean(),
            "auroc": (rank[many["right"]].sum() - n * (n + 1) / 2) / (n * m),
        }
        for name, number in expected.items():
            assert found[name][draw] == pytest.approx(number), name


def test_what_a_probe_could_not_compute_is_left_out_and_no_error():
    rows = pd.DataFrame({"right": [True, False], "odin": [math.nan, 1.0], "empty": [math.nan] * 2})
    counts = np.ones((3, 2), dtype=int)
    for one in (statistics.mean("no"), statistics.median("no"), statistics.auroc("no")):
        assert np.isnan(one(counts, rows)).all()
    assert np.isnan(statistics.median("empty")(counts, rows)).all()
    assert np.isnan(statistics.auroc("odin")(counts, rows)).all()
    wanted = claim(quantity="difference", metric="test_accuracy")
    lacking = {"images": table(odin=(np.ones(3), np.ones(3)))}
    found = of_claim(wanted, runs(test_accuracy=[0.9, 0.8]), lacking, total=10)
    assert found.how == BOUND


def test_a_ratio_is_paired_by_image(generator):
    """Log-normal distances: the median's log has the variance pi / 2 sigma^2 / N; what is shared cancels."""
    sigma, shared = 0.5, generator.normal(size=IMAGES)
    noisy = np.exp(shared + 0.3 + generator.normal(scale=sigma, size=IMAGES))
    attacks = table(box_smallest=(noisy, np.exp(shared)))
    found = of_claim(claim(), runs(), {"attacks": attacks}, total=IMAGES)
    assert found.how == PAIRED and found.variance is not None and found.variance[1] == IMAGES
    unpaired = math.pi / 2 * (1 + 1 + sigma**2) / IMAGES
    assert 0 < found.variance[0] < 0.6 * unpaired
    same = {"attacks": table(box_smallest=(2 * np.exp(shared), np.exp(shared)))}
    flat = of_claim(claim(), runs(), same, total=IMAGES)
    assert flat.variance is not None and flat.variance[0] < 1e-25
    assert of_claim(claim(over=("LinPen",)), runs(), {"attacks": attacks}, total=IMAGES) == Images(LEFT_OUT)
    assert of_claim(claim(metric="trace_ratio"), runs(), {"attacks": attacks}, total=IMAGES) == Images("")


def test_a_difference_of_accuracies_varies_as_mcnemars(generator):
    """For paired shares: (b + c - (b - c)^2) / N, with b and c the shares that only one of the two gets."""
    ours, theirs = generator.random(IMAGES) < 0.9, generator.random(IMAGES) < 0.8
    ours[:200], theirs[:200] = True, True
    wanted = claim(quantity="difference", metric="test_accuracy")
    right = {"images": table(right=(ours, theirs))}
    b, c = float((ours & ~theirs).mean()), float((theirs & ~ours).mean())
    known = (b + c - (b - c) ** 2) / IMAGES
    found = of_claim(wanted, runs(), right, total=IMAGES, draws=4000)
    assert found.how == PAIRED and found.variance is not None
    assert found.variance[0] == pytest.approx(known, rel=0.15)
    lead = claim(quantity="lead", metric="test_accuracy", over=("NoPen",))
    assert of_claim(lead, runs(), right, total=IMAGES, draws=4000) == found


def test_without_single_images_shares_and_aurocs_have_a_bound():
    accuracy = [0.9, 0.9, 0.8, 0.8]
    selected = runs(2, test_accuracy=accuracy, test_auroc_odin=[0.7, 0.7, 0.75, 0.75])
    wanted = claim(quantity="difference", metric="test_accuracy")
    found = of_claim(wanted, selected, {}, total=1000)
    assert found.how == BOUND and found.variance is not None
    assert found.variance == (pytest.approx((0.9 * 0.1 + 0.8 * 0.2) / 1000), 1000)
    one = of_claim(claim(quantity="value", metric="test_accuracy", over=()), selected, {}, total=1000)
    assert one.variance is not None and one.variance[0] == pytest.approx(0.9 * 0.1 / 1000)
    auroc = of_claim(claim(quantity="lead", metric="test_auroc_odin"), selected, {}, total=1000)
    known = hanley_mcneil(0.7, 900, 100) ** 2 + hanley_mcneil(0.75, 800, 200) ** 2
    assert auroc.variance is not None and auroc.variance[0] == pytest.approx(known)
    for left in (claim(metric="test_deepfool_median"), claim(metric="test_accuracy", quantity="welch")):
        assert of_claim(left, selected, {}, total=1000) == Images(LEFT_OUT)
    assert of_claim(wanted, selected, {}, total=None) == Images(LEFT_OUT)


def test_every_claim_on_our_test_images_says_how_they_enter():
    """The negative control: claims about the training set do not depend on test images."""
    about = {one.metric for one in read() if statistics.about_images(one.metric)}
    assert {"test_accuracy", "attacks_box_smallest_median", "certified_crown_median"} <= about
    assert not {"trace_ratio", "nc1", "cube_spread", "certified_lipschitz", "accuracy"} & about
    for metric in about:
        kind = statistics.of_images(metric)
        assert kind is None or kind.probe in PROBES
