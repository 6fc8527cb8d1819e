import math
from dataclasses import replace

import pytest

from experiments.chapters.surrogates.even_batches import EVEN, HERE, even_batch, evened, trained
from experiments.studies import bottlenecks


@pytest.mark.parametrize(
    ("points", "batch", "even"), [(1437, 128, 120), (200, 128, 100), (256, 128, 128), (5, 8, 5)]
)
def test_even_batches_are_as_many_and_nearly_one_size(points, batch, even):
    assert even_batch(points, batch) == even
    steps = math.ceil(points / batch)
    assert math.ceil(points / even) == steps
    assert even - (points - (steps - 1) * even) < steps
    with pytest.raises(ValueError, match="expected 1 or more of both"):
        even_batch(points, 0)


def test_only_the_batch_and_the_records_are_others():
    runs = bottlenecks.existing("laptop", only=["conditional", "norm"], store="nowhere")
    found = evened(runs)
    assert list(found) == [(gamma, seed) for gamma in (0.1, 1.0) for seed in range(3)]
    for (gamma, seed), spec in found.items():
        own = runs.spec(f"conditional-{gamma:g}", seed)
        assert spec.train.batch_size == 120
        train = replace(spec.train, batch_size=own.train.batch_size, record_every=own.train.record_every)
        assert replace(spec, train=train) == own


def test_runs_are_trained_once_and_stand_beside_those_that_there_are(tmp_path):
    runs = bottlenecks.study(
        "smoke", seeds=1, only=["conditional-1"], store=tmp_path, workers=1, progress=False
    )
    found = trained(runs, workers=1, progress=False)
    assert found["batches"].tolist() == [HERE, EVEN]
    assert found["train.batch_size"].tolist() == [128, 100]
    assert found["weight"].tolist() == [1.0, 1.0]
    assert found["preserved_information"].notna().all()
    assert found["preserved_information"].nunique() == 2
    states = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    trained(runs, workers=1, progress=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == states
    assert len(runs.frame) == 1
