"""Importing a module by its old path says where it went."""

import importlib
from importlib.util import find_spec

import pytest

import lpc
from experiments.moved import RENAMED as EXPERIMENTS
from lpc._front.moved import RENAMED as LIBRARY


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lpc.machine", "lpc.computing.devices and lpc.computing.provenance"),
        ("lpc.epochs", "lpc.training.draws and lpc.training.trainers"),
        ("lpc.packing", "lpc.runs.packing"),
        ("lpc.evaluation.attack_methods", "lpc.evaluation._networks.attack_methods"),
        ("experiments.stress", "experiments.studies.probing"),
        ("experiments.slurm", "experiments.cluster.slurm"),
    ],
)
def test_an_old_path_leads_to_the_new_one(old, new):
    package, _, name = old.rpartition(".")
    for statement in (f"import {old}", f"from {old} import anything", f"from {package} import {name}"):
        with pytest.raises(ModuleNotFoundError, match=rf"No module named '{old}': it is {new} now"):
            exec(statement)


def test_the_attribute_of_an_old_path_says_so_too():
    with pytest.raises(AttributeError, match=r"no attribute 'machine': it is lpc\.computing\.devices and"):
        getattr(lpc, "machine")  # noqa: B009
    with pytest.raises(AttributeError, match=r"no attribute 'packing'; there is lpc\.runs\.packing"):
        getattr(lpc, "packing")  # noqa: B009


@pytest.mark.parametrize("name", ["lpc.nothing_of_that_name", "experiments.nothing", "elsewhere.machine"])
def test_what_never_was_is_not_there(name):
    with pytest.raises(ModuleNotFoundError, match=rf"No module named '{name.partition('.')[0]}[^:]*'$"):
        importlib.import_module(name)


def test_the_tables_lead_to_modules_that_are_there():
    for old, new in {**LIBRARY, **EXPERIMENTS}.items():
        for place in new.split(" and "):
            assert find_spec(place) is not None, f"{old} leads to {place}"
