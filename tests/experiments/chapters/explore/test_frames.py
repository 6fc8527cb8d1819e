from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.chapters import index
from experiments.chapters.explore import frames as collapse_frames
from experiments.chapters.explore.frames import class_means, ladder, plane, rms, trained_again
from experiments.studies.ablation import study
from experiments.studies.profiles import PROFILES
from lpc.schedules import gamma

TRAIN = PROFILES["laptop"].train


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """IB and LinPen of one seed, finished."""
    store = tmp_path_factory.mktemp("runs")
    return study("smoke", seeds=1, only=("IB", "LinPen"), store=store, workers=1, progress=False)


@pytest.fixture(scope="module")
def frames(runs):
    return trained_again(runs, ("IB", "LinPen"), growing=3, after=1)


def test_the_ladder_is_geometric_in_gamma_and_ends_with_the_training():
    train = replace(TRAIN, penalty="squared_norm")
    epochs = ladder(train, growing=4, after=2)
    reached = [gamma(epoch - 1, train) for epoch in epochs]
    assert epochs[0] == 1 and epochs[-1] == train.epochs and len(epochs) == 6
    full = next(epoch for epoch in range(train.epochs) if gamma(epoch, train) == train.gamma_maximum)
    assert epochs[3] == full + 1, "the first epoch at the last gamma is one of the stages"
    steps = np.diff(np.log(reached[:4]))
    assert steps == pytest.approx(np.full(3, np.log(train.gamma_maximum / train.gamma_initial) / 3), rel=0.02)


def test_a_ladder_of_few_epochs_has_each_once_and_one_without_penalty_is_refused():
    short = replace(PROFILES["smoke"].train, penalty="squared_norm")
    assert ladder(short, growing=8, after=4) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="gamma ends at 0, growing=4, after=1; expected a penalty"):
        ladder(replace(TRAIN, penalty="none"), growing=4, after=1)
    with pytest.raises(ValueError, match="growing=1"):
        ladder(short, growing=1, after=1)


def test_runs_trained_again_end_where_the_stored_ones_did(runs, frames):
    for place, name in enumerate(frames.names):
        stored = runs.latents(name, seed=0)
        assert np.abs(frames.latent[place, -1] - stored.latent.numpy()).max() <= 1e-4 * rms(
            frames.latent[place, -1]
        )
        assert (frames.label == stored.label.numpy()).all()
    assert (frames.deviation < collapse_frames.TOLERANCE).all()
    last = frames.table().xs(4, level="epoch")
    stored = runs.selected.set_index("architecture").loc[last.index]
    for column in ("rms", "trace_ratio", "accuracy", "nearest_mean_accuracy"):
        assert last[column].to_numpy() == pytest.approx(stored[column].to_numpy(dtype=float), rel=1e-4), (
            column
        )


def test_frames_are_of_their_epochs(runs, frames):
    history = runs.history.set_index(["architecture", "epoch"])
    assert frames.epochs == (1, 2, 3, 4)
    assert frames.gamma[0].tolist() == pytest.approx([history.loc[("IB", e), "gamma"] for e in frames.epochs])
    assert frames.gamma[1].tolist() == [0, 0, 0, 0]
    assert frames.table().loc[("IB", 2), "rms"] == pytest.approx(history.loc[("IB", 2), "rms"], rel=1e-4)
    assert len({one.tobytes() for one in frames.latent[0]}) == 4, "every epoch changes the latents"


def test_a_run_that_ends_elsewhere_is_refused(runs, monkeypatch):
    monkeypatch.setattr(collapse_frames, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match=r"IB, seed 0, of profile smoke, trained again, ends \S+ of its rms"):
        trained_again(runs, ("IB", "LinPen"), growing=2, after=1)


def test_the_plane_holds_what_spreads_the_means_most_whatever_the_scale(rng):
    centres = 5 + np.array([[3.0, 0, 0], [-3, 0, 0], [0, 0, 1.0], [0, 0, -1.0]])
    label = np.repeat(np.arange(4), 30)
    latent = centres[label] + 0.01 * rng.normal(size=(120, 3))
    directions = plane(latent, label)
    assert np.abs(directions - np.array([[1, 0, 0], [0, 0, 1]]).T).max() < 0.02
    assert np.abs(plane(1e-7 * latent, label) - directions).max() < 1e-6
    assert np.abs(class_means(latent, label) - centres).max() < 0.01
    with pytest.raises(ValueError, match="1 nodes and 4 classes"):
        plane(latent[:, :1], label)


def test_the_picture_shares_a_scale_above_and_divides_by_the_rms_below(frames):
    fig = Figure(figsize=index.SIZE)
    index.draw(fig, frames)
    grid = np.array(fig.axes).reshape(2, 5)
    assert len({ax.get_xlim() for ax in grid[0, :4]}) == 1 and grid[0, 4].get_xlim() != grid[0, 0].get_xlim()
    assert len({ax.get_xlim() for ax in grid[1]}) == 1
    above, below = (np.concatenate([line.get_xydata() for line in ax.lines]) for ax in grid[:, 3])
    assert above / rms(frames.latent[0, 3]) == pytest.approx(below, rel=1e-4)
    assert len(above) == len(frames.label), "every point is drawn"
    assert [text.get_text() for text in grid[1, 0].texts] == [str(one) for one in range(10)]
    assert "no penalty" in grid[0, 4].get_title() and "γ = 0.10" in grid[0, 3].get_title()
