"""The plain loop against the library's numbers, operations against closed forms, and the cells of tables."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.pretended_gpu import pretended_gpu
from support.warm_forks import fork_workers
from torch.utils.data import SequentialSampler

from experiments.benchmarks import (
    plain_training,
    training_agreement,
    training_crew,
    training_flops,
    training_packing,
    training_tables,
)
from experiments.benchmarks.plain_training import PlainTraining, best_workers, transform, worker_counts
from experiments.benchmarks.sizes import SIZES
from experiments.benchmarks.training_agreement import batches_to_compare, loss_difference, without_chance
from experiments.benchmarks.training_crew import Crew, Way
from experiments.benchmarks.training_flops import flops, matmul_rate, parameters, run_flops, stored
from experiments.benchmarks.training_packing import ways
from experiments.benchmarks.training_programs import PLAIN, Timed, digits_cohort, first_run
from experiments.studies.image_shapes import random_images
from experiments.studies.profiles import profile, specs
from lpc.data import ImageSet
from lpc.specs import VARIANTS, DataSpec, Precision
from lpc.training import trainer

SMOKE = SIZES["smoke"]
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def slim(architecture="IB", **train):
    """A ResNet-18 of two channels in the first stage, on batches of 16."""
    spec = specs(profile("fashion-cpu"), only=(architecture,))[0]
    train = {"batch_size": 16, "learning_rate": 1e-3, "gamma_initial": 0.5, **train}
    model = replace(spec.model, backbone_width=2)
    return replace(spec, data=replace(spec.data, size=16), model=model, train=replace(spec.train, **train))


def pictures(spec, total=40):
    """Return random images with a quarter of the area, to be quick; the last batch is small."""
    return random_images(replace(spec.data, size=16), total)


@pytest.mark.parametrize("architecture", ["IB", "NoPen", "NonLinPenL1"])
def test_the_plain_loop_and_the_library_have_the_same_losses(architecture):
    spec = slim(architecture, decay_start=1, decay_every=1, gamma_factor=3.0)
    assert loss_difference(spec, pictures(spec), epochs=3) < 2e-5


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_both_reductions_of_the_penalty_agree(reduction):
    spec = slim(penalty_reduction=reduction, gamma_initial=20.0)
    assert loss_difference(spec, pictures(spec)) < 2e-5


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma_initial": 1.0},
        {"learning_rate": 2e-3},
        {"penalty_reduction": "mean"},
        {"decay_start": 0},
    ],
)
def test_another_objective_or_schedule_is_seen(wrong, monkeypatch):
    spec = slim()
    real = training_agreement.PlainTraining
    monkeypatch.setattr(
        training_agreement,
        "PlainTraining",
        lambda given, *rest, **options: real(
            replace(given, train=replace(given.train, **wrong)), *rest, **options
        ),
    )
    assert loss_difference(spec, pictures(spec), epochs=2) > 1e-4


def test_on_a_gpu_the_recorded_step_is_compared_and_neither_side_rounds():
    spec = slim()

    def compared(batches):
        images = random_images(replace(spec.data, size=16), 16 * batches, device="cuda")
        return loss_difference(spec, images)

    with pretended_gpu() as gpu:
        assert compared(batches_to_compare(torch.device("cuda"))) < 2e-5
        assert any(what == "replay" for what, _ in gpu.launches) and not gpu.rounded
        with pytest.raises(ValueError, match=r"2 whole batches, which the warm-up uses up.* expected 6"):
            compared(2)


def test_weights_agree_after_an_epoch_and_channels_last_changes_nothing():
    spec = without_chance(slim())
    images = pictures(spec)
    trained = []
    for channels_last in (False, True):
        plain = PlainTraining(
            spec, images, order=SequentialSampler(range(len(images))), channels_last=channels_last
        )
        plain.train_epoch()
        trained.append(plain.model.state_dict())
    for name, value in trained[0].items():
        assert torch.allclose(value.double(), trained[1][name].double(), atol=2e-4), name


def test_augmentation_of_the_plain_loop_in_distribution():
    value = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    value[0, 0, 2, 1] = 255  # one bright pixel
    images = ImageSet(value, torch.zeros(1, dtype=torch.int64), 2, (0.0,), (1.0,))
    spec = DataSpec(name="digits", flip=True, crop_padding=2, noise=0.05)
    plain = plain_training.PlainImages(images, transform(spec, images))
    torch.manual_seed(0)
    seen = torch.stack([plain[0][0] for _ in range(2000)])
    mean = seen.mean(dim=0)[0]
    # shifts of -2 to 2 in both directions, each with 1 in 25, mirrored with one half
    expected = torch.zeros(6, 6)
    for row in range(5):
        for shift in range(-2, 3):
            for column in (1 + shift, 4 + shift):
                if 0 <= column < 6:
                    expected[row, column] += 1 / 50
    assert torch.allclose(mean, expected, atol=0.02)
    dark = seen[seen < 0.5]
    assert float(dark.std()) == pytest.approx(0.05, rel=0.03)
    still = plain_training.PlainImages(images, transform(DataSpec(name="digits"), images))
    assert torch.equal(still[0][0], images.normalised()[0])


def test_worker_counts_and_the_best_of_them(monkeypatch):
    assert worker_counts(1) == [0, 1]
    assert worker_counts(2) == [0, 1, 2]
    assert worker_counts(12) == [0, 1, 2, 4, 8, 12]
    taken = {0: 3.0, 1: 1.0, 2: 2.0}

    class Slow:
        def __init__(self, spec, images, *, device, workers):
            self.seconds = taken[workers]

        def train_epoch(self):
            now[0] += self.seconds

    now = [0.0]
    monkeypatch.setattr(plain_training, "PlainTraining", Slow)
    spec = slim()
    assert best_workers(spec, pictures(spec), cores=2, clock=lambda: now[0]) == 1


@pytest.mark.parametrize(
    ("name", "forward", "step"),
    [("paper-cifar10", 0.555e9, 3.33e9), ("paper-cifar100", 1.298e9, 7.79e9)],
)
def test_operations_of_resnets(name, forward, step):
    spec = specs(profile(name), only=("IB",))[0]
    found = flops(spec, random_images(spec.data, 2))
    assert found.forward_multiply_adds == pytest.approx(forward, rel=0.01)
    assert found.step_flops == pytest.approx(step, rel=0.01)


def test_operations_of_an_mlp_by_hand():
    spec = specs(profile("laptop"), only=("IB",))[0]
    found = flops(spec, random_images(spec.data, 2))
    layers = [64 * 128, 128 * 128, 128 * 8, 8 * 10]
    assert found.forward_multiply_adds == sum(layers)
    # backward: for the weights, and for the inputs of all layers but the first
    assert found.step_flops == 2 * (3 * sum(layers) - layers[0])
    assert run_flops(spec) == found.step_flops * 400 * 1197
    assert parameters(spec) == sum(layers) + 4 * 128 + 8 + 10


def test_the_rate_of_a_product_counts_two_operations_a_multiply_add(monkeypatch):
    seconds = [9.0, 4.0, 1.0, 2.0]
    monkeypatch.setattr(
        training_flops, "interleave", lambda calls, **options: (([value], [None]) for value in seconds)
    )
    assert matmul_rate("cpu", torch.float32, size=10, repeats=3) == 2 * 10**3 / statistics.median([4, 1, 2])
    monkeypatch.undo()
    assert 0 < matmul_rate("cpu", torch.float32, size=200, repeats=3) < math.inf


@pytest.mark.parametrize("name", ["paper-cifar10", "fashion-cpu", "laptop"])
def test_a_checkpoint_holds_weights_and_two_moments_in_float32(name):
    spec = specs(profile(name), only=("IB",))[0]
    found, count = stored(spec), parameters(spec)
    assert found.weights == pytest.approx(4 * count, rel=0.1, abs=3e4)
    assert found.checkpoint == pytest.approx(12 * count, rel=0.1, abs=3e5)
    if name == "paper-cifar10":
        assert found.checkpoint < 150e6


def timed(spec, seconds, **options):
    values = {"workers": 2, "difference": 1e-7, "target": 1.5, "cold": False, **options}
    return Timed(specs=[spec], images=100, seconds={k: np.array(v) for k, v in seconds.items()}, **values)


def test_rates_ratios_and_runs_an_hour():
    spec = specs(profile("fashion-cpu"))[0]
    train = replace(spec.train, epochs=40, precision="float32")
    spec = replace(spec, data=replace(spec.data, train_limit=4000), train=train)
    one = timed(spec, {PLAIN: [4.0, 4.0, 9.0], "lpc, float32": [2.0, 1.0, 3.0]})
    assert one.rate(PLAIN) == 25 and one.rate(one.ours) == 50
    assert one.runs_an_hour(one.ours) == 3600 * 50 / 160_000
    found = one.against(one.ours)
    assert (found.ratio, found.low, found.high, found.pairs) == (3.0, 2.5, 3.5, 3)
    row = training_tables.training_table([one], replace(SMOKE, aims=True)).T[one.name]
    assert row["ours (images/s)"] == "50.0" and row["ours (runs/h)"] == "1.12" and row["ratio"] == "3.00"
    assert row["target"] == "≥ 1.5" and row["reached"] == "yes" and row["workers"] == "2"
    assert training_tables.training_table([one], SMOKE)["reached"].tolist() == ["–"]
    several = replace(one, specs=[spec] * 14)
    assert several.rate(PLAIN) == 14 * 25


def test_shares_are_of_the_product_in_the_same_precision():
    spec = first_run("paper-cifar10", SIZES["full"])
    one = timed(spec, {PLAIN: [1.0], "lpc, float32": [0.5], "lpc, bfloat16": [0.1]}, target=4.0)
    each = flops(spec, random_images(spec.data, 2)).step_flops
    rates: dict[Precision, float] = {"float32": 1000 * each, "bfloat16": 2000 * each}
    found = training_tables.choices_table(one, rates, SIZES["full"])
    assert found["of the product's"].tolist() == ["10.0%", "20.0%", "50.0%"]
    assert found["over the plain loop"].tolist() == ["1.00", "2.00", "10.0"]
    assert found["reached"].tolist() == ["–", "–", "yes"] and found["target"].tolist()[2] == "≥ 30%"
    rates["bfloat16"] = 4000 * each
    low = training_tables.choices_table(one, rates, SIZES["full"])
    assert low["reached"].tolist()[2] == "no"


def test_the_protocol_has_720_runs_and_hours_only_where_something_was_measured():
    nothing = training_tables.protocol_cost()
    assert nothing["runs"].tolist() == ["200", "40"] * 3 + ["720"]
    assert (nothing.iloc[:, 3:] == training_tables.NO_GPU).all(axis=None)
    spec = specs(profile("paper-cifar10"), only=("IB",))[0]
    one = timed(spec, {PLAIN: [0.1], "lpc, bfloat16": [0.02]})  # 1,000 and 5,000 images a second
    found = training_tables.protocol_cost([one], product=1e15).T["paper-cifar10, learning rates"]
    seen = 200 * 800 * 45_000
    assert float(found["plain loop (h)"]) == pytest.approx(seen / 1000 / 3600, rel=5e-3)
    assert float(found["lpc (h)"]) == pytest.approx(seen / 5000 / 3600, rel=5e-3)
    assert float(found["EFLOP"]) == pytest.approx(seen * 3.33e9 / 1e18, rel=0.01)
    assert float(found["at 30% of the product (h)"]) == pytest.approx(seen * 3.33e9 / 3e14 / 3600, rel=0.01)
    again = training_tables.protocol_cost([one], product=1e15).T["paper-cifar100, trained again"]
    assert again["lpc (h)"] == training_tables.NO_GPU and float(again["EFLOP"]) == pytest.approx(
        12.5, rel=0.01
    )


def test_the_tables_of_a_smoke_run():
    found = training_tables.time_all(SMOKE)
    table = training_tables.training_table(found, SMOKE)
    small = f"resnet18 (8), {profile('fashion-cpu').train.precision}"
    assert list(table.index) == [small, "mlp (128), float32, 3 runs together"]
    assert (table[["plain (images/s)", "ours (images/s)", "ratio"]].astype(float) > 0).all(axis=None)
    assert (table["difference"].astype(float) < 1e-4).all() and set(table["target"]) == {"–"}
    choices = training_tables.choices_table(found[0], training_tables.product_rates(SMOKE), SMOKE)
    assert list(choices.index) == [
        "plain loop",
        "plain loop, no DataLoader",
        "and channels last",
        "lpc, float32",
        "lpc, bfloat16",
    ]
    assert found[0].ours in choices.index
    assert len(training_tables.gpu_targets()) == 2


def test_flops_table_has_every_profile_that_trains_at_length():
    found = training_tables.flops_table()
    assert found["checkpoint (MB)"].T["paper-cifar10"] == "134"
    assert found["step (FLOP)"].T["paper-cifar100"] == "7.78e9"


def test_ways_to_pack():
    single, half = Way(1, 2, 2), Way(1, 2, 1, "bfloat16")
    assert ways(2, "cpu", "float32") == [Way(1, 2, 1), Way(2, 1, 1), single]
    assert ways(2, "cpu", "bfloat16") == [half, Way(2, 1, 1, "bfloat16"), Way(1, 2, 1), single]
    assert ways(16, "cpu", "float32") == [Way(1, 16), Way(2, 8), Way(4, 4), Way(1, 16, 2)]
    assert [way.processes for way in ways(16, "cuda", "bfloat16")] == [1, 2, 3, 4, 1, 1]


def test_packing_counts_all_runs(monkeypatch):
    class Fixed:
        """Processes that need a second for an epoch of one run, 1.5 for two, 4 for a cohort."""

        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def epoch(self, way):
            now[0] += 4.0 if way.cohort == 2 else (1.0 if way.processes == 1 else 1.5)
            return [100_000_000, None]

    now = [0.0]
    real = training_packing.interleave
    monkeypatch.setattr(training_packing, "Crew", Fixed)
    monkeypatch.setattr(
        training_packing, "interleave", lambda calls, **options: real(calls, **options, clock=lambda: now[0])
    )
    monkeypatch.setattr(training_packing, "usable_cores", lambda: 2)
    spec = first_run("fashion-cpu", SMOKE, precision="float32")
    train = replace(spec.train, epochs=40)
    spec = replace(spec, data=replace(spec.data, train_limit=4000), train=train)

    def plain_epoch(self):
        now[0] += 3.0

    monkeypatch.setattr(PlainTraining, "train_epoch", plain_epoch)
    found = training_packing.packing_table(spec, replace(SMOKE, training_images=4000, aims=True), workers=0)
    assert found["runs at once"].tolist() == ["1", "1", "2", "2"]
    assert found["runs/h"].tolist() == ["30.0", "90.0", "120", "45.0"]  # 40 epochs of 3, 1, 0.75 and 2 s
    assert found["over the plain loop"].tolist() == ["1.00", "3.00", "4.00", "1.50"]
    assert found["target"].tolist() == ["–", "–", "≥ 1.5", "–"]
    assert found["reached"].tolist() == ["–", "–", "yes", "–"]
    assert found["memory of a process (MB)"].tolist() == ["–"] + ["100"] * 3
    assert list(found.index) == [
        "plain loop",
        "one process, 2 threads, float32",
        "2 processes, 1 thread each, float32",
        "one process, 2 threads, a cohort of 2, float32",
    ]


def test_a_crew_trains_and_tells_what_went_wrong(monkeypatch):
    fork_workers(monkeypatch, training_crew)
    spec = digits_cohort(SMOKE)[0]
    with Crew(spec, images=16, members=1, device="cpu") as crew:
        (memory,) = crew.epoch(Way(1, 1, 2))
        assert memory is None or 5e7 < memory < 2e10
        with pytest.raises(RuntimeError, match="a training process failed: ValueError: a cohort needs"):
            crew.epoch(Way(1, 1, 0))
    assert not any(process.is_alive() for process in crew.processes)


def test_mps_is_seen_by_its_pipe(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not training_packing.mps_is_on()
    (tmp_path / "control").touch()
    assert training_packing.mps_is_on()


def test_the_timed_runs_are_those_of_the_profiles():
    full = SIZES["full"]
    assert first_run("fashion-cpu", full) == specs(profile("fashion-cpu"), only=("IB",))[0]
    assert first_run("paper-cifar100", full) == specs(profile("paper-cifar100"), only=("IB",))[0]
    assert len(digits_cohort(full)) == 14 and set(VARIANTS) >= {s.architecture for s in digits_cohort(full)}
    assert len(trainer(digits_cohort(SMOKE), random_images(DataSpec(name="digits"), 16))) == 3
    assert math.isfinite(loss_difference(digits_cohort(SMOKE)[0], random_images(DataSpec(name="digits"), 32)))
