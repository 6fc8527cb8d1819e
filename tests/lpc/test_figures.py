import numpy as np
import pytest
from matplotlib.figure import Figure

from lpc import figures


@pytest.fixture
def ax():
    return Figure().add_subplot()


def test_class_means_map_writes_a_cube_as_ones(ax):
    corner = np.array([[3.0, -0.1], [-3.0, -0.1], [3.0, 0.1]])
    figures.class_means_map(ax, np.repeat(corner, 4, axis=0), np.repeat([0, 1, 2], 4))
    assert [text.get_text() for text in ax.texts] == ["+1.0", "-1.0", "-1.0", "-1.0", "+1.0", "+1.0"]


def test_node_histograms_stack_every_point_once(ax):
    generator = np.random.default_rng(0)
    latent, label = generator.normal(size=(90, 2)), np.repeat([0, 1, 2], 30)
    figures.node_histograms([ax], latent, label, nodes=[1], bins=5)
    counts, _ = np.histogram(latent[:, 1], bins=5)
    top = max(patch.get_xy()[:, 1].max() for patch in ax.patches)
    assert len(ax.patches) == 3 and top == counts.max()


def test_rows_are_named_only_where_there_are_several():
    grid = Figure().subplots(2, 3, squeeze=False)
    figures.name_rows(grid, ["laptop", "fashion-cpu"])
    assert [ax.get_title(loc="left") for ax in grid[:, 0]] == ["laptop", "fashion-cpu"]
    assert not any(ax.get_title(loc="left") for ax in grid[:, 1:].flat)
    alone = Figure().subplots(1, 3, squeeze=False)
    figures.name_rows(alone, ["laptop"])
    assert alone[0, 0].get_title(loc="left") == ""
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        figures.name_rows(grid, ["laptop"])
