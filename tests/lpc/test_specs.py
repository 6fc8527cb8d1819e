import dataclasses
import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from experiments.studies.ablation import declared
from experiments.studies.recorded import RESULTS
from lpc.specs import (
    EMBEDDINGS,
    GAMMAS,
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


def make(architecture="IB", *, data=DATA, train=TRAIN, seed=0, variants=VARIANTS):
    return variant_spec(
        architecture,
        data=data,
        backbone="mlp",
        backbone_width=8,
        train=train,
        seed=seed,
        variants=variants,
    )


def test_key_is_the_sha256_of_sorted_compact_json():
    spec = make()
    values = dataclasses.asdict(spec)
    later = {
        "data": ["permutation_seed", "first_classes"],
        "model": ["latent_noise", "encoder", "decoder", "decoder_width", "rescaled", "classifier"],
        "train": ["plateau_factor", "plateau_patience", "metrics", "objective", "samples"],
    }
    later["model"] += ["classifier_scale", "spectral_norm", "logit_temperature"]
    later["train"] += ["latent_sd", "latent_sd_factor", "temperature", "margin", "decay"]
    later["train"] += ["gamma_every", "gamma_late_factor", "gamma_late_from"]
    later["train"] += ["optimizer", "momentum", "label_smoothing", "centre_rate", "norm_power"]
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
        dataclasses.replace(spec, data=dataclasses.replace(DATA, first_classes=7)),
        dataclasses.replace(spec, model=dataclasses.replace(spec.model, latent_noise="zero_entropy")),
        dataclasses.replace(spec, train=dataclasses.replace(spec.train, samples=12)),
        dataclasses.replace(spec, train=dataclasses.replace(spec.train, penalty="log_variance")),
        dataclasses.replace(spec, model=dataclasses.replace(spec.model, classifier="cosine")),
        dataclasses.replace(spec, train=dataclasses.replace(spec.train, gamma_every=5)),
        dataclasses.replace(spec, train=dataclasses.replace(spec.train, decay="cosine", decay_start=1)),
        dataclasses.replace(
            spec, train=dataclasses.replace(spec.train, gamma_late_factor=1.25, gamma_late_from=1e3)
        ),
    ]
    keys = {run_key(one) for one in (spec, *chosen)}
    assert len(keys) == 10
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
        ({}, {"objective": "arcface"}, "classifier is 'linear'; expected 'cosine' where .* 'arcface'"),
        (
            {"classifier": "cosine", "dropout": 0.5},
            {"objective": "cosface"},
            r"dropout is 0\.5; expected 0\.0",
        ),
        ({"dropout": 0.5}, {"objective": "supervised_contrastive"}, r"dropout is 0\.5; expected 0\.0"),
        ({}, {"objective": "supervised_contrastive", "penalty": "squared_norm"}, "expected 'none' where"),
        ({}, {"objective": "supervised_contrastive", "penalty": "weight_l1"}, "expected 'none' where"),
        (
            {"latent_noise": "zero_entropy"},
            {"objective": "contrastive_cross_entropy", "samples": 2},
            "samples",
        ),
        (
            {"classifier": "cosine"},
            {"metrics": "information"},
            "metrics is 'information'; expected .* 'cosine'",
        ),
        ({"classifier": "cosine", "rescaled": True}, {"latent_sd": 1.0}, "rescaled is True; expected False"),
        ({"classifier": "cosine", "encoder": "categorical"}, {}, "encoder is 'categorical'"),
        ({"classifier_scale": 0.0}, {}, "classifier_scale"),
        ({}, {"temperature": 0.0}, "temperature"),
        ({}, {"margin": 17.2}, "margin is 17.2; expected 0 or more and below pi / 2"),
        ({}, {"gamma_every": 0}, "gamma_every"),
        ({}, {"gamma_late_factor": 1.25}, "gamma_late_from is None: both or neither"),
        ({}, {"gamma_late_from": 1e3}, "gamma_late_factor is None but .* both or neither"),
        (
            {},
            {"gamma_late_factor": 0.9, "gamma_late_from": 1e3},
            r"gamma_late_factor is 0\.9; expected 1 or more",
        ),
        (
            {},
            {"gamma_late_factor": 1.2, "gamma_late_from": -1.0},
            r"gamma_late_from is -1\.0; expected a positive",
        ),
        ({}, {"decay": "cosine"}, "decay_start is None; expected an epoch before the end, 4, where"),
        ({}, {"decay": "cosine", "decay_start": 4}, "decay_start is 4; expected an epoch before the end"),
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


def test_keys_from_before_embeddings_stay():
    """Of specs of commit e7903f8, one of each study: of its key there."""
    known = {
        "laptop": "8a01146991abb58d3314bba9497bd001e5d929edaa8225f7b978543728f23bbc",
        "paper-cifar10": "94f80cec7aa6459c9f031ffa749c21de4eb95f66f682173042da88755b50d43c",
    }
    for profile, key in known.items():
        assert run_key(declared(profile)[0]) == key


def test_embeddings_are_the_widths_and_losses_of_the_2025_release():
    penalised = {name for name, variant in EMBEDDINGS.items() if variant.penalty == "squared_norm"}
    assert len(EMBEDDINGS) == 21 and penalised == {name for name in EMBEDDINGS if name.endswith("LPC")}
    made = {name: make(name, variants=EMBEDDINGS) for name in EMBEDDINGS}
    assert len({run_key(spec) for spec in made.values()}) == 21
    for name, spec in made.items():
        pair = EMBEDDINGS[name.removesuffix("LPC")]
        if name != "SupConLPC":  # under the penalty the cross-entropy must reach the latent
            assert dataclasses.replace(EMBEDDINGS[name], penalty="none") == pair
        digits = name.removeprefix("Non").removeprefix("Lin").removesuffix("LPC")
        expected = None if name.startswith("NoPen") else int(digits) if digits.isdigit() else 64
        assert spec.model.latent_width == expected
        assert (spec.model.classifier == "cosine") == ("Face" in name)
        assert spec_from_dict(json.loads(canonical_json(spec))) == spec
    assert EMBEDDINGS["SupConLPC"] == dataclasses.replace(EMBEDDINGS["SupConCE"], penalty="squared_norm")
    assert made["SupCon"].train.objective == "supervised_contrastive"
    assert made["Lin64"].model.penultimate == "linear" and made["NonLin64"].model.penultimate == "nonlinear"


def test_gammas_are_ibs_layer_with_another_last_gamma():
    layer = make("IB").model
    for name in GAMMAS:
        spec = make(name, variants=GAMMAS)
        assert spec.model == layer
        gamma = float(name.removeprefix("gamma"))
        assert spec.train.penalty == ("squared_norm" if gamma else "none")
        assert spec.train.gamma_maximum == (gamma or TRAIN.gamma_maximum)
    with pytest.raises(ValueError, match=r"'IB'.*gamma0"):
        make("IB", variants=GAMMAS)


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
        (lambda: DataSpec(name="digits", first_classes=1), ["DataSpec.first_classes", "1"]),
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


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (np.int64(4), int, 4),
        (np.array(4), int, 4),
        (np.float32(0.5), float, 0.5),
        (np.int32(2), float, 2.0),
        (np.bool_(True), bool, True),
        (np.str_("digits"), str, "digits"),
        (np.float64(0.5), float | None, 0.5),
    ],
)
def test_scalars_of_numpy_count_as_pythons_own(value, kind, expected):
    found = _checked(value, kind, "TrainSpec.x")
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("value", [np.float64("nan"), np.float64(4.5), np.bool_(True), np.array([4])])
def test_values_of_numpy_of_another_kind_are_named(value):
    with pytest.raises(ValueError, match=r"TrainSpec\.epochs is "):
        _checked(value, int, "TrainSpec.epochs")


def test_equal_specs_have_one_key_whichever_zero_they_were_given():
    plain, minus = (TrainSpec(epochs=1, learning_rate=0.1, weight_decay=zero) for zero in (0.0, -0.0))
    assert plain == minus and repr(plain) == repr(minus)
