"""Hours computed from made-up epoch times, against hours worked out by hand."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from support.ended_runs import end

from experiments.benchmarks import epoch_times
from experiments.benchmarks.epoch_times import COLUMNS, hours_left, measure, model_of
from experiments.studies.image_shapes import SHAPES, random_images, shape_of_data
from experiments.studies.profiles import profile, specs
from lpc.data import load_images
from lpc.specs import DataSpec
from lpc.store import RunStore

CIFAR = profile("paper-cifar10")


def runs(count, **train):
    """The first runs of CIFAR10: 45,000 images, 800 epochs."""
    return [replace(spec, train=replace(spec.train, **train)) for spec in specs(CIFAR)[:count]]


def finish(store, spec, **provenance):
    """Write a run as finished, with the time that it took."""
    end(store, spec, provenance=provenance)


def row(spec, seconds, device="NVIDIA X", threads=1, **other):
    """Return a row of the table of times."""
    values = {"device": device, "threads": threads, **model_of(spec)._asdict(), "together": 1}
    images = shape_of_data(spec.data).train
    return {**values, "images": images, "seconds": seconds, "commit": "c", "date": "2030-01-02", **other}


def written(path, *rows):
    pd.DataFrame(rows, columns=COLUMNS).to_csv(path, index=False)
    return path


def test_what_finished_runs_took_says_what_is_left(tmp_path):
    store, path = RunStore(tmp_path), tmp_path / "none.csv"
    several = runs(6)
    for spec, seconds in zip(several, (9.0, 18.0, 90.0), strict=False):  # the median is 18
        finish(store, spec, device="NVIDIA X", threads=8, workers=2, run_epoch_seconds=seconds)
    # three runs of 800 epochs, 18 s each, two at a time: 6 hours
    expected = "about 6.0 h left on NVIDIA X (finished runs)"
    assert hours_left(several, store, path=path) == expected
    assert hours_left(several[:3], store, path=path) == "nothing is left to train"


def test_runs_with_other_numbers_of_images_count_by_image(tmp_path):
    store, path = RunStore(tmp_path), tmp_path / "none.csv"
    some, other = runs(2)
    finish(store, some, device="cpu", threads=1, workers=2, run_epoch_seconds=90.0)
    full = replace(other, data=replace(other.data, validation=0))  # 50,000 images instead of 45,000
    # 90 / 2 * 50 / 45 * 800 s
    assert hours_left([full], store, path=path) == "about 11 h left on 2 threads of a CPU (finished runs)"


def test_the_table_is_second_to_the_store_and_places_stand_by_themselves(tmp_path):
    store = RunStore(tmp_path)
    several = runs(3)
    path = written(
        tmp_path / "t.csv",
        row(several[0], 45.0),
        row(several[0], 9000.0, "cpu", 2),
        row(runs(1, precision="float32")[0], 1.0, "NVIDIA Y"),
    )
    # 3 runs of 800 epochs: 30 and 6,000 hours; another precision says nothing
    assert hours_left(several, store, path=path).splitlines() == [
        "about 6,000 h left on 2 threads of a CPU (epoch times of 2030-01-02, training alone)",
        "about 30 h left on NVIDIA X (epoch times of 2030-01-02, training alone)",
    ]
    finish(store, several[0], device="NVIDIA X", threads=4, workers=1, run_epoch_seconds=4.5)
    assert hours_left(several, store, path=path).splitlines()[1] == (
        "about 2.0 h left on NVIDIA X (finished runs)"
    )


def test_models_without_a_time_are_named_with_the_command_that_measures_them(tmp_path):
    store, several = RunStore(tmp_path), [*runs(1), specs(profile("paper-cifar100"))[0]]
    small = specs(profile("fashion-cpu"))[0]
    train = replace(small.train, batch_size=128, precision="float32")
    small = replace(small, data=replace(small.data, train_limit=4000), train=train)
    found = hours_left([small], store, profile="fashion-cpu", path=tmp_path / "none.csv")
    assert found == (
        "no epoch time was measured for resnet18 (width 8, float32, batches of 128) on 4,000 images of "
        "fashion_mnist: run python -m experiments time --profile fashion-cpu"
    )
    path = written(tmp_path / "t.csv", row(several[0], 45.0))
    first, second = hours_left(several, store, path=path).splitlines()
    named = "resnet50 (width 64, bfloat16, batches of 128) on cifar100"
    assert first.startswith("about 10 h left on NVIDIA X") and first.endswith(f", without {named}")
    assert second == f"no epoch time was measured for {named}: run python -m experiments time --profile NAME"


def test_of_an_interrupted_run_the_epochs_after_its_checkpoint_count(tmp_path):
    store, several = RunStore(tmp_path), runs(2)
    path = written(tmp_path / "t.csv", row(several[0], 45.0))
    begun = store.begin(several[:1])
    untouched = hours_left(several, store, path=path)
    store.save_state(begun, {"training": {"epoch": 600, "parameters": {"w": torch.zeros(3)}}}, epoch=600)
    assert untouched.startswith("about 20 h left")
    # 200 and 800 epochs of 45 s
    assert hours_left(several, store, path=path).startswith("about 12 h left")


def test_runs_kept_by_an_older_version_without_times_say_nothing(tmp_path):
    store, several = RunStore(tmp_path), runs(2)
    finish(store, several[0], device="cpu", threads=1, cohort_seconds=1.0)
    assert hours_left(several, store, path=tmp_path / "none.csv").startswith("no epoch time was measured")


def test_measuring_scales_to_all_images_and_replaces_rows_of_the_same_device_and_model(tmp_path, monkeypatch):
    path = tmp_path / "results" / "t.csv"
    spec = specs(profile("laptop"))[0]
    spec = replace(spec, data=replace(spec.data, validation=437), train=replace(spec.train, batch_size=50))
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0])  # epochs of 1, 2 and 9 s
    monkeypatch.setattr(epoch_times.time, "perf_counter", lambda: next(clock))
    cpu = torch.device("cpu")
    found = measure([spec, replace(spec, seed=7)], device=cpu, steps=4, path=path)
    (only,) = found.to_dict("records")
    # 2 s for 200 images of two runs together: 5 s for the 1,000 of one
    assert (only["seconds"], only["images"], only["together"]) == (5.0, 1000, 2)
    assert (only["device"], only["dataset"], only["batch"]) == ("cpu", "digits", 50)
    clock = iter([0.0, 0.1, 1.0, 1.1])
    other = replace(spec, train=replace(spec.train, batch_size=40))
    measure([spec, other], device=cpu, steps=1, epochs=1, path=path)
    table = epoch_times.recorded(path)
    assert table["batch"].tolist() == [40, 50]
    assert table["seconds"].tolist() == pytest.approx([2.5, 2.0]), "a batch of so many, for 1,000"
    with pytest.raises(ValueError, match="steps is 0"):
        measure([spec], device=cpu, steps=0, path=path)


def test_a_table_with_other_columns_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("device,hours\ncpu,1\n")
    with pytest.raises(ValueError, match=r"has the columns \['device', 'hours'\]; expected"):
        epoch_times.recorded(tmp_path / "t.csv")


def test_shapes_are_those_of_the_data():
    digits = DataSpec(name="digits", validation=240, train_limit=2000)
    splits = load_images(digits)
    train, shape = splits.train, shape_of_data(digits)
    assert shape == (train.channels, train.size, train.classes, len(train), len(splits.test))
    padded = shape_of_data(DataSpec(name="fashion_mnist", size=32, validation=1_000, train_limit=4_000))
    assert padded == (1, 32, 10, 4_000, 10_000)
    some = shape_of_data(DataSpec(name="mnist_subset", validation=560, first_classes=7))
    assert some == (1, 28, 7, 2_240, 700)
    images = random_images(DataSpec(name="cifar100"), 300)
    assert images.images.shape == (300, 3, 32, 32) and images.classes == SHAPES["cifar100"].classes == 100
    assert images.images.float().std() > 70  # random, not blank: uniform on 0 to 255 has an sd of 73.9
    with pytest.raises(ValueError, match=r"unknown data set 'digit'\. Did you mean digits"):
        shape_of_data(DataSpec(name="digit"))
