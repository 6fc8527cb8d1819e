"""Recorded attacks with larger budgets: what the book shows, and a store with nothing to record."""

import pytest

from experiments.chapters.robustness import convergence
from experiments.probes.attacks import STEPS
from experiments.reporting.recorded_tables import recorded


def test_every_attack_and_budget_is_recorded_of_both_networks():
    table = recorded(convergence.NAME).table
    assert list(table.index) == [name for name, budgets in STEPS.items() for _ in budgets]
    ratios = table[["IB", "NoPen"]].map(lambda text: float(text.split()[0]))
    assert (ratios >= 1).all(axis=None)  # over the smallest that any of them finds
    assert (ratios.min() < 1.05).all()


def test_a_store_without_runs_has_nothing_to_record(tmp_path):
    with pytest.raises(ValueError, match="no selected run of laptop to attack: train the profile first"):
        convergence.measure(tmp_path, results=tmp_path / "results")
    assert not (tmp_path / "results").exists()
