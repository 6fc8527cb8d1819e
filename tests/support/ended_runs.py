"""Runs that have ended without training: complete, with the result that a test wants."""

import json

import torch

from lpc.specs import run_key


def end(store, spec, *, history=({"epoch": 1},), provenance=None, weights=None, **result):
    """Write a run as training would leave it; its status is ``finished`` unless another is given."""
    cohort = store.begin([spec])
    store.finish(
        spec,
        result={"status": "finished", **result},
        history=history,
        provenance=provenance or {},
        weights={"weight": torch.zeros(1)} if weights is None else weights,
    )
    store.end(cohort)


def altered(store, spec, *, provenance=None, **result):
    """Write a run that has ended again, with another provenance or other fields of its result."""
    key = run_key(spec)
    kept, made = store.result(spec), store.provenance(spec)
    (store.directory(key) / "result.json").unlink()  # which training never replaces
    end(
        store,
        spec,
        history=[
            json.loads(line) for line in (store.directory(key) / "history.jsonl").read_text().splitlines()
        ],
        provenance=made | (provenance or {}),
        weights=store.load_weights(spec),
        **kept | result,
    )
