"""The penalty in a plain loop: what it adds, what it watches, and when it stops raising gamma."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lpc
from lpc.evaluation.collapse import within_between_traces
from lpc.integrations.loop import CollapsePenalty
from lpc.schedules.gamma_control import GapSchedule

torch.manual_seed(0)
LABEL = torch.arange(60) % 3
POINTS = 3 * torch.eye(3, 5)[LABEL] + torch.randn(60, 5)


def network() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))


def test_it_is_gamma_times_the_squared_norm_and_has_its_gradient():
    model = network()
    penalty = CollapsePenalty(model, "1", schedule=lambda epoch: 0.3)
    with penalty.watching():
        model(POINTS)
        added = penalty()
        added.backward()
        found = model[0].weight.grad.clone()
        with pytest.raises(ValueError, match="has not run since the last penalty"):
            penalty()
        with torch.no_grad():
            model(POINTS)  # of validation: not watched
        with pytest.raises(ValueError, match="has not run since"):
            penalty()
    assert float(added.detach()) == pytest.approx(
        0.3 * float(model[0](POINTS).detach().square().sum(dim=1).mean()), rel=1e-5
    )
    model.zero_grad()
    (0.3 * lpc.squared_norm(model[0](POINTS), reduction="sum")).backward()
    torch.testing.assert_close(found, model[0].weight.grad)
    assert not model[1]._forward_hooks


def test_an_epoch_is_described_by_its_own_batches():
    model = network()
    penalty = CollapsePenalty(model, "1", schedule=lambda epoch: 0.1 * (epoch + 1))
    with penalty.watching():
        for _ in range(2):
            for part in (slice(0, 30), slice(30, 60)):
                model(POINTS[part])
                penalty(LABEL[part])
            penalty.end_epoch()
    first, second = penalty.history
    with torch.no_grad():
        latent, logits = model[0](POINTS), model(POINTS)
    assert (first.gamma, second.gamma, penalty.gamma) == pytest.approx((0.1, 0.2, 0.3))
    assert first.accuracy == second.accuracy == float((logits.argmax(1) == LABEL).double().mean())
    assert first.nearest_mean_accuracy is None
    assert second.nearest_mean_accuracy == pytest.approx(
        lpc.evaluation.collapse.nearest_mean_accuracy(latent, LABEL, latent, LABEL)
    )
    assert first.trace_ratio == pytest.approx(within_between_traces(latent, LABEL).ratio, rel=1e-5)
    own = logits[torch.arange(60), LABEL]
    other = logits.masked_fill(nn.functional.one_hot(LABEL, 3).bool(), -torch.inf).amax(1)
    assert first.gap == pytest.approx(float((own - other).median()))


@pytest.mark.parametrize("when_lost", ["hold", "stop", "ignore"])
def test_a_readout_that_is_lost_is_seen_and_gamma_no_longer_grows(when_lost):
    model = network()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4, 5))
        model[0].bias.zero_()
        model[1].weight.copy_(torch.eye(3, 4))
        model[1].bias.zero_()
    penalty = CollapsePenalty(model, "1", schedule=lambda epoch: 2.0**epoch, when_lost=when_lost)
    with penalty.watching():
        model(POINTS)
        penalty(LABEL)
        assert not penalty.end_epoch().lost  # of the first epoch nothing is known
        with torch.no_grad():
            model[1].bias.copy_(torch.tensor([1e4, 0.0, 0.0]))  # the classes lie apart; the bias decides
        model(POINTS)
        penalty(LABEL)
        if when_lost == "ignore":
            assert penalty.end_epoch().lost and penalty.gamma == 4.0
            return
        with pytest.warns(UserWarning, match=r"readout is being lost: .* classifier for 33\.3%"):
            assert penalty.end_epoch().lost
        assert penalty.gamma == 1.0 and penalty.stopped == (when_lost == "stop")


def trained(schedule, epochs=30) -> Any:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    penalty = CollapsePenalty(model, "1", schedule=schedule, when_lost="ignore")
    with penalty.watching():
        for _ in range(epochs):
            for part in torch.arange(60).split(20):
                loss = cross_entropy(model(POINTS[part]), LABEL[part]) + penalty(LABEL[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            penalty.end_epoch()
    return penalty


def test_gamma_by_itself_grows_and_keeps_the_readout_where_a_steep_schedule_loses_it():
    steep = trained(lambda epoch: 1e-2 * 2.0**epoch)
    followed = trained(GapSchedule())
    assert steep.history[-1].accuracy < 0.8 or steep.history[-1].gap < 0.1
    assert followed.history[-1].accuracy > 0.8 and not any(state.lost for state in followed.history)
    assert followed.gamma > 10 * followed.history[0].gamma


@pytest.mark.usefixtures("unhooked")
def test_bad_names_layers_schedules_and_labels_are_refused():
    with pytest.raises(ValueError, match="unknown layer 'fc'"):
        CollapsePenalty(network(), "fc")
    with pytest.raises(ValueError, match="layer '0' is a ReLU; expected a linear layer"):
        CollapsePenalty(nn.Sequential(nn.ReLU()), "0")
    with pytest.raises(
        ValueError, match=r"schedule is 0\.1; expected epoch -> gamma, as in lambda epoch: 0\.1"
    ):
        CollapsePenalty(network(), "1", schedule=0.1)  # type: ignore
    for label, message in (
        (LABEL + 1, "label is 3 at index 2; expected 0 to 2"),
        (nn.functional.one_hot(LABEL), "for one-hot rows pass"),
        (LABEL.float(), "expected integers"),
    ):
        model = network()
        penalty = CollapsePenalty(model, "1")
        with penalty.watching():
            model(POINTS)
            with pytest.raises(ValueError, match=message):
                penalty(label)
