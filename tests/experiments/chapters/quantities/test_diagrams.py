import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from experiments.chapters.errata import inconsistencies
from experiments.chapters.quantities import atoms, diagrams
from lpc.evaluation.quantities import Quantities, discrete_quantities


def any_joint(seed, shape=(4, 3, 5)):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet(np.ones(math.prod(shape))).reshape(shape))


# symbols and atoms


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("H[X]", {"X", "XY", "XZ", "XYZ"}),
        ("H[Y|X]", {"Y", "YZ"}),
        ("H[X|Y,Z]", {"X"}),
        ("H[X,Y|Z]", {"X", "Y", "XY"}),
        ("I[X;Y]", {"XY", "XYZ"}),
        ("I[X;Z|Y]", {"XZ"}),
        ("I[Y,Z;X]", {"XY", "XZ", "XYZ"}),
        ("I[X;Y;Z]", {"XYZ"}),
    ],
)
def test_a_symbol_is_a_set_of_atoms(symbol, expected):
    assert atoms.atoms(symbol) == expected


@pytest.mark.parametrize("symbol", ["I[X]", "H[X;Y]", "H[W]", "H[X|W]", "HX", "H[X|Y", "", "I[X;]"])
def test_what_is_no_symbol(symbol):
    with pytest.raises(ValueError, match=r"symbol is .*; expected one such as H\[Y\|X\]"):
        atoms.atoms(symbol)


def test_an_atom_is_the_quantity_that_has_only_it():
    for atom in atoms.ATOMS:
        assert atoms.atoms(atoms.symbol_of(atom)) == {atom}
    assert atoms.symbol_of(atoms.EMPTY) == "I[Y;Z|X]"


@pytest.mark.parametrize("seed", range(4))
def test_every_named_quantity_is_the_measure_of_its_atoms(seed):
    joint = any_joint(seed)
    measure = atoms.measure(joint)
    found = discrete_quantities(joint)
    assert [one.field for one in atoms.NAMED[:-1]] == list(Quantities._fields)
    for one in atoms.NAMED[:-1]:
        total = sum(measure[atom] for atom in atoms.atoms(one.symbol))
        assert total == pytest.approx(getattr(found, one.field), abs=1e-13), one.name
    nuisance = atoms.NAMED[-1]
    assert nuisance.name == "Nuisance"
    total = sum(measure[atom] for atom in atoms.atoms(nuisance.symbol))
    assert total == pytest.approx(atoms.value("H[X,Y]", joint) - found.label_entropy, abs=1e-13)
    assert measure[atoms.EMPTY] > 1e-3  # on no Markov chain, so that the empty atom counts too


def test_a_markov_chain_has_nothing_in_the_empty_atom():
    measure = atoms.measure(atoms.markov_chain(seed=3))
    assert measure[atoms.EMPTY] == pytest.approx(0, abs=1e-14)
    assert min(value for atom, value in measure.items() if atom != atoms.EMPTY) > 1e-3


def test_the_measure_of_three_sets_can_be_negative():
    measure = atoms.measure(atoms.exclusive_or())
    one = math.log(2)
    expected = {"X": 0, "Y": 0, "Z": 0, "XY": one, "XZ": one, "YZ": one, "XYZ": -one}
    assert measure == pytest.approx(expected, abs=1e-14)


def test_a_quantity_of_groups_by_hand():
    joint = any_joint(0)
    both = discrete_quantities(joint)
    assert atoms.value("I[X;Y,Z]", joint) == pytest.approx(
        both.relevant_information + both.redundant_information, abs=1e-13
    )
    assert atoms.value("H[X,Y,Z]", joint) == pytest.approx(float(torch.special.entr(joint).sum()))


# identities


@pytest.mark.parametrize("seed", range(3))
def test_an_identity_holds_where_its_atoms_say(seed):
    chain, joint = atoms.markov_chain(seed=seed), any_joint(seed)
    for number, identity in {**atoms.IDENTITIES, 0: atoms.CORRECTED}.items():
        for given in (chain, joint):
            left, right = atoms.sides(identity, given)
            measure = atoms.measure(given)
            left_over = sum(times * measure[atom] for atom, times in atoms.difference(identity).items())
            assert left - right == pytest.approx(left_over, abs=1e-13), number


def test_where_the_identities_of_the_appendix_hold():
    table = atoms.identity_table(atoms.markov_chain())
    assert list(table.index) == ["6", "7", "8", "9", "10", "10, corrected", *map(str, range(11, 19))]
    holds = table["holds"].to_dict()
    chain = {"6", "7", "8", "9", "11", "12", "15", "16"}
    assert {number for number, where in holds.items() if where == "chain"} == chain
    assert {number for number, where in holds.items() if where == "no"} == {"10"}
    residual = table["residual"].abs()
    assert residual.drop("10").max() < 1e-13 and residual["10"] > 1e-3
    assert atoms.difference(atoms.IDENTITIES[10]) == {"XYZ": -1}


def test_equation_10_is_that_of_the_errata():
    for seed in range(3):
        joint, expected = atoms.markov_chain(seed=seed), inconsistencies.equation_10(seed=seed)
        assert atoms.sides(atoms.IDENTITIES[10], joint) == pytest.approx((expected.left, expected.printed))
        assert atoms.sides(atoms.CORRECTED, joint) == pytest.approx((expected.left, expected.corrected))


def test_the_reading_guide_lists_every_quantity_with_its_regions():
    guide = atoms.reading_guide()
    assert list(guide.index) == [one.name for one in atoms.NAMED]
    parts = guide["atoms"].to_dict()
    assert parts["Decoder Uncertainty"] == "H[Y|X] + I[X;Y|Z]"
    assert parts["Preserved Information"] == "I[X;Z|Y] + I[Y;Z]"
    assert parts["Nuisance"] == "H[X|Y,Z] + I[X;Z|Y]"
    assert parts["Preserved Relevant Information"] == "itself"
    joint = atoms.markov_chain(seed=1)
    for name, symbol in guide["symbol"].items():  # what the guide says adds up
        if parts[name] != "itself":
            left, right = atoms.sides(f"{symbol} = {parts[name]}", joint)
            assert left == pytest.approx(right, abs=1e-13)


# the drawing


@pytest.fixture
def figure():
    fig = plt.figure(figsize=(5.0, 4.3), layout="constrained")
    yield fig
    plt.close(fig)


def colour_at(figure: Figure, ax, x, y):
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    pixels = np.asarray(canvas.buffer_rgba())
    column, row = ax.transData.transform((x, y)).round().astype(int)
    return pixels[pixels.shape[0] - 1 - row, column, :3] / 255


def widest(atom):
    x, y = diagrams.canvas()
    at = np.unravel_index(np.argmin(diagrams.outside(atom, x, y)), x.shape)
    return float(x[at]), float(y[at])


def test_every_atom_but_the_empty_one_has_a_region_of_its_own():
    x, y = diagrams.canvas()
    inside = {atom: diagrams.outside(atom, x, y) < 0 for atom in atoms.ATOMS}
    assert not inside[atoms.EMPTY].any()
    for atom, region in inside.items():
        assert atom == atoms.EMPTY or region.mean() > 0.02
    assert np.max(sum(region.astype(int) for region in inside.values())) == 1
    assert set(diagrams.COLOURS) == set(atoms.ATOMS) - {atoms.EMPTY}
    assert len({to_rgb(colour) for colour in diagrams.COLOURS.values()}) == 6
    with pytest.raises(ValueError, match="unknown atom 'XW'"):
        diagrams.outside("XW", x, y)


@pytest.mark.parametrize("quantity", atoms.NAMED, ids=lambda one: one.field)
def test_what_is_filled_is_the_table(figure, quantity):
    ax = figure.subplots()
    diagrams.draw_quantity(ax, quantity)
    figure.canvas.draw()
    for atom, colour in diagrams.COLOURS.items():
        filled = atom in atoms.atoms(quantity.symbol)
        expected = to_rgb(colour) if filled else (1, 1, 1)
        assert colour_at(figure, ax, *widest(atom)) == pytest.approx(expected, abs=0.01), atom
    assert ax.get_title() == f"{quantity.name}\n{quantity.symbol}"


def test_every_text_lies_in_its_region(figure):
    ax = figure.subplots()
    texts = diagrams.draw_atoms(ax)
    figure.canvas.draw()
    assert set(texts) == set(atoms.ATOMS) - {atoms.EMPTY}
    assert texts["XYZ"].get_text() == "Preserved\nRelevant\nI[Y;Z]"
    assert texts["X"].get_text() == "H[X|Y,Z]"
    for atom, text in texts.items():
        corners = ax.transData.inverted().transform(text.get_window_extent().corners())
        assert diagrams.outside(atom, corners[:, 0], corners[:, 1]).max() < 0, atom


def test_composites_are_what_is_no_region_of_its_own():
    fields = {one.field for one in diagrams.composites()}
    assert fields == {
        "label_entropy", "encoding_entropy", "decoder_uncertainty", "reverse_decoder_uncertainty",
        "relevant_information", "preserved_information", "nuisance",
    }  # fmt: skip


def test_the_key_names_the_colours(figure):
    ax = figure.subplots()
    diagrams.draw_key(ax)
    written = {text.get_text() for text in ax.texts}
    assert written == {"H[X|Y,Z]", "H[Y|X]", "H[Z|X]", "I[X;Y|Z]", "I[X;Z|Y]", "I[Y;Z]"}
