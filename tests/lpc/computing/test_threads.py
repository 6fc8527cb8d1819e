"""How many threads operations use, counted one by one, and whose setting remains."""

import inspect
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lpc.computing import threads
from lpc.computing.numerics import measurement
from lpc.computing.threads import LEAST_WORK, PER_ENTRY, by_work, callers_threads, one_thread, threads_for
from lpc.evaluation.binarity import binarity
from lpc.evaluation.class_moments import ClassMoments
from lpc.evaluation.collapse import nearest_mean_accuracy, within_class_covariance
from lpc.evaluation.information import knn_entropy, mutual_information
from lpc.evaluation.neural_collapse import neural_collapse
from lpc.evaluation.quantities import gaussian_quantities
from lpc.evaluation.reliability import mahalanobis_confidence
from lpc.evaluation.robustness import deepfool
from lpc.specs import DataSpec, TrainSpec, variant_spec
from lpc.training import trainer

THREADS = 3


class Recorded(TorchDispatchMode):
    """Notes the number of threads at every operation, and the entries of its inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [v for v in tree_leaves((args, kwargs, result)) if torch.is_tensor(v)]
        entries = max((value.numel() for value in tensors), default=0)
        self.seen.append((func.overloadpacket.__name__, torch.get_num_threads(), entries))
        return result

    def several(self) -> list[tuple[str, int, int]]:
        """Return the operations that ran on several threads."""
        return [one for one in self.seen if one[1] > 1]


@pytest.fixture(autouse=True)
def several_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    assert torch.get_num_threads() == THREADS  # whatever the test did
    torch.set_num_threads(before)


LABEL = torch.arange(600) % 3
POINTS = torch.randn(600, 24, generator=torch.Generator().manual_seed(0)) + LABEL[:, None]


def network() -> torch.nn.Module:
    layers = torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.SiLU(), torch.nn.Linear(32, 5)
    return torch.nn.Sequential(*layers).eval()


def moments() -> None:
    found = ClassMoments(classes=3)
    for part, own in zip(POINTS.split(100), LABEL.split(100), strict=True):
        found.update(part, own)
    found.neural_collapse()


SMALL: dict[str, Callable[[], object]] = {
    "knn_entropy": lambda: knn_entropy(POINTS, k=3),
    "binarity": lambda: binarity(POINTS),
    "neural_collapse": lambda: neural_collapse(POINTS, LABEL),
    "mahalanobis_confidence": lambda: mahalanobis_confidence(POINTS, LABEL, LABEL, POINTS, LABEL),
    "deepfool": lambda: deepfool(network(), torch.rand(40, 1, 8, 8), max_iter=3),
    "gaussian_quantities": lambda: gaussian_quantities(POINTS, LABEL, generator=torch.Generator()),
    "mutual_information": lambda: mutual_information(POINTS[:, :2], POINTS[:, 2:4], k=3),
    "ClassMoments": moments,
    "nearest_mean_accuracy": lambda: nearest_mean_accuracy(POINTS, LABEL, POINTS, LABEL),
}


MADE = {"empty", "zeros", "new_zeros", "clone", "split", "rand", "uniform_", "slice", "detach"}
"""Operations of the cases themselves, which make what is measured: networks, images, parts of points."""


@pytest.mark.parametrize("name", SMALL)
def test_small_operations_run_on_one_thread(name):
    with Recorded() as recorded:
        SMALL[name]()
    inside = [one for one in recorded.seen if one[2] > 1]
    assert len(inside) > 3
    assert not [one for one in recorded.several() if one[0] not in MADE]


def test_without_the_context_the_same_operations_run_on_several():
    """The control of the test above."""
    with Recorded() as recorded:
        inspect.unwrap(within_class_covariance)(POINTS, LABEL)
    with Recorded() as within:
        within_class_covariance(POINTS, LABEL)
    assert [name for name, *_ in recorded.several()] == [name for name, *_ in within.seen]
    assert len(within.seen) > 10
    assert not within.several()


def test_a_large_product_runs_on_all_threads_and_what_is_around_it_on_one():
    wide = torch.zeros(600, 240)
    wide[:, ::7] = torch.randn(600, 35, generator=torch.Generator().manual_seed(0))
    assert wide.numel() * wide.shape[1] >= LEAST_WORK
    with Recorded() as recorded:
        within_class_covariance(wide, LABEL)
    assert {name for name, _, _ in recorded.several()} == {"mm"}
    assert {used for _, used, _ in recorded.several()} == {THREADS}


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_small_training_steps_on_one_thread(seeds):
    from lpc.data import load_images

    data = DataSpec(name="digits", validation=100, train_limit=150, noise=0.01)
    train = TrainSpec(epochs=2, batch_size=64, learning_rate=5e-3)
    sizes = {"backbone": "mlp", "backbone_width": 16}
    specs = [variant_spec("IB", data=data, train=train, seed=seed, **sizes) for seed in range(seeds)]
    training = trainer(specs, load_images(data).train)
    training.train_epoch()
    with Recorded() as recorded:
        training.train_epoch()
    steps = [used for name, used, _ in recorded.seen if name in ("addmm", "mm", "bmm", "baddbmm")]
    assert len(steps) > 10
    assert set(steps) == {1}


def test_a_network_gets_threads_by_its_work():
    heavy = torch.nn.Conv2d(8, 8, 3, padding=1)
    work = 8 * 8 * 9 * 32 * 32  # multiply-adds of one image
    images = torch.zeros(2 * LEAST_WORK // work, 8, 32, 32)
    used = []
    heavy.register_forward_hook(lambda *_: used.append(torch.get_num_threads()))
    chosen = by_work(heavy)
    with one_thread():
        chosen(images)
        assert torch.get_num_threads() == THREADS  # for the backward pass
        chosen(images)
        chosen(images[:1])
        assert torch.get_num_threads() == 1
    assert used == [1, THREADS, 1]
    with one_thread():
        small = by_work(torch.nn.Linear(4, 4))
        small(torch.zeros(3, 4))
        assert torch.get_num_threads() == 1


def test_work_is_counted_in_multiply_adds():
    with threads._Work() as counted:
        torch.mm(torch.ones(512, 256), torch.ones(256, 1024))
    assert max(counted.shared) == 512 * 256 * 1024
    with threads._Work() as counted:
        torch.zeros(1 << 20).exp()
    assert counted.shared[-1] == PER_ENTRY << 20


def test_contexts_nest_and_end_after_exceptions():
    @measurement
    def inner():
        assert torch.get_num_threads() == 1
        assert callers_threads() == THREADS
        raise KeyError

    @measurement
    def outer():
        with threads_for(LEAST_WORK) as used:
            assert used == torch.get_num_threads() == THREADS
            with pytest.raises(KeyError):
                inner()
            assert torch.get_num_threads() == THREADS
        with threads_for(LEAST_WORK - 1) as used:
            assert used == torch.get_num_threads() == 1
        torch.set_num_threads(2)  # as a network may: the caller's setting comes back all the same
        raise KeyError

    with pytest.raises(KeyError):
        outer()
    assert callers_threads() == THREADS
    with threads_for(1) as used:  # outside of a measurement nothing is chosen
        assert used == THREADS


def test_other_threads_keep_their_number():
    ready, done, found = threading.Event(), threading.Event(), []

    def other():
        torch.set_num_threads(2)
        torch.get_num_threads()  # what marks a thread as one that has used torch
        ready.set()
        done.wait(300)
        found.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    assert ready.wait(300)
    with one_thread():
        done.set()
        thread.join()
    assert found == [2]
