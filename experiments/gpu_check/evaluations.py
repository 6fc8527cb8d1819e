"""Cost of measurements on a GPU: entropies by torch and by faiss, DeepFool, memory."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.sizes import points_of
from experiments.gpu_check.amounts import Amount, Rows
from experiments.gpu_check.speed import DEVICE, images_of, timed
from experiments.studies.image_shapes import random_images
from lpc.classifiers import build_classifier
from lpc.evaluation.information import knn_entropy
from lpc.evaluation.neighbours import kth_distance
from lpc.evaluation.robustness import deepfool
from lpc.training.solo import Solo

SPREADS = {"Gaussian": None, "10 classes of sd 1e-3": 1e-3, "10 classes of sd 1e-7": 1e-7}


def entropy(amount: Amount, seconds: float) -> Rows:
    """Yield the seconds that k-th distances take by torch and by faiss, and how the distances differ."""
    del seconds
    for kind, spread in SPREADS.items():
        points = torch.from_numpy(points_of(amount.points, amount.width, spread)).to(DEVICE)
        what = f"{kind}, {amount.points:,} x {amount.width}"
        by = {"torch": _search("products"), "faiss": _search("faiss")}
        found: dict[str, Tensor] = {}
        for name, search in by.items():
            if search is None:
                note = "this version of the library has no faiss path"
                yield f"{what}, {name}", {"seconds": None, "note": note}
                continue
            try:
                first, found[name] = timed(partial(search, points, k=amount.k))
                again, _ = timed(partial(search, points, k=amount.k))
            except (ValueError, ImportError) as error:  # faiss is not installed, or k is beyond its limit
                yield f"{what}, {name}", {"seconds": None, "note": str(error).splitlines()[0]}
                continue
            values: dict[str, Any] = {"seconds": again, "first call (s)": first}
            if name == "faiss" and "torch" in found:
                apart = (found[name] - found["torch"]).abs().max() / found["torch"].abs().max()
                values["apart from torch"] = float(apart)
            yield f"{what}, {name}", values


def _search(method: str) -> Callable[..., Tensor] | None:
    """Return the search by a method; None if this version does not have it."""
    search: Any = kth_distance
    known = "method" in inspect.signature(search).parameters
    if not known:
        return partial(search, norm="l2") if method == "products" else None
    return partial(search, norm="l2", method=method)


def deepfool_steps(amount: Amount, seconds: float) -> Rows:
    """Yield the seconds that DeepFool takes on an untrained network, and whether the decisions change."""
    del seconds
    for dtype in (torch.float32, torch.float64):
        spec = amount.run(amount.networks[0])
        images = random_images(spec.data, amount.attacked, device=DEVICE)
        model = build_classifier(
            spec.model, channels=images.channels, size=images.size, classes=images.classes, seed=0
        )
        model = model.to(DEVICE, dtype).eval()
        shown = images.normalised().to(dtype)
        attack = partial(deepfool, lambda value, model=model: model(value).logits, shown)
        first, _ = timed(attack)
        spent, found = timed(attack)
        with torch.no_grad():
            moved = model(shown + found.perturbation).logits.argmax(dim=1)
            changed = moved != model(shown).logits.argmax(dim=1)
        yield (
            f"{amount.attacked} images, {str(dtype).removeprefix('torch.')}",
            {
                "seconds": spent,
                "first call (s)": first,
                "steps (mean)": float(found.iterations.double().mean()),
                "fooled": float(found.fooled.double().mean()),
                "decision changed": float(changed.double().mean()),
            },
        )


def memory(amount: Amount, seconds: float) -> Rows:
    """Yield the peak memory of training and of an entropy, including their data."""
    del seconds
    for network in amount.networks:
        spec = amount.run(network)
        for name, graphed in (("eager", False), ("graph", True)):

            def train(spec: Any = spec, graphed: bool = graphed) -> None:
                Solo([spec], images_of(spec, amount), compiled=False, graphed=graphed).train_epoch()

            yield f"training, {spec.model.backbone}, {name}", {"GB": held(train)}
    points = torch.from_numpy(points_of(amount.points, amount.width))
    entropy_of = held(lambda: knn_entropy(points.to(DEVICE), k=amount.k))
    yield f"entropy, {amount.points:,} x {amount.width}", {"GB": entropy_of}


def held(call: Callable[[], Any]) -> float:
    """Return the peak GPU memory of a call in GB."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e9
