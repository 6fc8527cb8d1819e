import math
from collections.abc import Callable
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import digamma, softmax
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from experiments.chapters.errata import (
    conventions,
    inconsistencies,
    released_training,
    tables,
)
from experiments.chapters.errata import (
    lines as errata,
)
from experiments.chapters.errata.paired_values import ALL, Comparison, Run, evaluate
from experiments.chapters.errata.released_training import HERE, SWITCHES, TRAINED
from experiments.reporting.tables import number
from experiments.studies.ablation import existing, study
from experiments.studies.profiles import profile, specs
from lpc.data import ImageSet
from lpc.heads import HeadOutput
from lpc.latents import Latents
from lpc.runs import load_model
from lpc.specs import run_key

NAMES = ("IB", "WideIB", "NoPen", "NoPenDropout", "LinPen", "NonLinPen", "NonLinPenL1", "LinPenDropout")


def points(seed: int, count: int = 120, width: int = 3, classes: int = 4) -> Latents:
    """Latents in classes, unbalanced, and some of them misclassified."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.arange(classes).repeat(20), rng.integers(2, size=count - 20 * classes)])
    latent = rng.normal(size=(classes, width))[label] + 0.3 * rng.normal(size=(count, width))
    logits = 4 * np.eye(classes)[label] + 2 * rng.normal(size=(count, classes))
    return Latents(torch.tensor(latent), torch.tensor(logits), torch.tensor(label))


def run(**changes: Any) -> Run:
    images = SimpleNamespace(classes=4)
    made = Run(
        model=SimpleNamespace(head=SimpleNamespace(penultimate=True)),  # type: ignore[arg-type]
        splits=SimpleNamespace(train=images, test=images),  # type: ignore[arg-type]
        train=points(0),
        augmented=points(1),
        test=points(2),
        history=pd.DataFrame(),
        record_every=10,
    )
    return made._replace(**changes)


def numbers(topic: Callable[[Run], Any], run: Run) -> dict[tuple[str, str], tuple[float, float]]:
    rows = map(evaluate, topic(run))
    return {(row["quantity"], row["switch"]): (row["here"], row["switched"]) for row in rows}  # type: ignore[misc]


def covariance(latents: Latents, label: torch.Tensor, *, unbiased: bool) -> np.ndarray:
    z, y = latents.latent.numpy(), label.numpy()
    each = [np.cov(z[y == c].T, ddof=1 if unbiased else 0) for c in np.unique(y)]
    share = [1 / len(each) if unbiased else (y == c).mean() for c in np.unique(y)]
    return np.sum([w * m for w, m in zip(share, each, strict=True)], axis=0)


def test_within_class_covariance_in_both_conventions_against_numpy():
    made = run()
    found = numbers(conventions.spread, made)
    train, shown = made.train, made.augmented
    here = np.trace(covariance(train, train.label, unbiased=False))
    expected = {
        "mean entry, not trace": covariance(train, train.label, unbiased=False).mean(),
        "unbiased, classes equal": np.trace(covariance(train, train.label, unbiased=True)),
        "predicted labels": np.trace(covariance(train, train.predicted, unbiased=False)),
        "augmented images": np.trace(covariance(shown, shown.label, unbiased=False)),
        "divided by K as well": here / 4,
        ALL: covariance(shown, shown.predicted, unbiased=True).mean(),
    }
    assert (train.predicted != train.label).any()  # else the switch of labels is not tested
    for switch, value in expected.items():
        assert found["Σ_W", switch] == pytest.approx((here, value), rel=1e-12), switch
    variation, missing = found["coefficient of variation", "the released function"]
    norm = np.linalg.norm(train.latent.numpy(), axis=1)
    assert variation == pytest.approx(norm.std() / norm.mean()) and math.isnan(missing)


def test_entropies_differ_by_what_is_switched():
    made = run()
    z = made.train.latent.numpy()
    found = numbers(conventions.entropy, made)
    gap = z[:, None] - z[None]
    euclid, largest = np.sort(np.linalg.norm(gap, axis=2))[:, 1], np.sort(np.abs(gap).max(axis=2))[:, 1]
    base = digamma(120) - digamma(1)  # k is 2 % of 30 points a class, at least 1
    here = base + math.log(4 * math.pi / 3) + 3 * np.log(euclid).mean()
    name, small = "entropy (nats)", "entropy (nats), latents × 1e-6"
    chebyshev = base + 3 * math.log(2) + 3 * np.log(largest).mean()
    assert found[name, "Chebyshev distance"] == pytest.approx((here, chebyshev), abs=1e-9)
    floored = here + 3 * (np.log(euclid + 1e-10) - np.log(euclid)).mean()
    assert found[name, "1e-10 added to distances"] == pytest.approx((here, floored), abs=1e-12)
    shrunk = 3 * (np.log(euclid * 1e-6 + 1e-10) - np.log(euclid * 1e-6)).mean()
    low, high = found[small, "1e-10 added to distances"]
    assert shrunk > 1e-4 and high - low == pytest.approx(shrunk, rel=1e-6)
    kept = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:24]
    few = numbers(
        conventions.entropy, made._replace(train=made.train._replace(latent=made.train.latent[kept]))
    )
    wrong = found[name, "a fifth of the points, ψ of all"][1]
    right = few[name, "Chebyshev distance"][0]
    assert wrong - right == pytest.approx(digamma(120) - digamma(24), abs=1e-9)


def test_mixtures_as_released_are_scikit_learns():
    rng = np.random.default_rng(3)
    side = rng.integers(2, size=(400, 2))
    z = (2 * side - 1) * [1.0, 3.0] + 1e-4 * rng.normal(size=(400, 2))
    made = run(train=Latents(torch.tensor(z), torch.zeros(400, 4), torch.zeros(400, dtype=torch.int64)))
    found = numbers(conventions.mixtures, made)
    likelihood, sigma, mu = [], [], []
    for node in z.T:
        column = ((node - node.mean()) / node.std())[:, None]
        fit = GaussianMixture(2, random_state=0).fit(column)
        sds = np.sqrt(np.asarray(fit.covariances_).ravel())
        likelihood.append(fit.score(column))
        sigma.append(sds.mean())
        mu.append(abs(np.diff(np.asarray(fit.means_).ravel())[0]) / sds.mean())
    assert found["ℓ̄", ALL][1] == pytest.approx(np.mean(likelihood), abs=1e-4)
    assert found["σ̄", ALL][1] == pytest.approx(np.mean(sigma), rel=1e-4)
    assert found["μ̄", ALL][1] == pytest.approx(np.mean(mu), rel=1e-4)
    plain, floored = found["σ̄, standardised", "1e-6 added to variances"]
    assert plain < 2e-4 and floored > 1e-3
    paper, weighted = found["ℓ̄", "mixture weights"]
    share = side.mean(axis=0)
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()
    assert paper - weighted == pytest.approx(entropy, abs=1e-9)
    assert not numbers(
        conventions.mixtures, run(model=SimpleNamespace(head=SimpleNamespace(penultimate=None)))
    )


def test_aurocs_against_scikit_learn():
    made = run()
    found = numbers(conventions.reliability, made)
    logits, right = made.test.logits.numpy(), (made.test.predicted == made.test.label).numpy()
    once = softmax(logits / 100, axis=1).max(axis=1)
    twice = softmax(softmax(logits, axis=1) / 100, axis=1).max(axis=1)
    expected = roc_auc_score(right, once), roc_auc_score(right, twice)
    assert expected[0] != expected[1]
    assert found["AUROC, ODIN", "softmax twice"] == pytest.approx(expected)
    exact, summed = found["AUROC, ODIN", "101-point sum"]
    thresholds = np.quantile(once[~right], np.arange(101) / 100)
    assert exact == expected[0]
    assert summed == pytest.approx(0.01 * sum(np.mean(once[right] > t) for t in thresholds)) != exact
    assert found["AUROC, Mahalanobis", ALL][1] != found["AUROC, Mahalanobis", "the release's Gaussians"][1]


class Linear(torch.nn.Module):
    """Two classes, decided by the sign of w·x: the least perturbation is |w·x| / |w|, in one step."""

    weight = torch.tensor([1.0, 2.0, 0.0, 2.0], dtype=torch.float64)

    def forward(self, image: torch.Tensor) -> HeadOutput:
        value = image.flatten(1).double() @ self.weight
        return HeadOutput(image.flatten(1), torch.stack([value, -value], dim=1))


def test_deepfool_is_switched_on_a_network_whose_perturbation_is_known():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(1, 255, (120, 1, 2, 2)).astype(np.uint8))
    images = ImageSet(pixels, torch.zeros(120, dtype=torch.int64), 2, (0.5,), (0.25,))
    splits = SimpleNamespace(test=images)
    found = numbers(conventions.attack, run(model=Linear().eval(), splits=splits))
    x = images.normalised().double().flatten(1)
    length = 1.02 * (x @ Linear.weight).abs() / 3
    chosen = torch.randperm(120, generator=torch.Generator().manual_seed(0))[:100]
    ratio, longer = length / x.norm(dim=1), (length + 1.02e-4) / x.norm(dim=1)
    name, here = "DeepFool norm", float(ratio[chosen].mean())
    shown = 0.25 * length / (pixels.double().flatten(1) / 255).norm(dim=1)
    expected = {
        "1e-4 added to steps": float(longer[chosen].mean()),
        "120 images, not 100": float(ratio.mean()),
        "unfooled left out": here,
        "pixel units": float(shown[chosen].mean()),
        ALL: float(longer.mean()),
    }
    for switch, value in expected.items():
        assert found[name, switch] == pytest.approx((here, value), rel=1e-6), switch


def test_convergence_is_seen_later_where_it_is_looked_for_seldom():
    history = pd.DataFrame({"epoch": range(1, 26), "accuracy": [0.9] * 6 + [0.999] + [math.nan] * 18})
    history.loc[[9, 19, 24], "accuracy"] = [0.99, 1.0, 1.0]
    found = numbers(conventions.convergence, run(history=history))
    assert list(found.values()) == [(7.0, 20.0)]
    never = numbers(conventions.convergence, run(history=history.assign(accuracy=0.5)))
    assert all(math.isnan(value) for value in next(iter(never.values())))


def test_a_number_that_does_not_exist_is_missing_with_its_reason():
    def fails() -> float:
        raise ValueError("no such number")

    row = evaluate(Comparison(1, "entropy (nats)", "s", lambda: 1.0, fails))
    assert math.isnan(row["switched"]) and math.isnan(row["effect"])  # type: ignore[arg-type]
    assert row["missing"] == "no such number"
    assert evaluate(Comparison(1, "AUROC", "s", lambda: 2.0, lambda: 5.0))["effect"] == 3.0
    assert evaluate(Comparison(1, "Σ_W", "s", lambda: 2.0, lambda: 5.0))["effect"] == 2.5


@pytest.mark.parametrize(
    ("values", "quantity", "text"),
    [
        ([1.0, 1.0 + 1e-12], "Σ_W", "none"),
        ([0.0, 0.0], "AUROC, ODIN", "none"),
        ([0.25, 0.25], "Σ_W", "× 0.250, 0.250"),
        ([1.02, 1.04], "Σ_W", "+2.0, +4.0 %"),
        ([0.875, 0.875], "Σ_W", "-12, -12 %"),
        ([0.5], "entropy (nats)", "+0.50"),
        ([math.nan], "entropy (nats)", "–"),
        ([math.nan], "Σ_W", "–"),
    ],
)
def test_effects_are_read_as_they_are_meant(values, quantity, text):
    assert tables.effect(pd.Series(values), quantity) == text


def test_every_switch_changes_what_the_release_changes_and_nothing_else():
    base = {spec.architecture: spec for spec in specs(profile("laptop"))}
    for name, switches in TRAINED.items():
        keys = {run_key(SWITCHES[switch].change(base[name])) for switch in switches}
        assert len(keys | {run_key(base[name])}) == len(switches) + 1
    ib = base["IB"]

    def changed(switch: str, name: str = "IB") -> dict[str, Any]:
        before, after = asdict(base[name]), asdict(SWITCHES[switch].change(base[name]))
        parts = ("train", "model")
        found = {k: v for p in parts for k, v in after[p].items() if v != before[p][k]}
        assert {k: v for k, v in after.items() if k not in parts} == {
            k: v for k, v in before.items() if k not in parts
        }
        return found

    assert changed("penalty averaged over nodes") == {"penalty_reduction": "mean"}
    assert changed("weight decay") == {"weight_decay": 5e-4}
    assert changed("halving later") == {"decay_start": 150}  # 300 of 800, here of 400
    assert changed("dropout on the logits", "NoPenDropout") == {"dropout_site": "logits"}
    top = ib.train.gamma_maximum * ib.train.gamma_factor
    assert changed("γ past its maximum") == {"gamma_maximum": pytest.approx(top)}
    together = {"weight_decay": 5e-4, "decay_start": 150}
    assert changed(released_training.ALL, "LinPen") == together
    penalised = {**together, "penalty_reduction": "mean", "gamma_overshoot": True}
    assert changed(released_training.ALL) == penalised
    never = replace(ib, train=replace(ib.train, decay_start=None))
    assert SWITCHES["halving later"].change(never) == never


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    runs = study("smoke", only=NAMES, store=tmp_path_factory.mktemp("runs"), workers=1, progress=False)
    before = runs.selected.copy()
    trained = released_training.trained(runs, workers=1, progress=False)
    after = existing("smoke", only=NAMES, store=runs.store.root)
    pd.testing.assert_frame_equal(after.selected, before)
    assert len(after.frame) == len(runs.specs) and len(after.store.frame()) > len(runs.specs)
    return errata.Evidence(runs, conventions.comparisons(runs), trained, released_training.selections(runs))


def test_the_extra_runs_are_trained_once(evidence, monkeypatch):
    runs, trained = evidence.study, evidence.trained
    assert set(trained["status"]) == {"finished"} and trained["test_accuracy"].notna().all()
    extra = sum(len(switches) for switches in TRAINED.values()) * len(runs.profile.seeds)
    assert (trained["switch"] != HERE).sum() == extra and trained["key"].is_unique
    for (name, seed, switch), spec in released_training.switched(runs).items():
        ended = replace(spec, train=replace(spec.train, record_every=runs.profile.train.record_every))
        assert ended == SWITCHES[switch].change(runs.spec(name, seed))
    base = trained[(trained["switch"] == HERE) & (trained["architecture"] == "IB")].set_index("seed")
    own = runs.selected[runs.selected["architecture"] == "IB"].set_index("seed")
    assert base["trace_ratio"].tolist() == own["trace_ratio"].tolist()
    monkeypatch.setattr("lpc.runs.packing.train_plans", lambda *_, **__: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(released_training.trained(runs, workers=1, progress=False), trained)


def test_selection_on_test_is_the_best_of_the_rates(evidence, monkeypatch):
    runs, pair = evidence.study, ["architecture", "seed"]
    images = runs.images.test
    right = {}
    for spec in runs.specs:
        with torch.no_grad():
            logits = load_model(spec, runs.store, images)(images.normalised()).logits
        share = float((logits.argmax(dim=1) == images.label).double().mean())
        right[spec.architecture, spec.seed, spec.train.learning_rate] = share
    found = evidence.selections.set_index(pair)
    assert found.index.get_level_values(0).drop_duplicates().tolist() == list(NAMES)
    own = runs.selected.set_index(pair)["test_accuracy"]
    assert found["validation"].to_dict() == pytest.approx(own.to_dict())
    few, every = runs.profile.learning_rates[:1], runs.profile.learning_rates
    monkeypatch.setattr(released_training, "RELEASED_RATES", 1)
    one = released_training.selections(runs).set_index(pair)
    for name, seed in found.index:
        assert found.loc[(name, seed), "test"] == max(right[name, seed, rate] for rate in every)
        assert one.loc[(name, seed), "test_few"] == max(right[name, seed, rate] for rate in few)
        assert one.loc[(name, seed), "validation_few"] == right[name, seed, few[0]]
    assert (one["test_few"] != found["test"]).any()  # else the number of rates is not tested


def test_every_line_has_its_row(evidence):
    lines = list(range(1, 24))
    assert [line.line for line in errata.read()] == lines
    assert errata.overview().index.tolist() == lines
    assert errata.overview([3, 5]).index.tolist() == [3, 5]
    table = errata.summary(evidence)
    assert table.index.tolist() == lines
    assert (table["effect"].str.len() > 3).all()
    assert table["effect"][20].startswith("no number: the released function")
    assert table["effect"][21] == "Σ_W, divided by K as well: × 0.100"
    assert "NonLinPen's to the digit" in table["effect"][19]
    assert "IB: tr Σ_W / tr Σ_B × " in table["effect"][1]


def test_a_line_names_a_reading_or_a_switch_that_exists(evidence):
    for line in errata.read():
        if line.quantity is not None:
            same = (evidence.comparisons["line"] == line.line) & (
                evidence.comparisons["quantity"] == line.quantity
            )
            assert line.switch is None or line.switch in set(evidence.comparisons.loc[same, "switch"])
            assert same.any()
        elif line.switch is not None:
            assert SWITCHES[line.switch].line == line.line


def test_tables_have_a_row_a_switch(evidence):
    table = tables.comparison_table(evidence.comparisons, [13])
    assert table.index.get_level_values("switch").tolist() == ["here", "softmax twice", ALL]
    assert table.index.get_level_values("line").tolist() == ["–", "13", "13"]
    assert table.columns.tolist() == [name for name in NAMES if name in conventions.ARCHITECTURES]
    own = evidence.study.selected.query("architecture == 'IB'")["test_auroc_odin"]
    assert table["IB"].iloc[0] == ", ".join(map(number, own))
    trained = tables.training_table(evidence.trained)
    assert trained.loc[("IB", "weight decay"), "line"] == "2"
    assert trained.loc[("LinPen", HERE), "line"] == "–"
    assert tables.selections_table(evidence.selections).index.tolist() == list(NAMES)
    ratios = tables.ratios(evidence.comparisons).T
    assert ratios["Σ_W: divided by K as well"].tolist() == pytest.approx([0.1] * 4)
    assert any("released function" in why for why in tables.reasons(evidence.comparisons, [20]))


def test_lines_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "lines.toml"
    path.write_text('[[line]]\nline = 1\nsubject = "a"\nwrong = "b"\n')
    with pytest.raises(ValueError, match="cannot be read"):
        errata.read(path)
    path.write_text('[[line]]\nline = 2\nsubject = "a"\npaper = "b"\nrelease = "c"\nhere = "d"\n')
    with pytest.raises(ValueError, match="numbers its lines"):
        errata.read(path)


def test_equation_21_bounds_the_conditional_entropy():
    values = inconsistencies.cross_entropies()
    assert values["true p(y|z)"] == pytest.approx(values["H(y|z)"], abs=1e-12)
    assert values["uniform"] == pytest.approx(math.log(3))
    assert values["H(y|z)"] < 0.9 * values["uniform"] < values["random softmax"]


def test_kirschs_equation_10_fails_as_printed_by_the_information_on_y():
    for seed in range(5):
        left, printed, corrected = inconsistencies.equation_10(seed=seed)
        assert corrected == pytest.approx(left, abs=1e-12)
        assert printed - left > 1e-3  # I[Y; Z]


def test_the_papers_widths_and_the_repeated_sd():
    table = inconsistencies.dimensions().set_index(["dataset", "architecture"])
    assert table["below_frame"].groupby("architecture").all().to_dict() == {
        "IB": True,
        "NarrowIB": True,
        "WideIB": False,
    }
    narrow = table.xs("NarrowIB", level="architecture")
    assert (narrow["nodes"] == narrow["least"]).to_dict() == {
        "SVHN": False,
        "CIFAR10": True,
        "CIFAR100": False,
    }
    found = inconsistencies.repeated_sds().set_index(["dataset", "architecture"])
    row = found.T["CIFAR10", "NonLinPenL1"]
    assert (row["std"], row["mean"], row["above"]) == (7.792, 0.003, "NonLinPen")
    columns = pd.MultiIndex.from_product([["paper"], ["SVHN", "CIFAR10", "CIFAR100"]])
    printed = pd.DataFrame("0 ± 1", index=list(NAMES), columns=columns)
    changed = inconsistencies.marked(printed) != printed
    assert changed.to_numpy().sum() == 1 and changed.loc["NonLinPenL1", ("paper", "CIFAR10")]


def test_reasons_are_a_list_and_no_reasons_are_nothing():
    made = tables.listed(["a: first"], "second")
    assert made is not None and made.data == "- a: first\n- second"
    assert tables.listed([]) is None
