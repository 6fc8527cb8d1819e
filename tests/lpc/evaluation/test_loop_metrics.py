"""Metrics of training loops give the value of all points at once, in batches and over two processes."""

import pickle

import pytest
import torch
from support.two_processes import in_two

from lpc.evaluation.calibration import classwise_calibration_error, expected_calibration_error
from lpc.evaluation.class_geometry import class_distance_variance, gram_distance
from lpc.evaluation.collapse import within_between_traces
from lpc.evaluation.loop_metrics import CalibrationMetric, CollapseMetric, ErrorDetectionMetric
from lpc.evaluation.misclassification import (
    misclassification_aupr,
    misclassification_auroc,
    misclassification_fpr,
    risk_coverage_area,
)

GENERATOR = torch.Generator().manual_seed(0)
LABEL = torch.randint(0, 4, (300,), generator=GENERATOR)
LATENT = (
    1e-5 * (torch.randn(4, 6, generator=GENERATOR)[LABEL] + 0.3 * torch.randn(300, 6, generator=GENERATOR))
    + 1
)
LATENT = LATENT.double()
LOGITS = torch.randn(300, 4, generator=GENERATOR) + 1.5 * torch.eye(4)[LABEL]
SHARE = LOGITS.softmax(dim=1)
RIGHT, SCORE = SHARE.argmax(dim=1) == LABEL, SHARE.amax(dim=1)


def made():
    """Every metric of one value, what it is fed, and what it should give."""
    traces = within_between_traces(LATENT, LABEL)
    collapse = {
        "trace_within": traces.within,
        "trace_between": traces.between,
        "trace_ratio": traces.ratio,
        "gram_distance": gram_distance(LATENT, LABEL),
        "cdnv": class_distance_variance(LATENT, LABEL),
    }
    calibration = {norm: expected_calibration_error(SHARE, LABEL, norm=norm) for norm in ("l1", "l2", "max")}
    calibration["classwise"] = classwise_calibration_error(SHARE, LABEL)
    errors = {
        "auroc": misclassification_auroc(SCORE, RIGHT),
        "fpr95": misclassification_fpr(SCORE, RIGHT),
        "aupr_error": misclassification_aupr(SCORE, RIGHT, positive="error"),
        "aurc": risk_coverage_area(SCORE, RIGHT).aurc,
    }
    for measure, value in collapse.items():
        yield CollapseMetric(classes=4, width=6, measure=measure), (LATENT, LABEL), value
    for measure, value in calibration.items():
        yield CalibrationMetric(classes=4, measure=measure), (SHARE, LABEL), value
    for measure, value in errors.items():
        yield ErrorDetectionMetric(measure=measure), (SCORE, RIGHT), value


def feed(metric, arrays, *, batch=70):
    for parts in zip(*(array.split(batch) for array in arrays), strict=True):
        metric.update(*parts)
    return metric


def test_batches_give_the_value_of_all_points():
    for metric, arrays, value in made():
        what = f"{type(metric).__name__} {metric.measure}"
        assert float(feed(metric, arrays).compute()) == pytest.approx(value, rel=1e-9), what
        metric.half().set_dtype(torch.float16)
        copy = pickle.loads(pickle.dumps(metric))
        assert copy.compute().dtype == torch.float64 and copy.compute().ndim == 0
        assert float(copy.compute()) == pytest.approx(value, rel=1e-9), what
        metric.reset()
        alone = metric(*arrays)  # forward: of the batch alone
        assert float(alone) == pytest.approx(value, rel=1e-9), what
    every = feed(CollapseMetric(classes=4, width=6), (LATENT, LABEL)).compute()
    assert set(every) == {"trace_within", "trace_between", "trace_ratio", "gram_distance", "cdnv"}


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_points_without_a_value_are_nan_with_a_reason():
    one = LABEL == 1
    for metric, arrays, _ in made():
        if isinstance(metric, CollapseMetric):
            feed(metric, (LATENT[one], LABEL[one]))
            reason = "NaN: label holds one class"
        elif isinstance(metric, ErrorDetectionMetric):
            feed(metric, (SCORE[RIGHT], RIGHT[RIGHT]))
            reason = "NaN: .* predictions are right and 0 wrong"
        else:
            reason = "NaN: there are no points yet"
        with pytest.warns(UserWarning, match=reason):
            assert bool(metric.compute().isnan())
        feed(metric, arrays)
        assert not bool(metric.compute().isnan())


def test_bad_batches_are_refused_and_add_nothing():
    metric = feed(CalibrationMetric(classes=4), (SHARE, LABEL))
    with pytest.raises(ValueError, match="probability has 5 classes; expected 4"):
        metric.update(torch.cat([SHARE, torch.zeros(300, 1)], dim=1), LABEL)
    with pytest.raises(ValueError, match="rows of probability are no probabilities"):
        metric.update(LOGITS, LABEL)
    assert float(metric.compute()) == pytest.approx(expected_calibration_error(SHARE, LABEL))
    with pytest.raises(ValueError, match="measure is 'auc'"):
        ErrorDetectionMetric(measure="auc")
    with pytest.raises(ValueError, match="correct"):
        ErrorDetectionMetric().update(SCORE, RIGHT[:5])


def work(rank):
    """One of two processes: the first has 100 points, the second the rest."""
    own = slice(0, 100) if rank == 0 else slice(100, 300)
    values = [float(feed(metric, [array[own] for array in arrays]).compute()) for metric, arrays, _ in made()]
    return values


@pytest.mark.process
def test_two_processes_give_the_value_of_one(tmp_path):
    first, second = in_two(work, tmp_path)
    assert first == second == pytest.approx([value for _, _, value in made()], rel=1e-9)
