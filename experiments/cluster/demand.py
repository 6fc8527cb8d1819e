"""What a request's missing runs need: how many they are, their hours and disk space."""

from __future__ import annotations

from collections import Counter

from experiments.benchmarks.epoch_times import Model, hours_left, missing_times, model_of
from experiments.benchmarks.training_flops import Stored, stored
from experiments.cluster.submissions import Request

_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def _bytes(count: float) -> str:
    unit, size = next((unit, size) for unit, size in _UNITS if count >= size or size == 1e3)
    return f"{count / size:.3g} {unit}"


def of_request(request: Request) -> str:
    """Return lines that state the number, hours and disk space of a request's missing runs.

    Disk space counts the weights that finished runs keep and the checkpoints of runs under way; both are
    measured by writing them for each model after one step.
    """
    lines: list[str] = []
    untimed: list[Model] = []
    for study in request.selection.studies():
        needed = study.needed
        missing = [spec for spec in needed if not study.store.finished(spec)]
        lines.append(f"{study.profile.name}: {len(missing)} of {len(needed)} runs are missing")
        if not missing:
            continue
        hours = hours_left(needed, study.store, untimed=untimed)
        lines += [f"  run-hours: {line}" for line in hours.splitlines()]
        examples = {model_of(spec): spec for spec in missing}
        sizes: dict[Model, Stored] = {model: stored(spec) for model, spec in examples.items()}
        count = Counter(map(model_of, missing))
        kept = sum(sizes[model].weights * number for model, number in count.items())
        largest = max(size.checkpoint for size in sizes.values())
        lines.append(f"  disk: {_bytes(kept)} kept, and {_bytes(largest)} per run under way")
    if untimed:
        lines.append(missing_times(untimed, request.profile))
    return "\n".join(lines)
