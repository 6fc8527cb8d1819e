"""Declared runs keep their keys, by which their results are found."""

import hashlib
import json
from pathlib import Path

import pytest

from experiments.studies import ablation, bottlenecks
from experiments.studies.bottleneck_profiles import BOTTLENECK_PROFILES
from experiments.studies.learning_rates import retrained
from experiments.studies.profiles import PROFILES, profile
from lpc.specs import run_key

DIGESTS = json.loads(Path(__file__).with_name("run_keys.json").read_text())
"""Number of declared runs of a profile, and the SHA-256 of their sorted keys, a line each."""


def declared(name: str) -> list[str]:
    """Return the keys of a profile's runs, including those that retrain the chosen rate."""
    specs = ablation.declared(name)
    if profile(name).retrain:
        specs = [*specs, *map(retrained, specs)]
    return [run_key(spec) for spec in specs]


KEYS = {
    **{name: lambda name=name: declared(name) for name in PROFILES},
    **{
        f"bottlenecks {name}": lambda name=name: [run_key(spec) for spec in bottlenecks.declared(name)]
        for name in BOTTLENECK_PROFILES
    },
}


def test_every_profile_has_its_digest():
    assert list(KEYS) == list(DIGESTS)


@pytest.mark.parametrize("study", KEYS)
def test_declared_runs_keep_their_keys(study):
    keys = KEYS[study]()
    digest = hashlib.sha256("".join(f"{key}\n" for key in sorted(keys)).encode()).hexdigest()
    assert {"runs": len(keys), "sha256": digest} == DIGESTS[study]
