"""Packing: the runs that train together, the number of processes, and the response to a lack of memory."""

from __future__ import annotations

import multiprocessing
import os
import queue
import random
import warnings
from collections.abc import Callable, Container, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lpc.computing.stopping import Stopped, leave_signals_to_parent
from lpc.data import Splits, load_images
from lpc.runs.training_loop import Plan, train_plans
from lpc.specs import DataSpec, RunSpec, run_key
from lpc.store import RunStore
from lpc.store.ownership import Held, LostLease
from lpc.training.choices import taken
from lpc.training.cohorts import part_of_state, shape_of

COHORT_SIZE = 14
"""Largest number of runs that train together: more gain little and starve other workers."""
COHORTED = ("mlp", "relu_mlp", "small_cnn", "dropout_cnn")
"""Backbones so small that one run leaves a device idle; others train alone, as do runs in bfloat16 and
those of ``RunSpec.alone``."""


def plan(specs: Sequence[RunSpec], store: RunStore, *, held: Container[str] = ()) -> list[Plan]:
    """Return the plans still to train: begun cohorts with their own members, then new ones.

    Parameters
    ----------
    specs
        Specs of the runs; finished ones are left out.
    store
        Store that keeps the runs.
    held
        Keys of runs that other programs are training; these runs, and cohorts that they belong to, are left
        out.
    """
    waiting = {run_key(spec): spec for spec in store.unfinished(specs)}
    planned: list[Plan] = []
    for cohort, keys in store.cohorts().items():
        if any(key in waiting for key in keys):
            if not any(key in held for key in keys):
                planned.append(Plan(cohort, [store.spec(key) for key in keys]))
            for key in keys:
                waiting.pop(key, None)
    shapes: dict[str, list[RunSpec]] = {}
    for key, spec in waiting.items():
        if key in held:
            continue
        cohorted = spec.model.backbone in COHORTED and spec.train.precision == "float32"
        alone = not cohorted or spec.alone
        shapes.setdefault(key if alone else shape_of(spec), []).append(spec)
    for alike in shapes.values():
        pieces = -(-len(alike) // COHORT_SIZE)
        planned += [Plan(store.cohort(part), part) for part in (alike[k::pieces] for k in range(pieces))]
    return sorted(planned, key=_work_of, reverse=True)  # stable: runs that train alone keep their order


def run_epochs(planned: Sequence[Plan]) -> int:
    """Return the number of epochs of some plans, summed over their runs."""
    return sum(len(plan.specs) * plan.specs[0].train.epochs for plan in planned)


def _work_of(plan: Plan) -> int:
    """Return the priority of a cohort's early start, so that workers end together; 0 for a single run."""
    return 0 if len(plan.specs) == 1 else len(plan.specs) * (plan.specs[0].model.latent_width or 100)


def lowered(left: list[Plan], workers: int, store: RunStore) -> int:
    """Return the number of plans to train at once after some did not fit in the device's memory.

    If it was one at a time, cohorts among them are split in the store.
    """
    if workers > 1:
        warnings.warn(
            f"out of GPU memory with {workers} processes on it: continuing with {workers // 2}", stacklevel=3
        )
        return workers // 2
    for plan in left:
        if len(plan.specs) == 1:
            spec = plan.specs[0]
            raise MemoryError(
                f"{spec.architecture} on {spec.data.name} does not fit in the GPU's memory alone, "
                f"with batches of {spec.train.batch_size} (part of the run's spec, so not lowered)"
            )
        with suppress(Held), store.lease(plan.specs):
            _split(plan, store)
    return 1


def _split(plan: Plan, store: RunStore) -> None:
    """Split a leased cohort in two, unless another program has meanwhile ended it."""
    cohort, specs = plan
    if cohort not in store.cohorts():
        return
    halves = (range(0, len(specs), 2), range(1, len(specs), 2))
    sizes = " and ".join(str(len(half)) for half in halves)
    warnings.warn(
        f"out of GPU memory with {len(specs)} runs in one cohort: continuing with {sizes}", stacklevel=4
    )
    parts = [[specs[place] for place in half] for half in halves]
    state = store.load_state(cohort, "cpu")
    if state is not None:
        for half, part in zip(halves, parts, strict=True):
            epoch = state["training"]["epoch"]
            store.save_state(store.cohort(part), _part_of_cohort(state, half), epoch=epoch)
    store.end(cohort)  # a run is never in two cohorts
    for part in parts:
        store.begin(part)


def _part_of_cohort(state: dict[str, Any], members: Sequence[int]) -> dict[str, Any]:
    return {
        "training": part_of_state(state["training"], members),
        "histories": [state["histories"][member] for member in members],
        "failed": [state["failed"][member] for member in members],
        "seconds": state["seconds"],
    }


def in_turn(
    planned: list[Plan],
    store: RunStore,
    device: torch.device,
    workers: int,
    stop: Callable[[], bool],
    bar: tqdm,
) -> list[Plan]:
    """Train one plan after the other, except those that others hold; return those that did not fit in memory.

    Once one turns out to be held, the rest follow in a random order: programs that began together would
    otherwise go through the same plans, each asking for all that the others have.

    Where ``side_by_side`` is chosen (:mod:`lpc.training.choices`), runs alone are trained in twos on a GPU.
    """
    del workers
    images: dict[DataSpec, Splits] = {}
    left, waiting = [], planned[::-1]
    in_twos = device.type == "cuda" and "side_by_side" in taken()
    while waiting:
        plans = [waiting.pop()]
        if stop():
            raise Stopped("stopped before all was trained; call again to continue")
        data = plans[0].specs[0].data
        if in_twos and waiting and _may_share([*plans, waiting[-1]]):
            plans.append(waiting.pop())
        specs = [spec for plan in plans for spec in plan.specs]
        names = ", ".join(dict.fromkeys(spec.architecture for spec in specs))
        bar.set_description(f"training {names} ({len(specs)} runs)")
        if data not in images:
            images = {data: load_images(data, device=device)}
        try:
            train_plans(plans, store, images[data], bar.update, stop, workers=1)
        except torch.OutOfMemoryError:
            if len(plans) == 1:
                left += plans
            else:
                in_twos = False
                warnings.warn(
                    "out of GPU memory with two runs side by side: continuing with one", stacklevel=3
                )
                waiting += plans[::-1]
        except Held as error:
            _warn_of_loss(error)
            random.SystemRandom().shuffle(waiting)
    return left


def _may_share(plans: Sequence[Plan]) -> bool:
    """Whether plans are single runs that train on the same images."""
    return all(len(plan.specs) == 1 for plan in plans) and len({plan.specs[0].data for plan in plans}) == 1


def share(
    planned: list[Plan],
    store: RunStore,
    device: torch.device,
    workers: int,
    stop: Callable[[], bool],
    bar: tqdm,
) -> list[Plan]:
    """Train plans in several processes, except held ones; return those that did not fit in memory.

    The first other error is raised once the other workers have stopped.
    """
    bar.set_description(f"training {sum(len(plan.specs) for plan in planned)} runs")
    context = multiprocessing.get_context("spawn")
    steps, halt = context.Queue(), context.Event()
    left = []
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_enter, initargs=(steps, halt)) as pool:
        jobs = {
            pool.submit(_work, plan, store.root, str(device), workers, os.getpid()): plan for plan in planned
        }
        while not all(job.done() for job in jobs):
            with suppress(queue.Empty):
                bar.update(steps.get(timeout=0.2))
            wrong = any(job.done() and not job.cancelled() and _unexpected(job.exception()) for job in jobs)
            if (stop() or wrong) and not halt.is_set():
                halt.set()
                pool.shutdown(wait=False, cancel_futures=True)
        with suppress(queue.Empty):
            while True:
                bar.update(steps.get_nowait())
    errors = [job.exception() for job in jobs if not job.cancelled()]
    for error in (*filter(_unexpected, errors), *(error for error in errors if isinstance(error, Stopped))):
        if error is not None:
            raise error
    if stop():
        raise Stopped("stopped before anything was trained; call again to continue")
    for job, plan in jobs.items():
        if isinstance(job.exception(), torch.OutOfMemoryError):
            left.append(plan)
        _warn_of_loss(job.exception())
    return left


def _unexpected(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, (torch.OutOfMemoryError, Stopped, Held))


def _warn_of_loss(error: BaseException | None) -> None:
    if isinstance(error, LostLease):
        warnings.warn(str(error), stacklevel=4)


_steps: Any = None
_halt: Event | None = None


def _enter(steps: Any, halt: Event) -> None:
    """Set up a worker process: where it reports progress, and how it is asked to stop."""
    global _steps, _halt
    _steps, _halt = steps, halt
    leave_signals_to_parent()


def _work(plan: Plan, root: Path, device: str, workers: int, parent: int) -> None:
    torch.set_num_threads(1)
    assert _halt is not None

    def advance(amount: int) -> None:
        if os.getppid() != parent:
            raise SystemExit("the process that started these runs has ended")
        _steps.put(amount)

    splits = load_images(plan.specs[0].data, device=device)
    train_plans([plan], RunStore(root), splits, advance, _halt.is_set, workers=workers)
