"""Runs that look trained and measured, without training."""

from experiments.reporting import claims
from experiments.studies.probing import PROBES

PROBED = tuple(f"{name}_" for name in PROBES)
"""How metrics begin that probes find: they are not of epochs."""
METRICS = sorted(
    {
        one.metric
        for one in claims.read()
        if one.quantity != "paper_welch" and not one.metric.startswith(PROBED)
    }
    - {"terminal_epoch", "rms"}
)
"""Those of claims, of both papers' runs: more than any one run has."""


def pretend(store, spec, rng):
    """Write a run as if it had been trained and measured, with as many numbers as a real one has."""
    draw = {f"metric_{place}": rng.lognormal(sigma=9) for place in range(20)}
    entry = {**draw, **{name: rng.random() for name in METRICS if not name.startswith(("test_", "cube_"))}}
    history = [{"epoch": 1, "gamma": 0.1}, {**entry, "epoch": 2, "missing": {}}]
    history += [{"epoch": 3, "gamma": 0.2}, {**entry, "epoch": 4, "missing": {"x": "why"}}]
    result = {**history[-1], "status": "finished", "readout_lost": bool(rng.random() < 0.5)}
    result |= {name: rng.random() for name in METRICS if name.startswith("cube_")}
    result |= {"terminal_epoch": 2 if rng.random() < 0.5 else None, "validation_cross_entropy": rng.random()}
    result["validation_accuracy"] = rng.random() if spec.data.validation else None
    made = {"commit": "a" * 40, "dirty": False, "device": "cpu", "threads": 1, "python": "3", "versions": {}}
    made |= {"data_checksum": "0", "cohort_runs": 4, "cohort_seconds": 100 * rng.random()}
    store.begin([spec])
    store.finish(spec, result=result, history=history, provenance=made, weights={})
    tested = {name: rng.random() for name in METRICS if name.startswith("test_")}
    store.save_test(spec, {name.removeprefix("test_"): value for name, value in tested.items()})
