import dataclasses
import hashlib
import json

import pytest

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
    text = json.dumps(dataclasses.asdict(spec), sort_keys=True, separators=(",", ":"))
    assert canonical_json(spec) == text
    assert run_key(spec) == hashlib.sha256(text.encode()).hexdigest()


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
