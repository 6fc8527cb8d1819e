"""The wiring: a spec becomes a trained, measured, stored run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lpc.data import ImageSet, Splits, load_images
from lpc.evaluation import binarity, collapse, information, neural_collapse, reliability, robustness
from lpc.latents import Latents, collect
from lpc.specs import DataSpec, RunSpec, run_key
from lpc.store import RunStore
from lpc.training import Cohort, bad_epoch, learning_rate, load_member, shape_of

COHORT_SIZE = 14
"""Most runs that train together: more gain little, and leave other workers nothing to do."""
ATTACKED_IMAGES = 100
"""Test images that DeepFool attacks, as in LPC Table 2."""
SHRINKAGE = 0.1
"""Shrinkage of the second Mahalanobis column, for classes with fewer points than the latent has nodes."""
TERMINAL_ACCURACY = 0.999
"""Train accuracy at which the terminal phase begins (LPC Appendix C)."""


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_workers() -> int:
    """Return one process a core this process may use, or one where there is a GPU."""
    if torch.cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Return what a result depends on beside its spec: code, versions, device."""
    device = device or default_device()
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    tracked = git("ls-files", "--error-unmatch", Path(__file__).name) is not None
    changes = git("status", "--porcelain", "--", ".") if tracked else None
    return {
        "commit": git("rev-parse", "HEAD") if tracked else None,
        "dirty": None if changes is None else bool(changes),
        "python": sys.version.split()[0],
        "versions": {
            name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn")
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


@dataclass
class Measured:
    """Metrics by name; one that could not be computed is None, with its reason under ``missing``."""

    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, names: Iterable[str], compute: Callable[[], Any]) -> None:
        """Compute one value or a tuple of them; a ValueError leaves all of them missing."""
        names = list(names)
        try:
            result = compute()
        except ValueError as error:
            self.missing.update(dict.fromkeys(names, str(error)))
            result = [None] * len(names)
        values = result if isinstance(result, (list, tuple)) else [result]
        self.values.update(zip(names, values, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return values and reasons as one mapping."""
        return {**self.values, "missing": self.missing}


def neighbours(images: int, classes: int) -> int:
    """Return k of the entropy: 2 % of the mean class size (100 of CIFAR10's 5,000), at least 1."""
    return max(1, round(0.02 * images / classes))


def latent_metrics(
    latents: Latents, *, weight: Tensor, bias: Tensor, classes: int, mixtures: bool
) -> Measured:
    """Measure the columns of LPC Table 1 and Figures 2 and 3 on latents, raw and scale-free.

    Parameters
    ----------
    latents
        Of the train set, without augmentation.
    weight, bias
        Of the last classifier, for the accuracy without bias and for NC3 and NC4.
    classes
        Number of classes.
    mixtures
        Whether to fit the mixtures of Figure 2, the slowest part by far.
    """
    z, label = latents.latent.double(), latents.label
    k = neighbours(len(label), classes)
    measured = Measured()
    add = measured.add

    def unit() -> Tensor:
        return collapse.rescale_to_unit_rms(z)

    add(["accuracy"], lambda: accuracy(latents.logits, label))
    add(["bias_free_accuracy"], lambda: accuracy(z @ weight.double().T, label))
    add(["nearest_mean_accuracy"], lambda: collapse.nearest_mean_accuracy(z, label, z, label))
    add(["cross_entropy"], lambda: float(cross_entropy(latents.logits.double(), label)))
    add(["trace_within", "trace_between", "trace_ratio"], lambda: collapse.within_between_traces(z, label))
    add(
        ["sigma_w_mean_entry"],
        lambda: collapse.mean_entry(collapse.within_class_covariance(z, label, convention="released")),
    )
    add(["coefficient_of_variation"], lambda: collapse.norm_coefficient_of_variation(z))
    add(["rms"], lambda: float(z.square().mean().sqrt()))
    add(["knn_entropy"], lambda: information.knn_entropy(z, k=k))
    add(["knn_entropy_unit_rms"], lambda: information.knn_entropy(unit(), k=k))
    if mixtures:
        add([f"binarity_{name}" for name in binarity.Binarity._fields], lambda: binarity.binarity(z))
    nc = (
        "nc1",
        "nc1_per_node",
        "nc1_per_rank",
        "nc_equinorm",
        "nc_equiangularity",
        "nc_max_angle",
        "nc3",
        "nc4",
    )
    add(nc, lambda: _neural_collapse(z, label, weight, bias))
    return measured


def _neural_collapse(z: Tensor, label: Tensor, weight: Tensor, bias: Tensor) -> list[Any]:
    found = neural_collapse.neural_collapse(z, label, classifier_weight=weight, classifier_bias=bias)
    return [value for name, value in found._asdict().items() if name != "trace_ratio"]


def _cube(latents: Latents) -> tuple[float, int, int]:
    cube = binarity.hypercube(latents.latent.double(), latents.label)
    return cube.mean_variation, cube.patterns, cube.dead


def accuracy(scores: Tensor, label: Tensor) -> float:
    """Return the share of points whose largest score is their label's."""
    return float((scores.argmax(dim=1) == label).double().mean())


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
    with tqdm(total=total, unit=" run-epochs", disable=not progress) as bar:
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
                lambda latents=latents: _cube(latents),
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


def load_model(spec: RunSpec, store: RunStore, images: ImageSet) -> torch.nn.Module:
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

    Notes
    -----
    DeepFool attacks the same :data:`ATTACKED_IMAGES` test images for every run, drawn with seed 0 and
    correctly classified or not, in float64 and in normalised units; its mean ratio over all of them is
    the paper's column, with unfooled images counted beside it.
    """
    if store.measured(spec):
        return store.test(spec)
    splits = load_images(spec.data, device=device or default_device())
    model = load_member(spec, splits.test, store.load_weights(spec))
    train, test = collect(model, splits.train), collect(model, splits.test)
    correct = test.predicted == test.label
    measured = Measured()
    add = measured.add
    add(["accuracy"], lambda: accuracy(test.logits, test.label))
    bias_free = test.latent.double() @ model.head.classifier.weight.detach().double().T
    add(["bias_free_accuracy"], lambda: accuracy(bias_free, test.label))
    add(
        ["nearest_mean_accuracy"],
        lambda: collapse.nearest_mean_accuracy(train.latent, train.label, test.latent, test.label),
    )
    add(["cross_entropy"], lambda: float(cross_entropy(test.logits.double(), test.label)))
    fitted = (train.latent, train.label, train.predicted, test.latent, test.predicted)
    for name, shrinkage in (("auroc_mahalanobis", 0.0), ("auroc_mahalanobis_shrunk", SHRINKAGE)):
        add(
            [name],
            lambda shrinkage=shrinkage: reliability.misclassification_auroc(
                reliability.mahalanobis_confidence(*fitted, shrinkage=shrinkage), correct
            ),
        )
    add(
        ["auroc_odin"],
        lambda: reliability.misclassification_auroc(reliability.odin_confidence(test.logits), correct),
    )
    attack(measured, model, splits.test, correct)
    store.save_test(spec, measured.as_dict())
    return store.test(spec)


def attack(measured: Measured, model: torch.nn.Module, images: ImageSet, correct: Tensor) -> None:
    """Attack a fixed sample with DeepFool and add relative norms: all, correct alone, in pixel units."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:ATTACKED_IMAGES]
    chosen = chosen.to(images.images.device)
    inputs = images.normalised(chosen).double()
    copy = model.double()
    result = robustness.deepfool(lambda batch: copy(batch).logits, inputs)
    ratio = torch.as_tensor(robustness.relative_perturbation(result.perturbation, inputs))
    sd = torch.tensor(images.sd, device=inputs.device).reshape(-1, 1, 1)
    mean = torch.tensor(images.mean, device=inputs.device).reshape(-1, 1, 1)
    pixel = torch.as_tensor(robustness.relative_perturbation(result.perturbation * sd, inputs * sd + mean))
    right = correct[chosen]
    measured.add(["deepfool_relative_norm"], lambda: float(ratio.mean()))
    measured.add(["deepfool_relative_norm_correct"], lambda: float(ratio[right].mean()))
    measured.add(["deepfool_median"], lambda: float(ratio.median()))
    measured.add(["deepfool_relative_norm_pixel"], lambda: float(pixel.mean()))
    measured.add(["deepfool_unfooled"], lambda: int((~result.fooled).sum()))
    measured.add(["deepfool_images"], lambda: len(chosen))
    model.float()


def measure_all(
    specs: Sequence[RunSpec], store: RunStore, *, device: torch.device | None = None, progress: bool = True
) -> None:
    """Measure every selected run that has no test metrics yet."""
    todo = [spec for spec in specs if not store.measured(spec)]
    for spec in tqdm(todo, desc="measuring on test", unit=" runs", disable=not progress or not todo):
        measure(spec, store, device=device)
