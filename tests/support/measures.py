"""Every public function of `lpc.evaluation` and `lpc.losses`, and random arguments for calling one."""

import enum
import importlib
import inspect
import pkgutil
from typing import Any, NamedTuple

import numpy as np
from support.references import CLASSES, IMAGE

import lpc.evaluation


def public() -> dict[Any, str]:
    """Return, by name, every public function, and every class that is more than a tuple of results."""
    names = [f"lpc.evaluation.{module.name}" for module in pkgutil.iter_modules(lpc.evaluation.__path__)]
    found = {}
    names = [name for name in names if not name.rpartition(".")[2].startswith("_")]
    for name in [*names, "lpc.losses", "lpc.schedules.gammas"]:
        for key, value in vars(importlib.import_module(name)).items():
            own = getattr(value, "__module__", None) == name and not key.startswith("_")
            kind = inspect.isfunction(value) or hasattr(value, "__wrapped__")
            if inspect.isclass(value):
                kind = not issubclass(value, (tuple, enum.Enum)) and key != "Attack"
            if own and kind:
                found[value] = f"{name.rpartition('.')[2]}.{key}"
    return found


PUBLIC = public()


class Draw(NamedTuple):
    """The random arguments of one call."""

    rng: np.random.Generator
    points: int
    width: int
    flavour: str
    labels: str

    def one(self, *options):
        return options[self.rng.integers(len(options))]

    def array(self, kind: str, dtype: Any) -> np.ndarray:
        rng, n = self.rng, self.points
        if kind in ("label", "train_label"):
            size = n if kind == "label" else 3 * n + 8
            value = rng.integers(0, CLASSES, size)
            value = {
                "few": value % 2,
                "one class": np.full(size, 2),
                "negative": value - 7,
                "absurd": value * 10**10 - 5,
            }.get(self.labels, value)
            return value
        if kind == "flag":
            return rng.random(n) < 0.6
        if kind in ("pixels", "pictures"):
            return rng.random((n, *IMAGE)).astype(dtype)
        if kind == "probability":
            return rng.dirichlet(np.ones(CLASSES), n).astype(dtype)
        if kind == "joint":
            return rng.dirichlet(np.ones(24)).reshape(2, 3, 4).astype(dtype)
        if kind == "radius":
            return rng.random(n).astype(dtype) + 0.1
        shape = {"scores": (n,), "train": (3 * n + 8, self.width)}.get(kind, (n, self.width))
        value = rng.standard_normal(shape)
        if self.flavour == "collapsed" and len(shape) == 2:
            value = value[:1] + 1e-2 * value
        if self.flavour == "repeated":
            value[len(value) // 2 :] = value[0]
        if self.flavour == "constant":
            value[:] = value[0]
        scale = {"tiny": 2.0**-20, "huge": 2.0**20, "zero": 0.0}.get(self.flavour, 1.0)
        return (scale * value).astype(dtype)
