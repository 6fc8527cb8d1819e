import dataclasses
import hashlib
import math

import pytest

from experiments.studies.apart_profiles import APART, FROZEN_RATES
from experiments.studies.image_shapes import shape_of_data
from experiments.studies.other_profiles import FROZEN_STRENGTHS
from experiments.studies.other_tables import OTHER_STRENGTHS, WAYS, WITHOUT_STRENGTH
from experiments.studies.profiles import (
    BOOKS,
    FASHION_FROZEN,
    GROUPS,
    LIVE,
    PAGED,
    PAPER_ARCHITECTURES,
    PROFILES,
    SIBLINGS,
    of_book,
    plain,
    profile,
    relatives,
    resolve,
    sibling,
    specs,
)
from experiments.studies.recorded import recorded
from experiments.studies.schedules import (
    EMBEDDING_EPOCHS,
    EMBEDDING_GROWTH,
    EMBEDDING_TRAIN,
    PAPER_RATES,
    PAPER_TRAIN,
    carried_schedule,
    scaled_schedule,
)
from lpc.equilibrium import budget_warning, carried_gamma, logit_gap, reachable_separation, readout_margin
from lpc.extinction import extinction_gamma
from lpc.schedules import gamma, learning_rate
from lpc.specs import VARIANTS, run_key


def test_laptop_scales_appendix_c():
    laptop = profile("laptop").train
    assert (laptop.decay_start, laptop.decay_every, laptop.record_every) == (125, 25, 25)
    reach = 378 * laptop.epochs / 800
    assert laptop.gamma_initial * laptop.gamma_factor**reach == pytest.approx(laptop.gamma_maximum)
    runs_of = specs(profile("laptop"))
    assert len(runs_of) == len({run_key(spec) for spec in runs_of}) == 10 * 3 * 3
    budget = {"classes": 10, "width": 8, "learning_rate": 2e-2, "steps": 4000}
    assert laptop.gamma_maximum < carried_gamma(gap=1.0, **budget)


def test_laptop_is_what_it_was():
    assert profile("laptop").train == scaled_schedule(epochs=400, gamma_maximum=1e3)


@pytest.mark.parametrize("name", ["laptop", "fashion-cpu", "fashion"])
def test_gamma_ends_where_the_slowest_ib_holds_a_gap_of_about_two(name):
    chosen = profile(name)
    steps = chosen.train.epochs * math.ceil(shape_of_data(chosen.data).train / chosen.train.batch_size)
    separation = reachable_separation(width=8, learning_rate=min(chosen.learning_rates), steps=steps)
    gap = logit_gap(chosen.train.gamma_maximum, classes=10, separation=separation)
    assert gap == pytest.approx(2, abs=0.4)  # gamma has one digit


def test_gamma_of_a_budget_grows_with_its_square():
    short, long = (carried_schedule(epochs=e, images=1280, slowest=1e-2) for e in (100, 1000))
    assert long.gamma_maximum == pytest.approx(100 * short.gamma_maximum, rel=0.2)
    assert f"{short.gamma_maximum:.0e}" == f"{short.gamma_maximum:.9e}".replace(".000000000", "")


@pytest.mark.parametrize(
    ("dataset", "backbone", "factor", "maximum", "widths"),
    [
        ("SVHN", "resnet18", 1.03, 1e5, (8, None, 6)),
        ("CIFAR10", "resnet18", 1.05, 1e6, (8, None, 4)),
        ("CIFAR100", "resnet50", 1.05, 1e6, (64, None, 8)),
    ],
)
def test_paper_profiles_are_appendix_c(dataset, backbone, factor, maximum, widths):
    (chosen,) = resolve("paper", dataset)
    runs_of = specs(chosen)
    assert len(runs_of) == len({run_key(spec) for spec in runs_of}) == 8 * 5 * 5
    assert {spec.architecture for spec in runs_of} == set(PAPER_ARCHITECTURES)
    assert sorted({spec.train.learning_rate for spec in runs_of}) == [1e-4, 2e-4, 4e-4, 8e-4, 16e-4]
    assert {spec.seed for spec in runs_of} == {0, 1, 2, 3, 4}
    first = runs_of[0]
    assert first.model.backbone == backbone and first.model.backbone_width == 64
    train = first.train
    assert (train.gamma_initial, train.gamma_factor, train.gamma_maximum) == (1e-2, factor, maximum)
    assert (train.epochs, train.decay_start, train.decay_every, train.record_every) == (800, 250, 50, 50)
    assert train.weight_decay == 0.5e-4 and train.batch_size == 128 and train.penalty_reduction == "sum"
    data = first.data
    assert (data.flip, data.crop_padding, data.noise, data.size) == (True, 4, 0.01, None)
    assert (data.validation, data.split_seed, data.train_limit) == (5_000, 0, None)
    by_name = {spec.architecture: spec.model.latent_width for spec in runs_of}
    assert (by_name["IB"], by_name["WideIB"], by_name["NarrowIB"]) == widths
    assert chosen.retrain and chosen.train == PAPER_TRAIN[dataset]


def test_the_paper_is_600_runs_and_its_eight_architectures():
    assert sum(len(specs(chosen)) for chosen in resolve("paper")) == 600
    assert tuple(VARIANTS)[:8] == PAPER_ARCHITECTURES
    assert VARIANTS["LinPenDropout"].dropout == 0.5  # Figure 2 alone has it


def test_fashion_trains_one_seed_of_everything_first():
    runs_of = specs(profile("fashion"))
    seeds = [spec.seed for spec in runs_of]
    assert seeds == sorted(seeds) and set(seeds) == {0, 1, 2}
    assert {spec.architecture for spec in runs_of[: len(runs_of) // 3]} == set(VARIANTS)
    assert {(spec.data.size, spec.data.validation) for spec in runs_of} == {(32, 5_000)}


def test_frozen_rates_are_trained_alone():
    frozen = {name: 1e-3 * (index + 1) for index, name in enumerate(VARIANTS)}
    chosen = dataclasses.replace(profile("fashion"), frozen=frozen)
    runs_of = specs(chosen, seeds=1)
    assert {spec.architecture: spec.train.learning_rate for spec in runs_of} == frozen
    assert len(runs_of) == len(VARIANTS)
    fashion = profile("fashion")
    assert fashion.frozen is not None and set(fashion.frozen) == set(fashion.architectures)


def test_names_resolve_to_profiles():
    assert [chosen.name for chosen in resolve("paper")] == list(GROUPS["paper"])
    assert [chosen.name for chosen in resolve("paper", "cifar10")] == ["paper-cifar10"]
    assert [chosen.name for chosen in resolve("fashion", "Fashion-MNIST")] == ["fashion"]
    assert resolve("laptop") == (PROFILES["laptop"],)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: profile("paper"), "'paper' is a group .* paper-svhn, paper-cifar10, paper-cifar100"),
        (lambda: profile("labtop"), "'labtop'. Did you mean laptop"),
        (lambda: resolve("papers"), "'papers'. Did you mean paper"),
        (lambda: resolve("paper", "CIFAR"), "'cifar'.*Known: svhn, cifar10, cifar100"),
        (lambda: resolve("laptop", "svhn"), "data set of profile laptop 'svhn'"),
        (lambda: specs(profile("paper-svhn"), only=("NonLinIB",)), "profile paper-svhn 'NonLinIB'"),
        (lambda: specs(profile("smoke"), seeds=3), "seeds is 3; profile smoke has 1 to 2"),
    ],
)
def test_unknown_names_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "fashion-strengths"])
def test_no_run_of_a_profile_is_warned_of(name):
    chosen = profile(name)
    features = {
        "mlp": chosen.backbone_width,
        "resnet18": 8 * chosen.backbone_width,
        "resnet50": 32 * chosen.backbone_width,
    }
    shape = shape_of_data(chosen.data)
    steps = chosen.train.epochs * math.ceil(shape.train / chosen.train.batch_size)
    penalised = [spec for spec in specs(chosen, seeds=1) if spec.train.penalty == "squared_norm"]
    declared = [key for key in chosen.architectures if chosen.variants[key].penalty == "squared_norm"]
    assert declared and declared == list(dict.fromkeys(spec.architecture for spec in penalised))
    for spec in penalised:
        width = spec.model.latent_width or features[chosen.backbone]
        budget = {"width": width, "classes": shape.classes, "steps": steps}
        assert budget_warning(spec.train, **budget, certain=True) is None  # what digits suggest is a finding
    linear = [spec for spec in penalised if spec.model.classifier == "linear"]  # the law is about these
    assert budget_warning(linear[-1].train, width=8, classes=10, steps=1) is not None


def test_rates_of_fashion_are_those_that_the_recorded_cpu_subset_selects():
    found = recorded("fashion-cpu")
    assert found is not None and profile("fashion").frozen is not None
    runs = found.frame.groupby(["architecture", "train.learning_rate"])
    means = runs[["validation_accuracy", "validation_cross_entropy"]].mean().reset_index()
    means["validation_accuracy"] = means["validation_accuracy"].round(9)  # a tie is a tie
    best = means.sort_values(["validation_accuracy", "validation_cross_entropy"], ascending=[False, True])
    chosen = best.drop_duplicates("architecture").set_index("architecture")["train.learning_rate"]
    assert profile("fashion").frozen == chosen.to_dict()


class TestSiblings:
    @pytest.mark.parametrize("name", [name for name in PROFILES if plain(name) != name])
    def test_a_sibling_has_the_images_network_and_seeds_of_its_profile_and_a_table_of_its_own(self, name):
        own, base = profile(name), profile(plain(name))
        for field in ("data", "backbone", "backbone_width", "retrain"):
            assert getattr(own, field) == getattr(base, field)
        assert own.seeds == ((0, 1, 2) if base.name == "fashion-cpu" else base.seeds)
        assert own.train.batch_size == base.train.batch_size and own.train.precision == base.train.precision
        assert own.architectures == tuple(own.variants) and own.variants in SIBLINGS.values()
        assert own.summary.endswith(f"otherwise as profile {base.name}")
        runs_of = specs(own)
        assert len({run_key(spec) for spec in runs_of}) == len(runs_of)
        assert {spec.architecture for spec in runs_of} == set(own.variants)

    def test_every_sibling_is_found_from_its_profile_and_back(self):
        assert sibling("laptop", "embedding") == "laptop-embedding"
        assert relatives("laptop-gammas") == ("laptop", "laptop-embedding", "laptop-gammas")
        assert relatives("paper-cifar10") == ("paper-cifar10", "paper-cifar10-embedding")
        assert relatives("paper-svhn") == ("paper-svhn",)
        assert relatives("fashion-cpu")[1:] == tuple(f"fashion-cpu-{table}" for table in SIBLINGS)
        assert set(LIVE) == {*relatives("smoke"), *relatives("laptop")} and set(BOOKS) == {"smoke", "laptop"}
        assert set(PAGED) == {
            *("smoke", "laptop", "fashion-cpu", "fashion", "paper-svhn", "paper-cifar10", "paper-cifar100")
        }
        assert {name for name in PROFILES if plain(name) == name} == {*PAGED, *APART}

    def test_networks_that_are_attacked_are_those_of_the_ablation_at_frozen_rates(self):
        own, base = profile("fashion-cpu-attacked"), profile("fashion-cpu")
        assert set(own.variants) < set(VARIANTS)
        assert all(own.variants[name] == VARIANTS[name] for name in own.variants)
        assert own.frozen == {name: FASHION_FROZEN[name] for name in own.variants}
        both = {run_key(spec) for spec in specs(own)} & {run_key(spec) for spec in specs(base)}
        assert len(both) == len(own.variants) * len(base.seeds)

    def test_the_runs_of_the_ablation_are_what_they_were(self):
        assert all(set(profile(name).variants) == set(VARIANTS) for name in PAGED)
        keys = "".join(run_key(spec) for name in ("smoke", "laptop") for spec in specs(profile(name)))
        digest = hashlib.sha256(keys.encode()).hexdigest()
        assert digest.startswith("953e39311437abcd")

    def test_the_release_of_2025_has_its_widths_length_gamma_and_decay(self):
        for name in GROUPS["paper-embedding"]:
            runs_of = specs(profile(name))
            assert len(runs_of) == 21 * 5 * 5
            assert {spec.train.learning_rate for spec in runs_of} == set(PAPER_RATES)
            widths = {spec.model.latent_width for spec in runs_of if spec.model.penultimate != "none"}
            assert widths == {32, 64, 128}
            train = next(spec.train for spec in runs_of if spec.architecture == "Lin64LPC")
            assert (train.epochs, train.weight_decay, train.penalty_reduction) == (1000, 5e-4, "sum")
            assert [gamma(epoch, train) for epoch in (0, 4, 5, 10)] == [1e-4, 1e-4, 2e-4, 4e-4]
            doublings = math.ceil(math.log2(1e3 / 1e-4))  # 24: gamma is then the first not below 1e3
            assert gamma(5 * doublings, train) == pytest.approx(1e-4 * 2**24)
            assert gamma(5 * doublings + 5, train) == pytest.approx(1.25 * 1e-4 * 2**24)
            assert gamma(EMBEDDING_GROWTH - 1, train) < gamma(EMBEDDING_GROWTH, train) == 1e6
            assert learning_rate(200, train) == train.learning_rate > learning_rate(201, train)
            assert learning_rate(600, train) == pytest.approx(train.learning_rate / 2)
            assert learning_rate(999, train) < 1e-5 * train.learning_rate

    @pytest.mark.parametrize("name", ["laptop-embedding", "fashion-embedding"])
    def test_scaled_embeddings_have_come_as_far_at_the_same_share_of_training(self, name):
        train = dataclasses.replace(profile(name).train, penalty="squared_norm")
        full = dataclasses.replace(EMBEDDING_TRAIN, penalty="squared_norm")
        way = math.log(train.gamma_maximum / 1e-4) / math.log(1e6 / 1e-4)
        for share in (0, 0.1, 0.2, 0.5):
            there = math.log(gamma(round(1000 * share), full) / 1e-4) * way
            assert math.log(gamma(round(train.epochs * share), train) / 1e-4) == pytest.approx(
                there, abs=1e-6
            )
            rates = [
                learning_rate(round(one.epochs * share), one) / one.learning_rate for one in (train, full)
            ]
            assert rates[0] == pytest.approx(rates[1])

    @pytest.mark.parametrize("name", ["laptop-embedding", "fashion-embedding"])
    def test_gamma_of_embeddings_is_carried_when_it_stops_growing(self, name):
        chosen = profile(name)
        epochs = chosen.train.epochs * EMBEDDING_GROWTH / EMBEDDING_EPOCHS
        steps = epochs * math.ceil(shape_of_data(chosen.data).train / chosen.train.batch_size)
        (rate,) = chosen.learning_rates
        separation = reachable_separation(width=32, learning_rate=rate, steps=round(steps))
        assert logit_gap(chosen.train.gamma_maximum, classes=10, separation=separation) == pytest.approx(
            2, abs=0.4
        )

    def test_gammas_end_where_their_names_say_where_the_profile_goes_so_far(self):
        runs_of = specs(profile("laptop-gammas"), seeds=1)
        ends = {spec.architecture: gamma(spec.train.epochs - 1, spec.train) for spec in runs_of}
        assert (
            ends == {name: float(name.removeprefix("gamma")) for name in ends} and max(ends.values()) == 1e3
        )
        for spec in runs_of[1:]:  # none may lose its readout for the lack of steps: see readout_margin
            margin = readout_margin(spec.train, width=8, classes=10, steps=400 * math.ceil(1_197 / 128))
            assert margin > 53
        assert {spec.model.latent_width for spec in runs_of} == {8}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sibling("laptop", "embeddings"), "'embeddings'. Did you mean embedding"),
        (lambda: sibling("labtop", "gammas"), "unknown profile 'labtop'. Did you mean laptop"),
        (
            lambda: sibling("paper-svhn", "embedding"),
            "paper-svhn-embedding; those that have one: smoke, laptop",
        ),
        (lambda: sibling("laptop-gammas", "gammas"), "no sibling laptop-gammas-gammas"),
        (lambda: of_book("laptop-gammas"), "not made from profile laptop-gammas but from laptop,"),
        (lambda: plain("laptop-gamas"), "unknown profile 'laptop-gamas'. Did you mean laptop-gammas"),
        (
            lambda: specs(profile("laptop-embedding"), only=("IB",)),
            "architecture of profile laptop-embedding 'IB'",
        ),
        (lambda: specs(profile("laptop"), only=("Lin64",)), "architecture of profile laptop 'Lin64'"),
        (
            lambda: specs(profile("laptop-embedding"), only=("Lin46",)),
            "unknown architecture 'Lin46'. Did you mean",
        ),
        (lambda: resolve("paper-embedding", "svhn"), "Known: cifar10, cifar100"),
        (
            lambda: profile("paper-embedding"),
            "is a group .* paper-cifar10-embedding, paper-cifar100-embedding",
        ),
        (
            lambda: dataclasses.replace(profile("laptop-gammas"), architectures=("IB",)),
            "architecture of profile laptop-gammas 'IB'",
        ),
    ],
)
def test_what_is_wrong_with_a_sibling_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


class TestApart:
    def test_pages_are_not_made_from_them(self):
        for name in APART:
            with pytest.raises(ValueError, match=f"pages are not made from profile {name}, whose table"):
                of_book(name)
            assert name not in LIVE and relatives(name) == (name,)

    def test_optimizers_are_compared_on_the_same_images_network_and_budget(self):
        for name in ("cube", "cube-long"):
            runs = specs(profile(name))
            assert {run.seed for run in runs} == set(range(5))
            own = {
                (run.train.optimizer, run.model.latent_width, run.train.gamma_maximum): run for run in runs
            }
            assert len(own) * 5 == len(runs)
            stripped = {
                dataclasses.replace(
                    run.train, optimizer="adamw", learning_rate=1.0, gamma_maximum=1.0, gamma_factor=1.0
                )
                for run in runs
            }
            assert len(stripped) == 1 and {run.data for run in runs} == {profile("laptop").data}
            for run in runs:
                assert run.train.learning_rate == FROZEN_RATES[run.architecture.split("-")[0]]

    def test_coupled_decay_of_the_declared_runs_lets_latents_live(self):
        for name in ("cube", "cube-long"):
            for run in specs(profile(name), seeds=1):
                if run.train.optimizer in ("adam", "sgd"):
                    limit = extinction_gamma(weight_decay=run.train.weight_decay, classes=10)
                    assert run.train.gamma_maximum <= limit / 10

    def test_networks_on_both_sides_of_extinction(self):
        found = {run.architecture: run.train for run in specs(profile("extinction"), seeds=1)}
        assert len(found) == 12
        for name, train in found.items():
            optimizer, decay, share = name.split("-")
            limit = extinction_gamma(weight_decay=train.weight_decay, classes=10)
            assert train.weight_decay == float(decay)
            assert train.gamma_initial == train.gamma_maximum == pytest.approx(float(share) * limit)
            assert train.optimizer == {"AdamW": "adamw", "CoupledAdam": "adam"}[optimizer]

    def test_rates_of_optimizers_are_those_that_the_recorded_search_selects(self):
        found = recorded("cube-rates")
        assert found is not None
        rows = found.frame.assign(optimizer=found.frame["architecture"].str.split("-").str[0])
        means = rows.groupby(["optimizer", "train.learning_rate"])["validation_accuracy"].mean().round(9)
        for name, rate in FROZEN_RATES.items():
            best = means[name][means[name] == means[name].max()].index.tolist()
            own = FROZEN_RATES["AdamW"]
            assert rate == (own if own in best else best[0]) and (own in best or len(best) == 1)

    def test_strengths_of_other_ways_are_those_that_the_recorded_search_selects(self):
        for search, dataset in (("others-strengths", "digits"), ("others-mnist-strengths", "mnist_subset")):
            found = recorded(search)
            assert found is not None and profile(search).data.name == dataset
            rows = found.frame.assign(
                way=found.frame["architecture"].str.rpartition("-")[0],
                strength=found.frame["architecture"].str.rpartition("-")[2].astype(float),
                right=found.frame["validation_accuracy"].round(9),  # a tie is a tie
            )
            assert len(rows) == len(OTHER_STRENGTHS)
            best = rows.sort_values(["right", "validation_cross_entropy"], ascending=[False, True])
            best = best.drop_duplicates("way").set_index("way")["strength"]
            assert best.to_dict() == FROZEN_STRENGTHS[dataset]

    def test_other_ways_differ_from_the_bare_layer_in_one_choice_each(self):
        for name in ("others", "others-mnist", "others-fashion"):
            runs = {run.architecture: run for run in specs(profile(name), seeds=1)}
            assert set(runs) == {*WITHOUT_STRENGTH, *WAYS}
            bare, keys = runs["LinPen"], {run_key(run) for run in runs.values()}
            assert len(keys) == len(runs)
            for way in WAYS:
                assert runs[way].model.latent_width == bare.model.latent_width == 8
                assert runs[way].data == bare.data and runs[way].train.epochs == bare.train.epochs
        assert profile("others-fashion").variants["CubedNorm"].gamma_maximum == 350  # of 1,000

    def test_gammas_of_all_of_fashion_mnist_are_those_that_the_corrected_law_carries(self):
        for name, width, least in (("fashion-full", 8, 130), ("fashion-full-million", 64, 90)):
            chosen = profile(name)
            train = dataclasses.replace(
                chosen.train, penalty="squared_norm", learning_rate=chosen.learning_rates[0]
            )
            images = shape_of_data(chosen.data).train
            steps = train.epochs * math.ceil(images / train.batch_size)
            found = readout_margin(train, width=width, classes=10, steps=steps, images=images)
            assert images == 60_000 and found == pytest.approx(least, rel=0.03)
