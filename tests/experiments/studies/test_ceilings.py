import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from experiments.commands import cli
from experiments.studies import ceilings
from lpc.data import load_images
from lpc.specs import DataSpec


def test_means_are_those_of_digits_by_brute_force():
    splits = load_images(DataSpec(name="digits"))
    found = ceilings.of_images(splits)
    (image, label), (others, other_label) = (
        (part.pixels().double().flatten(1).numpy(), part.label.numpy())
        for part in (splits.test, splits.train)
    )
    single, both = [], []
    for x, y in zip(image, label, strict=True):
        candidates = others[other_label != y]
        distance = np.linalg.norm(candidates - x, axis=1)
        nearest = candidates[distance.argmin()]
        single.append(distance.min() / np.linalg.norm(x))
        both.append(distance.min() / (2 * min(np.linalg.norm(x), np.linalg.norm(nearest))))
    assert found["single_pixels"] == pytest.approx(np.mean(single), rel=1e-6)
    assert found["both_pixels"] == pytest.approx(np.mean(both), rel=1e-6)
    assert (found["images"], found["among"]) == (360, 1437)
    assert found["both"] > found["single"] / 2, "the smaller of two norms"
    assert found["single"] / 2 < found["mean_assigned"] < 0.75
    assert 0 < found["single_error"] < found["single"] / 10


def test_a_data_set_has_one_row_and_unknown_ones_are_named(tmp_path, monkeypatch):
    path = tmp_path / "ceilings.csv"
    first = ceilings.measure("digits", path=path)
    before = pd.read_csv(path)
    before.assign(data="other", single=1.0).to_csv(path, index=False)
    ceilings.measure("digits", path=path)
    table = ceilings.recorded(path).set_index("data")
    assert table.index.tolist() == ["digits", "other"]
    assert float(table["single"]["digits"]) == pytest.approx(first["single"])
    result = CliRunner().invoke(cli, ["ceiling", "cifar"])
    assert isinstance(result.exception, ValueError) and "'cifar'. Did you mean cifar10" in str(
        result.exception
    )
