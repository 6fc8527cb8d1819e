from dataclasses import replace

import pytest

from experiments.cluster.submissions import Request
from experiments.studies import ablation, bottlenecks
from experiments.studies.selection import KINDS, Selection, kind_of, kinds


def test_every_kind_is_named_and_another_is_refused():
    assert tuple(kinds()) == KINDS
    with pytest.raises(ValueError, match=r"kind of study 'bottleneck'.*Did you mean bottlenecks"):
        kind_of("bottleneck")


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(profile="smoke", seeds=1, only=("IB",)), {"smoke": 2}),
        (Selection(profile="paper", dataset="CIFAR10", seeds=2, only=("IB",)), {"paper-cifar10": 10}),
        (Selection(profile="smoke", seeds=1, only=("norm",), study="bottlenecks"), {"smoke": 2}),
    ],
)
def test_what_is_declared_is_what_is_read(selection, expected, tmp_path):
    selection = replace(selection, store=tmp_path)
    assert {name: len(specs) for name, specs in selection.declared().items()} == expected
    assert {one.profile.name: one.specs for one in selection.studies()} == selection.declared()
    assert all(one.kind is selection.kind for one in selection.studies())


def test_bottlenecks_have_no_data_set_to_choose():
    with pytest.raises(ValueError, match="--dataset is 'MNIST', but a profile's bottleneck runs"):
        Selection(profile="paper", dataset="MNIST", study="bottlenecks").declared()


def test_data_sets_are_named_once():
    assert Selection(profile="paper", study="bottlenecks").data_names() == ["mnist", "cifar10"]
    assert Selection(profile="paper").data_names() == ["svhn", "cifar10", "cifar100"]


def test_a_request_keeps_the_selection(tmp_path):
    asked = Selection(profile="smoke", seeds=1, only=("IB", "NoPen"), store=str(tmp_path))
    assert Request.of(asked, pages=False).selection == asked
    elsewhere = Request.of(replace(asked, store="some/store"))
    assert elsewhere.store.endswith("/some/store") and elsewhere.store.startswith("/")


def test_only_a_kind_that_selects_tests_its_runs(tmp_path):
    assert ablation.existing("smoke", store=tmp_path).tested == []
    assert bottlenecks.existing("smoke", store=tmp_path).tested == []
    with pytest.raises(ValueError, match=r"profile smoke have 3 data sets; expected one"):
        _ = bottlenecks.existing("smoke", store=tmp_path).images
    one = bottlenecks.existing("smoke", only=("norm",), store=tmp_path)
    assert len(one.images.train) == len(one.images_of("norm-0.01").train) == 200
