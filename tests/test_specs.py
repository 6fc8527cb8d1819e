import dataclasses
import hashlib
import json

import pandas as pd
import pytest

from experiments.ablation import declared
from experiments.recorded import RESULTS
from lpc.specs import (
    PROTOCOL,
    VARIANTS,
    DataSpec,
    ModelSpec,
    Penalty,
    RunSpec,
    TrainSpec,
    _checked,
    canonical_json,
    run_key,
    spec_from_dict,
    variant_spec,
)

DATA = DataSpec(name="digits", validation=100, noise=0.01)
TRAIN = TrainSpec(epochs=4, learning_rate=1e-2)


def make(architecture="IB", *, data=DATA, train=TRAIN, seed=0):
    return variant_spec(architecture, data=data, backbone="mlp", backbone_width=8, train=train, seed=seed)


def test_key_is_the_sha256_of_sorted_compact_json():
    spec = make()
    values = dataclasses.asdict(spec)
    later = {
        "data": ["permutation_seed"],
        "model": ["latent_noise", "encoder", "decoder", "decoder_width", "rescaled", "classifier"],
        "train": ["plateau_factor", "plateau_patience", "metrics", "objective", "samples"],
    }
    later["model"] += ["classifier_scale"]
    later["train"] += ["latent_sd", "latent_sd_factor", "temperature", "margin", "decay"]
    later["train"] += ["gamma_every", "gamma_late_factor", "gamma_late_from"]
    for part, names in later.items():
        for name in names:  # fields that came later are named only where they are chosen
            del values[part][name]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert canonical_json(spec) == text
    assert run_key(spec) == hashlib.sha256(text.encode()).hexdigest()


def test_keys_of_runs_made_before_a_field_was_there_stay():
    recorded = pd.read_csv(RESULTS / "fashion-cpu" / "runs.csv")
    assert set(recorded["key"]) == {run_key(spec) for spec in declared("fashion-cpu")}


def test_later_fields_change_the_key_where_they_are_chosen():
    spec = make()
    chosen = [
        dataclasses.replace(spec, data=dataclasses.replace(DATA, permutation_seed=0)),
        dataclasses.replace(spec, model=dataclasses.replace(spec.model, latent_noise="zero_entropy")),
        dataclasses.replace(spec, train=dataclasses.replace(spec.train, samples=12)),
        dataclasses.replace(spec, train=dataclasses.replace(spec.train, penalty="log_variance")),
    ]
    keys = {run_key(one) for one in (spec, *chosen)}
    assert len(keys) == 5
    assert all(spec_from_dict(json.loads(canonical_json(one))) == one for one in chosen)


@pytest.mark.parametrize(
    ("model", "train", "words"),
    [
        ({"encoder": "categorical", "penultimate": "none", "latent_width": None}, {}, "penultimate"),
        ({"encoder": "categorical", "latent_width": None}, {}, "number of categories"),
        ({"encoder": "categorical", "latent_noise": "zero_entropy"}, {}, "latent_noise"),
        ({"encoder": "categorical"}, {"penalty": "squared_norm"}, "categorical"),
        ({"decoder": "network"}, {}, "continuous"),
        ({}, {"objective": "decoder_uncertainty"}, "optimal"),
        ({"rescaled": True}, {}, "both or neither"),
        ({}, {"latent_sd": 1.0}, "both or neither"),
        ({}, {"latent_sd": 0.0}, "positive"),
        ({}, {"samples": 0}, "samples"),
        ({}, {"plateau_factor": 1.0}, "plateau_factor"),
        ({}, {"penalty": "log_variance", "gamma_initial": -1.0}, "gamma_initial"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(model, train, words):
    spec = make()
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(
            spec,
            model=dataclasses.replace(spec.model, **model),
            train=dataclasses.replace(spec.train, penalty="none")
            if not train
            else dataclasses.replace(spec.train, **{"penalty": "none", **train}),
        )


def test_key_ignores_how_a_number_is_written_but_not_its_value():
    one = make(train=dataclasses.replace(TRAIN, learning_rate=1))
    assert run_key(one) == run_key(make(train=dataclasses.replace(TRAIN, learning_rate=1.0)))
    keys = {run_key(make(seed=seed)) for seed in range(3)} | {run_key(make("LinPen"))}
    assert len(keys) == 4


def test_protocol_is_part_of_the_key():
    spec = make()
    assert spec.protocol == PROTOCOL
    assert run_key(dataclasses.replace(spec, protocol=PROTOCOL + 1)) != run_key(spec)


def test_json_round_trip_keeps_the_key():
    for architecture in VARIANTS:
        spec = make(architecture)
        assert spec_from_dict(json.loads(canonical_json(spec))) == spec


def test_variants_are_table_3():
    penalised = {name for name, variant in VARIANTS.items() if variant.penalty == "squared_norm"}
    assert penalised == {"IB", "WideIB", "NarrowIB", "NonLinIB"}
    assert {name for name, v in VARIANTS.items() if v.penultimate == "nonlinear"} == {
        "NonLinPen",
        "NonLinPenL1",
        "NonLinIB",
    }
    assert {name for name, v in VARIANTS.items() if v.dropout} == {"NoPenDropout", "LinPenDropout"}
    widths = {name: make(name, data=DataSpec(name="svhn")).model.latent_width for name in VARIANTS}
    assert widths["IB"] == 8 and widths["NarrowIB"] == 6 and widths["WideIB"] is None


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: make("NoPenn"), ["'NoPenn'", "NoPen"]),
        (lambda: make(data=DataSpec(name="digit")), ["'digit'", "digits"]),
        (lambda: TrainSpec(epochs=4, learning_rate=-1.0), ["TrainSpec.learning_rate", "-1.0"]),
        (lambda: TrainSpec(epochs=4, learning_rate=float("nan")), ["learning_rate", "nan"]),
        (lambda: TrainSpec(epochs=0, learning_rate=1.0), ["TrainSpec.epochs", "0"]),
        (lambda: _checked(2.5, int, "TrainSpec.epochs"), ["TrainSpec.epochs", "2.5", "int"]),
        (lambda: _checked(True, float, "TrainSpec.l1"), ["TrainSpec.l1", "True", "float"]),
        (
            lambda: _checked("sqared_norm", Penalty, "TrainSpec.penalty"),
            ["TrainSpec.penalty", "squared_norm"],
        ),
        (lambda: TrainSpec(epochs=4, learning_rate=1.0, gamma_initial=0.0), ["gamma_initial"]),
        (lambda: TrainSpec(epochs=4, learning_rate=1.0, gamma_factor=0.9), ["gamma_factor"]),
        (lambda: ModelSpec(backbone="mlp", backbone_width=8, dropout=1.0), ["dropout"]),
        (lambda: ModelSpec(backbone="mlp", backbone_width=8, latent_width=3), ["latent_width", "3"]),
        (lambda: DataSpec(name="digits", validation=-1), ["validation", "-1"]),
        (
            lambda: RunSpec(
                architecture="NoPen",
                data=DATA,
                model=ModelSpec(backbone="mlp", backbone_width=8),
                train=dataclasses.replace(TRAIN, penalty="weight_l1"),
                seed=0,
            ),
            ["weight_l1", "none"],
        ),
        (lambda: spec_from_dict({"architecture": "IB"}), ["data"]),
    ],
)
def test_bad_values_are_named(build, words):
    with pytest.raises(ValueError) as caught:
        build()
    for word in words:
        assert word in str(caught.value)
