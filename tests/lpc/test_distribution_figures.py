import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")
import matplotlib.pyplot as plt

from lpc import figures


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


def test_cumulative_shares_reach_one_at_the_largest_value(ax):
    figures.cumulative(ax, np.array([3.0, 1.0, 2.0, 2.0]), architecture="IB")
    (line,) = ax.get_lines()
    assert line.get_xdata().tolist() == [1.0, 2.0, 2.0, 3.0]
    assert line.get_ydata().tolist() == [0.25, 0.5, 0.75, 1.0]
    assert line.get_label() == "IB" and line.get_color() == figures.LOOKS["IB"].colour


def test_quartiles_are_over_rows(ax):
    figures.quartiles(ax, np.array([0.0, 1.0]), np.array([[0, 10], [1, 20], [2, 30]]), architecture="IB")
    assert ax.get_lines()[0].get_ydata().tolist() == [1.0, 20.0]
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.5, 25.0)
