"""Correctness on a GPU: whether ways to take steps agree to the bit, and the tests that need a GPU."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.gpu_check.amounts import Amount, Rows
from experiments.gpu_check.speed import images_of
from experiments.paths import ROOT
from lpc.data import ImageSet
from lpc.specs import RunSpec
from lpc.training import trainer
from lpc.training.solo import Solo

EPOCHS = 2


def bits(amount: Amount, seconds: float) -> Rows:
    """Yield how runs that should be the same differ: in their weights, relative to the largest weight.

    We compare plain steps with themselves (to see what repeats at all), recorded steps with plain ones and
    with themselves, and a recorded run that was stopped and resumed. Nothing is compiled, because Inductor's
    kernels differ on purpose.
    """
    del seconds
    for precision in ("float32", "bfloat16"):
        spec = amount.run(amount.networks[0], precision=precision)  # type: ignore[arg-type]
        images = images_of(spec, amount)
        plain = _trained(spec, images, graphed=False)
        recorded = _trained(spec, images, graphed=True)
        for what, ours, theirs in (
            ("plain steps, twice", _trained(spec, images, graphed=False), plain),
            ("recorded steps, twice", _trained(spec, images, graphed=True), recorded),
            ("recorded steps beside plain ones", recorded, plain),
            ("stopped and resumed, recorded", _resumed(spec, images), recorded),
        ):
            yield f"{what}, {precision}", compared(ours, theirs)


def compared(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Any]:
    """Return whether two states are equal to the bit, and their largest difference over the largest entry."""
    apart, size = 0.0, 0.0
    for name, value in theirs.items():
        apart = max(apart, float((ours[name].double() - value.double()).abs().max()))
        size = max(size, float(value.double().abs().max()))
    return {"equal to the bit": apart == 0, "difference": apart / size if size else apart}


def _trained(spec: RunSpec, images: ImageSet, *, graphed: bool) -> dict[str, Tensor]:
    training = Solo([spec], images, compiled=False, graphed=graphed)
    for _ in range(EPOCHS):
        training.train_epoch()
    return training.member_state(0)


def _resumed(spec: RunSpec, images: ImageSet) -> dict[str, Tensor]:
    content = io.BytesIO()
    half, other = (trainer([spec], images, compiled=False, graphed=True) for _ in range(2))
    half.train_epoch()
    torch.save(half.state_dict(), content)
    content.seek(0)
    other.load_state_dict(torch.load(content, map_location="cpu", weights_only=True))
    for _ in range(EPOCHS - 1):
        other.train_epoch()
    return other.member_state(0)


def marked(folder: Path) -> list[Path]:
    """Return the test files that have a test marked ``gpu``."""
    found = (path for path in sorted(folder.rglob("test_*.py")))
    return [path for path in found if re.search(r"\bmark\.gpu\b", path.read_text(encoding="utf-8"))]


def tests(amount: Amount, seconds: float) -> Rows:
    """Yield how many of the tests marked ``gpu`` pass, and the failing ones with their messages.

    Raises
    ------
    RuntimeError
        If a test failed, or none was run.
    """
    paths = marked(amount.tests)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *map(str, paths)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, seconds), check=False
        )
        if not report.exists():
            said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise RuntimeError(f"pytest ended with status {done.returncode}: {said[-1]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcome: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in cases:
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        told = next(iter(case), None)
        kind = "passed" if told is None or told.tag not in ("failure", "error", "skipped") else told.tag
        outcome["skipped" if kind == "skipped" else "passed" if kind == "passed" else "failed"].append(name)
        if told is not None and kind != "passed":
            yield name, {"outcome": kind, "said": (told.get("message") or "no message").splitlines()[0][:200]}
    counts = {name: len(those) for name, those in outcome.items()}
    yield "all", {"outcome": ", ".join(f"{count} {name}" for name, count in counts.items())}
    if outcome["failed"] or not outcome["passed"]:
        raise RuntimeError(f"{counts['failed']} of {len(cases)} tests failed, {counts['passed']} passed")
