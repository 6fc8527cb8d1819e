"""Each value of a report equals the pure function's; misleading ones are flagged, missing ones say why."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy.special import softmax

import lpc
from lpc.evaluation.binarity import binarity, hypercube
from lpc.evaluation.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
)
from lpc.evaluation.class_geometry import class_distance_variance, gram_distance
from lpc.evaluation.collapse import (
    nearest_mean_accuracy,
    norm_coefficient_of_variation,
    rescale_to_unit_rms,
    within_between_traces,
)
from lpc.evaluation.detection import (
    detection,
    energy_confidence,
    mahalanobis_detection,
    maximum_logit,
    neighbour_confidence,
)
from lpc.evaluation.information import conditional_knn_entropy, knn_entropy
from lpc.evaluation.misclassification import (
    misclassification_aupr,
    misclassification_auroc,
    misclassification_fpr,
    risk_coverage_area,
)
from lpc.evaluation.mutual_information import discrete_mutual_information
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.evaluation.quantities import gaussian_quantities
from lpc.evaluation.reliability import mahalanobis_confidence
from lpc.latents import Collected
from lpc.reporting import _information
from lpc.reporting._information import mixture_bias
from lpc.reporting.agreement import disagreement
from lpc.reporting.report import Report

CLASSES, WIDTH = 4, 5
RNG = np.random.default_rng(1)
MEAN = RNG.standard_normal((CLASSES, WIDTH))
LABEL, TEST_LABEL = np.arange(200) % CLASSES, np.arange(120) % CLASSES
TRAIN = MEAN[LABEL] + 0.3 * RNG.standard_normal((200, WIDTH))
TEST = MEAN[TEST_LABEL] + 0.6 * RNG.standard_normal((120, WIDTH))
AWAY = 1.5 * RNG.standard_normal((80, WIDTH))
BIAS = -(MEAN**2).sum(axis=1) / 2
LAYER = Collected(torch.ones(2, 2), torch.ones(2, 2), torch.arange(2), "fc")
LOGITS, TEST_LOGITS, AWAY_LOGITS = (z @ MEAN.T + BIAS for z in (TRAIN, TEST, AWAY))


@pytest.fixture(scope="module")
def whole() -> Report:
    state = torch.get_rng_state()
    found = lpc.report(TRAIN, LABEL, classifier=(MEAN, BIAS), test=(TEST, TEST_LABEL), outside=AWAY)
    assert torch.equal(state, torch.get_rng_state())
    return found


def expected():
    """Return every value of the report by key and set, by the library's functions as a user calls them."""
    found = {}
    readout = {"classifier_weight": MEAN, "classifier_bias": BIAS}
    for name, z, y, scores in (("train", TRAIN, LABEL, LOGITS), ("test", TEST, TEST_LABEL, TEST_LOGITS)):
        traces, nc = within_between_traces(z, y), neural_collapse(z, y, **readout)
        found |= {
            ("accuracy", name): np.mean(scores.argmax(axis=1) == y),
            ("nearest_mean_accuracy", name): nearest_mean_accuracy(TRAIN, LABEL, z, y),
            ("trace_within", name): traces.within,
            ("trace_ratio", name): traces.ratio,
            ("norm_variation", name): norm_coefficient_of_variation(z),
            ("gram_distance", name): gram_distance(z, y),
            ("cdnv", name): class_distance_variance(z, y),
        }
        measures = ("nc1_per_rank", "equinorm", "equiangularity", "max_angle", "nc3", "nc4")
        found |= {(key, name): getattr(nc, key) for key in measures}
    fit, cube, unit = binarity(TRAIN, standardise=True), hypercube(TRAIN, LABEL), rescale_to_unit_rms(TRAIN)
    generator = torch.Generator().manual_seed(0)
    noisy = gaussian_quantities(unit, LABEL, variance=0.01, draws=2, generator=generator).quantities
    found |= {
        ("binarity_mu", "train"): fit.mu,
        ("binarity_degenerate", "train"): fit.degenerate,
        ("cube_variation", "train"): cube.mean_variation,
        ("cube_patterns", "train"): cube.patterns,
        ("dead_nodes", "train"): cube.dead,
        ("knn_entropy", "train"): knn_entropy(unit, k=2),  # 2 % of 50 is 1, and 2 the least
        ("conditional_knn_entropy", "train"): conditional_knn_entropy(unit, LABEL, k=2),
        ("label_information", "train"): discrete_mutual_information(unit, LABEL, k=2),
        ("noisy_preserved_relevant_information", "train"): noisy.preserved_relevant_information,
        ("noisy_preserved_information", "train"): noisy.preserved_information,
    }
    share, right = softmax(TEST_LOGITS, axis=1), TEST_LOGITS.argmax(axis=1) == TEST_LABEL
    found |= {
        ("calibration_error", "test"): expected_calibration_error(share, TEST_LABEL),
        ("calibration_error_l2", "test"): expected_calibration_error(share, TEST_LABEL, norm="l2"),
        ("adaptive_calibration_error", "test"): adaptive_calibration_error(share, TEST_LABEL),
        ("classwise_calibration_error", "test"): classwise_calibration_error(share, TEST_LABEL),
        ("temperature", "test"): fit_temperature(TEST_LOGITS, TEST_LABEL),
    }
    confidences = {
        "probability": share.max(axis=1),
        "mahalanobis": mahalanobis_confidence(
            TRAIN, LABEL, LOGITS.argmax(axis=1), TEST, TEST_LOGITS.argmax(axis=1), shrinkage=0.1
        ),
    }
    for name, confidence in confidences.items():
        found |= {
            (f"auroc_{name}", "test"): misclassification_auroc(confidence, right),
            (f"fpr95_{name}", "test"): misclassification_fpr(confidence, right),
            (f"aupr_error_{name}", "test"): misclassification_aupr(confidence, right, positive="error"),
            (f"aurc_{name}", "test"): risk_coverage_area(confidence, right).aurc,
        }
    options = {"shrinkage": 0.1}
    scores = {
        "probability": [softmax(logits, axis=1).max(axis=1) for logits in (TEST_LOGITS, AWAY_LOGITS)],
        "maximum_logit": [maximum_logit(logits) for logits in (TEST_LOGITS, AWAY_LOGITS)],
        "energy": [energy_confidence(logits) for logits in (TEST_LOGITS, AWAY_LOGITS)],
        "neighbours": [neighbour_confidence(TRAIN, z, k=50) for z in (TEST, AWAY)],
    }
    kinds = {"": {}, "_class": {"covariance": "class"}, "_relative": {"relative": True}}
    for kind, more in kinds.items():
        both = [mahalanobis_detection(TRAIN, LABEL, z, **options, **more).confidence for z in (TEST, AWAY)]
        scores[f"mahalanobis{kind}"] = both
    for name, both in scores.items():
        pair = detection(*both)
        found |= {(f"ood_auroc_{name}", "outside"): pair.auroc, (f"ood_fpr95_{name}", "outside"): pair.fpr95}
    return found


def test_every_value_is_the_functions_own(whole):
    values = {(one.key, one.data): one.value for one in whole.entries}
    oracle = expected()
    assert set(values) == set(oracle)
    for key, value in oracle.items():
        assert values[key] == pytest.approx(value, rel=1e-9, abs=1e-12), key


def test_references_are_what_they_say(whole):
    by = {(one.key, one.data): one.references for one in whole.entries}
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).numpy()
    shuffled = within_between_traces(TRAIN, LABEL[order]).ratio
    assert by["trace_ratio", "train"]["shuffled labels"] == pytest.approx(shuffled)
    assert shuffled > 20 * whole["trace_ratio"]
    information = by["label_information", "train"]
    assert information["H[Y]"] == pytest.approx(math.log(4)) == information["ln K"]
    assert abs(information["shuffled labels"]) < 0.1 < 1 < whole["label_information"]
    assert by["knn_entropy", "train"]["k = 4"] == pytest.approx(knn_entropy(rescale_to_unit_rms(TRAIN), k=4))
    assert by["nc1_per_rank", "train"]["tight random classes"] < 1e-3
    assert {"book: IB", "book: NoPen"} <= set(by["nc1_per_rank", "train"])
    assert by["trace_ratio", "train"]["book: IB"] < by["trace_ratio", "train"]["book: NoPen"]


def test_the_bias_is_that_of_the_estimator_on_a_mixture_of_known_density():
    rng = np.random.default_rng(0)
    label = torch.arange(2000) % 4
    for apart in (0.0, 1.0, 30.0):
        narrow = apart * torch.eye(4, 2, dtype=torch.float64)[label] + torch.from_numpy(
            rng.standard_normal((2000, 2)) @ np.array([[1.0, 0.3], [0, 0.5]])
        )
        assert abs(mixture_bias(narrow, label, 5, 0)) < 0.15  # hardly any in two dimensions
        assert mixture_bias(1e-6 * narrow, label, 5, 0) == pytest.approx(
            mixture_bias(narrow, label, 5, 0), abs=1e-6
        )
    wide = torch.from_numpy(rng.standard_normal((2000, 30)))
    one = torch.zeros(2000, dtype=torch.int64)
    gaussian = knn_entropy(wide, k=5) - 15 * math.log(2 * math.pi * math.e)
    assert mixture_bias(wide, one, 5, 0) == pytest.approx(gaussian, abs=0.3) and gaussian > 1
    with pytest.raises(ValueError, match="singular"):
        mixture_bias(torch.ones(10, 3), torch.arange(10) % 2, 2, 0)


def test_scale_and_kind_of_array_do_not_matter(whole):
    small = lpc.report(torch.from_numpy(1e-6 * TRAIN), torch.from_numpy(LABEL))
    for key in ("trace_ratio", "nc1_per_rank", "binarity_mu", "knn_entropy", "label_information"):
        assert small[key] == pytest.approx(whole[key], rel=1e-5)
    assert small["trace_within"] == pytest.approx(1e-12 * whole["trace_within"])


def test_it_takes_what_is_collected(whole):
    tensors = [torch.from_numpy(value) for value in (TRAIN, LOGITS, LABEL, MEAN, BIAS)]
    z, logits, y, weight, bias = tensors
    found = lpc.report(Collected(z, logits, y, "input of fc", weight, bias))
    assert found["nc3"] == whole["nc3"] and found["accuracy"] == whole["accuracy"]
    linear = torch.nn.Linear(WIDTH, CLASSES).double()
    linear.weight.data, linear.bias.data = weight, bias
    assert lpc.report(TRAIN, LABEL, classifier=linear)["nc4"] == whole["nc4"]


def flagged(*arguments, **options):
    return lpc.report(*arguments, **options).flags


def test_what_misleads_is_flagged_and_a_clean_set_is_not(whole):
    assert whole.flags == []
    lost = flagged(TRAIN, LABEL, classifier=(MEAN, BIAS + 100 * np.eye(CLASSES)[0]))
    assert any("readout lost" in text for text in lost)
    rng = np.random.default_rng(2)
    loose = 1e-3 * (MEAN[LABEL] + 3 * rng.standard_normal(TRAIN.shape))
    assert any("only scale" in text for text in flagged(loose, LABEL))
    assert not any("only scale" in text for text in flagged(1e-3 * MEAN[LABEL] + 1e-5 * TRAIN, LABEL))
    one = LABEL.copy()
    one[0] = 7
    assert any("classes [7] have one point" in text for text in flagged(TRAIN, one))
    tight = MEAN[LABEL] + 1e-3 * rng.standard_normal(TRAIN.shape)
    assert any(
        re.search(r"\d+ times that of the train set", t)
        for t in flagged(tight, LABEL, test=(TEST, TEST_LABEL))
    )
    rectified = np.c_[np.maximum(TRAIN[:, :2], 0), TRAIN[:, 2:]]
    assert any("values of nodes repeat" in text for text in flagged(rectified, LABEL))
    assert any("is not below the smallest class" in text for text in flagged(TRAIN, LABEL, k=60))
    dead = np.c_[TRAIN, 1e-5 * rng.standard_normal(200)]
    assert any("1 nodes carry almost nothing" in text for text in flagged(dead, LABEL))
    assert any("held-out points" in text for text in flagged(TRAIN, LABEL, logits=LOGITS))


LAST = (MEAN, BIAS)


def doubts(latents, labels, **options):
    found = lpc.report(latents, labels, sample=50, **options).flags
    return [text for text in found if "not the classifier's" in text or "readout lost" in text]


def test_logits_that_are_not_the_classifiers_are_named_with_the_largest_difference_and_the_cure():
    logits = LOGITS.copy()
    logits[17, 2] -= 30
    logits[5] += 2
    away = (AWAY, None, -AWAY_LOGITS)
    test = (TEST, TEST_LABEL, TEST_LOGITS)
    said, beside = doubts(TRAIN, LABEL, logits=logits, classifier=LAST, test=test, outside=away)
    assert said.startswith(
        "accuracy of the classifier (train): the logits are not the classifier's for 2 of 200"
    )
    assert f"at point 17, class 2, the logit is {logits[17, 2]:.4g}" in said
    assert f"gives {LOGITS[17, 2]:.4g}, the largest difference (30)" in said
    assert "of one network" in said and "leave out logits or classifier" in said
    assert beside.startswith("AUROC, largest probability (outside): ") and "not the classifier's" in beside
    reversed_ = LOGITS[::-1].copy()
    (said,) = doubts(TRAIN, LABEL, logits=reversed_)
    assert "readout lost" in said, "without the classifier nothing better can be said"
    (said,) = doubts(TRAIN, LABEL, logits=reversed_, classifier=LAST)
    assert "not the classifier's" in said
    with pytest.raises(ValueError, match="logits have 3 columns and the classifier 4 rows"):
        lpc.report(TRAIN, np.minimum(LABEL, 2), logits=LOGITS[:, :3], classifier=LAST)


def test_a_difference_behind_the_first_block_is_found():
    latent, (weight, bias) = torch.from_numpy(TRAIN).repeat(60, 1), map(torch.from_numpy, LAST)
    logits = latent @ weight.T + bias
    assert disagreement(latent, logits, weight, bias) == ""
    logits[-1, 0] += 20
    assert "1 of 12,000 points: at point 11999, class 0" in disagreement(latent, logits, weight, bias)
    assert "(20)" in disagreement(latent, logits, weight, bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-6, 0.0), (1e-3, 5.0)])
def test_rounding_to_half_precision_is_no_disagreement(dtype, scale, offset):
    exact, (weight, bias) = torch.from_numpy(scale * TRAIN + offset), map(torch.from_numpy, LAST)
    latent = exact.to(dtype)
    made = torch.nn.functional.linear(latent, weight.to(dtype), bias.to(dtype))
    for stored, whole in ((latent, exact), (made, exact @ weight.T + bias)):
        assert not torch.equal(stored.double(), whole), "the control: something was rounded"
    assert disagreement(latent.float(), made.float(), weight, bias) == ""
    assert disagreement(exact, made.float(), weight, bias) == ""
    moved = made.double()
    moved[3] += 0.1 * (1 + moved[3].abs().max())
    assert "at point 3" in disagreement(exact, moved, weight, bias)


def test_what_is_missing_says_why(whole):
    found = lpc.report(TRAIN, LABEL)
    why = {one.key: one.missing for one in found.entries if one.value is None}
    assert why["nc3"] == "needs the classifier's weight"
    assert why["accuracy"] == why["calibration_error"] == "needs logits or the classifier"
    said = "missing, all 5 values: needs logits or the classifier"
    assert said in repr(found) and said in str(found.to_html()) and said not in repr(whole)
    with pytest.raises(ValueError, match="nc3 is missing: needs the classifier"):
        found["nc3"]
    with pytest.raises(KeyError, match="Did you mean nc3"):
        found["nc_3"]
    perfect = lpc.report(TRAIN, LABEL, logits=10 * np.eye(CLASSES)[LABEL])
    why = {one.key: one.missing for one in perfect.entries if one.value is None}
    assert "0 wrong" in why["auroc_probability"] and "no temperature" in why["temperature"]
    single = lpc.report(TRAIN, np.zeros(200, dtype=int))
    why = {one.key: one.missing for one in single.entries if one.value is None}
    assert "one class" in why["trace_ratio"]


def test_table_json_csv_and_page_hold_every_value(whole, tmp_path):
    table = whole.to_frame()
    assert len(table) == len(whole.entries) and table["value"].notna().all()
    found = json.loads(whole.to_json())
    assert [one["value"] for one in found["values"]] == [one.value for one in whole.entries]
    whole.to_json(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == found
    assert len(whole.to_csv().splitlines()) == len(whole.entries) + 1
    whole.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert all(f"{one.value:.4g}" in page for one in whole.entries)
    assert "data:image/png;base64," in page and not re.search(r"(src|href)=.https?:", page)
    assert "<script" not in page and "<table>" in whole._repr_html_()
    assert "tr Sw / tr Sb" in repr(whole) and repr(whole).count("\n") > len(whole.entries)
    assert len(whole.plot().axes) == 3
    assert len(lpc.report(TRAIN[:, :1], LABEL).plot().axes) == 2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((TRAIN,), {}, "labels are missing, and a report measures classes"),
        ((TRAIN, LABEL[:-1]), {}, "labels has 199 entries for 200 points"),
        ((TRAIN, LABEL.astype(float)), {}, r"labels has dtype .* pass labels.astype\(int\)"),
        ((TRAIN, np.array(list("abcd"))[LABEL]), {}, r"np.unique\(labels, return_inverse=True\)\[1\]"),
        (
            (TRAIN, np.eye(4)[LABEL]),
            {},
            r"labels has shape \(200, 4\); .* one-hot rows pass labels.argmax\(1\)",
        ),
        ((TRAIN, LABEL[:, None]), {}, r"pass labels\[:, 0\]"),
        ((TRAIN.astype(int), LABEL), {}, r"expected float32 or float64; pass latents.astype\(np.float32\)"),
        ((TRAIN[:, :, None], LABEL), {}, r"pass latents.reshape\(len\(latents\), -1\)"),
        ((torch.nn.ReLU(), LABEL), {}, r"a ReLU, a network: pass lpc.collect_latents"),
        (
            ({"fc": LAYER},),
            {},
            "latents is a dict of layers, and a report takes one",
        ),
        ((TRAIN[0], LABEL), {}, r"latents has shape \(5,\); expected 2 dimensions"),
        (
            (np.where(np.arange(5) == 2, np.nan, TRAIN), LABEL),
            {},
            r"latents holds 200 NaN .* index \(0, 2\); whole rows",
        ),
        ((TRAIN, LABEL), {"logits": LOGITS[:9]}, "logits have 9 rows for 200 points"),
        (
            (TRAIN, LABEL),
            {"logits": LOGITS[:, :2]},
            "labels go from 0 to 3; logits have classes 0 to 1: expected one column per class",
        ),
        ((TRAIN, LABEL + 1), {"logits": LOGITS}, "go from 1 to 4; .* number them from 0: subtract 1"),
        ((TRAIN, LABEL), {"classifier": MEAN[:3]}, "go from 0 to 3; the classifier has classes 0 to 2"),
        ((TRAIN, LABEL), {"classifier": (MEAN, BIAS[:2])}, "bias has 2 entries and its weight 4 rows"),
        ((TRAIN, LABEL), {"classifier": MEAN.T}, "pass its transpose"),
        ((TRAIN, LABEL), {"classifier": MEAN[:, :3]}, "weight has width 3; latents have width 5"),
        ((TRAIN, LABEL), {"classifier": torch.nn.ReLU()}, "classifier is a ReLU; expected a linear layer"),
        ((TRAIN, LABEL), {"test": (TEST[:, :3], TEST_LABEL)}, "latents of test have width 3"),
        ((TRAIN, LABEL), {"test": (TEST,)}, "test is a tuple of 1; expected latents, labels"),
        ((TRAIN, LABEL), {"sample": 1}, "sample is 1"),
        ((TRAIN, LABEL), {"k": 0}, "k is 0"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        lpc.report(*arguments, **options)


def test_a_sample_is_said_and_drawn_by_the_seed():
    some = lpc.report(TRAIN, LABEL, sample=100)
    how = {one.key: one.how for one in some.entries}
    assert "100 of 200 points" in how["knn_entropy"] and "100 of 200 points" in how["binarity_mu"]
    assert some["knn_entropy"] == lpc.report(TRAIN, LABEL, sample=100)["knn_entropy"]
    assert some["knn_entropy"] != lpc.report(TRAIN, LABEL, sample=100, seed=1)["knn_entropy"]


def test_wide_latents_are_compared_in_fewer_pairs_and_the_line_says_so(monkeypatch):
    monkeypatch.setattr(_information, "COMPARED", 150**2 * TRAIN.shape[1])
    entry = next(one for one in lpc.report(TRAIN, LABEL).entries if one.key == "label_information")
    kept = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:150].sort().values.numpy()
    assert "150 of 200 points" in entry.how
    assert entry.value == pytest.approx(discrete_mutual_information(TRAIN[kept], LABEL[kept], k=2))
