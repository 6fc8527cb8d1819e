"""The wiring: a spec becomes a trained, measured, stored run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lpc.data import ImageSet, Splits, load_images
from lpc.heads import Classifier
from lpc.latents import Latents
from lpc.machine import default_device, provenance
from lpc.measurements import Measured, accuracy, cube_metrics, latent_metrics, table2_metrics
from lpc.specs import DataSpec, RunSpec, run_key
from lpc.store import RunStore
from lpc.training import Cohort, bad_epoch, learning_rate, load_member, shape_of

COHORT_SIZE = 14
"""Most runs that train together: more gain little, and leave other workers nothing to do."""
TERMINAL_ACCURACY = 0.999
"""Train accuracy at which the terminal phase begins (LPC Appendix C)."""


def _passed(entry: dict[str, Any]) -> bool:
    return entry.get("accuracy", 0.0) >= TERMINAL_ACCURACY


def _converged(history: list[dict[str, Any]]) -> bool:
    """Whether train accuracy has passed the terminal phase's threshold: from then on it is only recorded."""
    return any(_passed(entry) for entry in history)


def execute(spec: RunSpec, store: RunStore, *, device: torch.device | None = None) -> dict[str, Any]:
    """Train and measure one run alone; a finished run is returned as it is.

    Parameters
    ----------
    spec
        The run.
    store
        Where it is kept; a run that was interrupted goes on from its last checkpoint.
    device
        Where to train; the GPU by default, where there is one.

    Returns
    -------
    dict
        The run's result.
    """
    execute_all([spec], store, device=device, progress=False)
    return store.result(spec)


def execute_all(
    specs: Sequence[RunSpec],
    store: RunStore,
    *,
    device: torch.device | None = None,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Train and measure every run that is not finished, those of one shape together.

    Parameters
    ----------
    specs
        Runs; the order and the number decide the packing of those not yet begun.
    store
        Where they are kept. Cohorts that were interrupted go on with the members they began with.
    device
        Where to train; the GPU by default, where there is one.
    workers
        Processes, of one thread each, that share the cohorts; 1 trains in this process. More than one
        is for the CPU, and a script that asks for it needs the usual ``if __name__ == "__main__"``.
    progress
        Whether to show a progress bar.
    """
    device = device or default_device()
    waiting = {run_key(spec): spec for spec in specs if not store.finished(spec)}
    planned: list[tuple[str, list[RunSpec]]] = []
    for cohort, keys in store.cohorts().items():
        if any(key in waiting for key in keys):
            planned.append((cohort, [store.spec(key) for key in keys]))
            for key in keys:
                waiting.pop(key, None)
    shapes: dict[str, list[RunSpec]] = {}
    for spec in waiting.values():
        shapes.setdefault(shape_of(spec), []).append(spec)
    for alike in shapes.values():
        pieces = -(-len(alike) // COHORT_SIZE)
        planned += [(store.begin(alike[piece::pieces]), alike[piece::pieces]) for piece in range(pieces)]
    if not planned:
        return
    planned.sort(key=lambda plan: len(plan[1]) * (plan[1][0].model.latent_width or 100), reverse=True)
    total = sum(len(members) * members[0].train.epochs for _, members in planned)
    with tqdm(total=total, unit=" run-epochs", mininterval=1, disable=not progress) as bar:
        if workers == 1:
            images: dict[DataSpec, Splits] = {}
            for cohort, members in planned:
                names = ", ".join(dict.fromkeys(spec.architecture for spec in members))
                bar.set_description(f"training {names} ({len(members)} runs)")
                data = members[0].data
                if data not in images:
                    images[data] = load_images(data, device=device)
                _train_cohort(cohort, members, store, images[data], bar.update)
        else:
            bar.set_description(f"training {sum(len(members) for _, members in planned)} runs")
            _share(planned, store, device, min(workers, len(planned)), bar)


def _share(
    planned: list[tuple[str, list[RunSpec]]], store: RunStore, device: torch.device, workers: int, bar: tqdm
) -> None:
    """Train cohorts in several processes; the first error is raised once the others have stopped."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        steps = manager.Queue()
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            jobs = [
                pool.submit(_work, cohort, members, store.root, str(device), steps, os.getpid())
                for cohort, members in planned
            ]
            while not all(job.done() for job in jobs):
                with contextlib.suppress(queue.Empty):
                    bar.update(steps.get(timeout=0.2))
                if any(job.done() and job.exception() for job in jobs):
                    pool.shutdown(wait=True, cancel_futures=True)
                    break
            while not steps.empty():
                bar.update(steps.get())
        for job in jobs:
            if not job.cancelled():
                job.result()


def _work(
    cohort: str, specs: list[RunSpec], root: Path, device: str, steps: queue.Queue[int], parent: int
) -> None:
    torch.set_num_threads(1)

    def advance(amount: int) -> None:
        if os.getppid() != parent:
            raise SystemExit("the process that asked for these runs is gone")
        steps.put(amount)

    _train_cohort(cohort, specs, RunStore(root), load_images(specs[0].data, device=device), advance)


def _train_cohort(
    cohort: str,
    specs: Sequence[RunSpec],
    store: RunStore,
    splits: Splits,
    advance: Callable[[int], object],
) -> None:
    device = splits.train.images.device
    training = Cohort(specs, splits.train)
    histories: list[list[dict[str, Any]]] = [[] for _ in specs]
    failed: list[int | None] = [None] * len(specs)
    seconds = 0.0
    state = store.load_state(cohort, device)
    if state is not None:
        training.load_state_dict(state["training"])
        histories, failed, seconds = state["histories"], state["failed"], state["seconds"]
        advance(training.epoch * len(specs))
    train = specs[0].train
    began = time.monotonic() - seconds
    while not training.finished:
        gamma, epoch = training.gamma(), training.epoch
        loss = training.train_epoch()
        for member, bad in enumerate(bad_epoch(loss)):
            if bad and failed[member] is None:
                failed[member] = training.epoch
        recorded = training.finished or training.epoch % train.record_every == 0
        unconverged = [m for m in range(len(specs)) if failed[m] is None and not _converged(histories[m])]
        outputs = training.outputs(splits.train) if recorded or unconverged else None
        for member, spec in enumerate(specs):
            if failed[member] is not None:
                continue
            entry: dict[str, Any] = {
                "epoch": training.epoch,
                "gamma": gamma[member],
                "learning_rate": learning_rate(epoch, spec.train),
                "loss_cross_entropy": float(loss.cross_entropy[member]),
                "loss_penalty": float(loss.penalty[member]),
            }
            if outputs is not None and (recorded or member in unconverged):
                latents = Latents(outputs.latent[member], outputs.logits[member], splits.train.label)
                if not bool(torch.isfinite(latents.logits).all()):
                    failed[member] = training.epoch
                    continue
                entry["accuracy"] = accuracy(latents.logits, latents.label)
                if recorded:
                    weights = training.member_state(member)
                    entry |= latent_metrics(
                        latents,
                        weight=weights["head.classifier.weight"],
                        bias=weights["head.classifier.bias"],
                        classes=splits.train.classes,
                        mixtures=training.finished or spec.model.penultimate == "linear",
                    ).as_dict()
            histories[member].append(entry)
        advance(len(specs))
        if recorded:
            store.save_state(
                cohort,
                {
                    "training": training.state_dict(),
                    "histories": histories,
                    "failed": failed,
                    "seconds": time.monotonic() - began,
                },
            )
    _finish(training, specs, store, splits, histories, failed, cohort, time.monotonic() - began)
    store.end(cohort)


def _finish(
    training: Cohort,
    specs: Sequence[RunSpec],
    store: RunStore,
    splits: Splits,
    histories: list[list[dict[str, Any]]],
    failed: list[int | None],
    cohort: str,
    seconds: float,
) -> None:
    outputs = training.outputs(splits.train)
    held = training.outputs(splits.validation) if splits.validation is not None else None
    shared = {
        **provenance(splits.train.images.device),
        "data_checksum": splits.train.checksum(),
        "cohort": cohort,
        "cohort_runs": len(specs),
        "cohort_seconds": round(seconds, 3),
    }
    for member, spec in enumerate(specs):
        if store.finished(spec):
            continue
        history = histories[member]
        if failed[member] is not None:
            result: dict[str, Any] = {
                "status": "failed",
                "reason": f"the loss was not finite in epoch {failed[member]}",
                "epoch": failed[member],
            }
        else:
            final = dict(history[-1])
            passed = [entry["epoch"] for entry in history if _passed(entry)]
            cube = Measured()
            latents = Latents(outputs.latent[member], outputs.logits[member], splits.train.label)
            cube.add(
                ["cube_spread", "cube_patterns", "cube_dead_nodes"],
                lambda latents=latents: cube_metrics(latents),
            )
            result = {
                "status": "finished",
                **final,
                **cube.values,
                "missing": {**final["missing"], **cube.missing},
                "terminal_epoch": passed[0] if passed else None,
                "readout_lost": final["nearest_mean_accuracy"] - final["accuracy"] > 0.1,
                "validation_accuracy": None,
                "validation_cross_entropy": None,
            }
            if held is not None and splits.validation is not None:
                logits, label = held.logits[member].double(), splits.validation.label
                result["validation_accuracy"] = accuracy(logits, label)
                result["validation_cross_entropy"] = float(cross_entropy(logits, label))
        store.finish(
            spec,
            result=result,
            history=history,
            provenance={**shared, "seed": spec.seed},
            weights=training.member_state(member),
        )


def load_model(spec: RunSpec, store: RunStore, images: ImageSet) -> Classifier:
    """Return a finished run's classifier, in evaluation mode, on the device of the images."""
    return load_member(spec, images, store.load_weights(spec))


def measure(spec: RunSpec, store: RunStore, *, device: torch.device | None = None) -> dict[str, Any]:
    """Measure a selected run on the test set (LPC Table 2), once; a measured run is returned as it is.

    Parameters
    ----------
    spec
        A finished run whose learning rate was selected without the test set.
    store
        Where its weights are and its test metrics go.
    device
        Where to measure; the GPU by default, where there is one.
    """
    if store.measured(spec):
        return store.test(spec)
    splits = load_images(spec.data, device=device or default_device())
    model = load_member(spec, splits.test, store.load_weights(spec))
    store.save_test(spec, table2_metrics(model, splits).as_dict())
    return store.test(spec)


def measure_all(
    specs: Sequence[RunSpec], store: RunStore, *, device: torch.device | None = None, progress: bool = True
) -> None:
    """Measure every selected run that has no test metrics yet."""
    todo = [spec for spec in specs if not store.measured(spec)]
    for spec in tqdm(todo, desc="measuring on test", unit=" runs", disable=not progress or not todo):
        measure(spec, store, device=device)
