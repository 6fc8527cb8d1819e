import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.chapters.explore import page as explorer
from experiments.chapters.explore.frames import Frames, class_means, plane, rms, trained_again
from experiments.publishing.chromium import ChromiumError, find_chromium
from experiments.reporting.tables import number
from experiments.studies.ablation import study

STATIC = Path(__file__).parents[4] / "book" / "_static"
KINDS = {"ends": "<f4", "means": "<f4", "plane": "<f4", "counts": "u1", "points": "<u2"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Three networks of the sweep, trained in seconds."""
    names = ("gamma0", "gamma1", "gamma1000")
    store = tmp_path_factory.mktemp("runs")
    runs = study("smoke-gammas", seeds=1, only=names, store=store, workers=1, progress=False)
    return trained_again(runs, names, growing=3, after=1)


@pytest.fixture(scope="module")
def data(frames):
    return json.loads(re.findall(r'-data">(.*)</script>', explorer.element(frames).html)[0])


def decoded(data, name):
    """Return an array of the page with the axes that its documentation names."""
    networks, epochs, classes = len(data["networks"]), len(data["epochs"]), len(data["classes"])
    axes = {
        "ends": (data["nodes"], 2),
        "means": (classes, data["nodes"]),
        "plane": (classes, 2),
        "counts": (data["nodes"], classes, data["bins"]),
        "points": (len(data["shown"]), 2),
    }
    flat = np.frombuffer(base64.b64decode(data[name]), dtype=KINDS[name])
    return flat.reshape(networks, epochs, *axes[name])


def test_numbers_are_exact_to_what_their_encoding_says(frames, data):
    table = frames.table()
    for name in ("gamma", "rms", "trace_ratio", "accuracy", "nearest_mean_accuracy"):
        there = np.array(data[name]).ravel()
        assert there == pytest.approx(table[name].to_numpy(), rel=5e-6, abs=0), name
    assert data["networks"] == [0.0, 1.0, 1000.0] and data["epochs"] == list(frames.epochs)
    means = np.array([[class_means(latent, frames.label) for latent in own] for own in frames.latent])
    assert decoded(data, "means") == pytest.approx(means, rel=6e-8)
    ends = np.stack([frames.latent.min(axis=2), frames.latent.max(axis=2)], axis=-1)
    assert (decoded(data, "ends") == ends).all()


def test_points_are_off_by_a_65535th_of_the_reach_at_most(frames, data):
    points, reach = decoded(data, "points"), np.array(data["reach"])
    back = (2 * points.astype(float) / explorer.LEVELS - 1) * reach[..., None, None]
    label = frames.label
    chosen = np.concatenate([np.flatnonzero(label == one)[: explorer.SHOWN] for one in np.unique(label)])
    assert np.array(data["classes"])[data["shown"]].tolist() == [str(one) for one in label[chosen]]
    for place, own in enumerate(frames.latent):
        directions = plane(own[-1], label)
        off = np.abs(back[place] - own[:, chosen] @ directions).max(axis=(1, 2))
        assert (off <= reach[place] / explorer.LEVELS * (1 + 1e-5)).all()
        assert decoded(data, "plane")[place, -1] == pytest.approx(
            class_means(own[-1], label) @ directions, rel=1e-6, abs=1e-7 * reach[place, -1]
        )


def test_histograms_count_every_point_once_where_it_is(frames, data):
    counts = decoded(data, "counts").astype(int)
    assert (counts.sum(axis=-1) == np.bincount(frames.label)).all()
    latent, label = frames.latent[1, -1].astype(np.float64), frames.label
    own = latent[label == 3, 2]
    expected, _ = np.histogram(own, bins=data["bins"], range=(latent[:, 2].min(), latent[:, 2].max()))
    assert counts[1, -1, 2, 3].tolist() == expected.tolist()


def test_what_a_byte_cannot_count_is_refused(frames):
    label = np.zeros(600, dtype=int)
    label[:2] = 1
    latent = np.zeros((1, 1, 600, 2), dtype=np.float32)
    latent[..., 0, :], latent[..., 1, 1] = 1.0, -1.0
    one = np.ones((1, 1))
    many = Frames(("gamma1",), (1,), one, latent, one, label, np.zeros(1))
    with pytest.raises(ValueError, match="a bin of 48 holds 598 points of a class; a byte counts to 255"):
        explorer.encode(many)
    with pytest.raises(ValueError, match="gamma2"):
        explorer.encode(frames._replace(names=("gamma2", "gamma1", "gamma1000")))


def test_the_still_figure_has_every_network_and_needs_no_script(frames):
    fig = Figure()
    explorer.still(fig, frames, columns=3)
    grid = np.array(fig.axes).reshape(3, 3)
    assert [ax.get_ylabel() for ax in grid[:, 0]] == ["γ to 0", "γ to 1", "γ to 1000"]
    assert [ax.get_title() for ax in grid[0]] == ["epoch 1", "epoch 3", "epoch 4"]
    drawn = np.concatenate([line.get_xydata() for line in grid[1, 2].lines])
    assert len(drawn) == len(frames.label)
    assert grid[1, 2].get_xlabel() == f"rms {number(rms(frames.latent[1, -1]), 2)}"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    try:
        program = find_chromium()
    except ChromiumError as error:
        pytest.skip(str(error))
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def place(frames, tmp_path_factory):
    """Write the page's element with its script and style to a file."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("explore.js", "explore.css"):
        shutil.copy(STATIC / name, folder)
    path = folder / "page.html"
    head = (
        '<meta charset="utf-8"><link rel="stylesheet" href="explore.css"><script src="explore.js"></script>'
    )
    path.write_text(
        f"<!DOCTYPE html><html><head>{head}</head><body>{explorer.element(frames).html}</body></html>"
    )
    return path.as_uri()


@pytest.fixture
def shown(browser, place):
    context = browser.new_context()
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(place)
    yield page
    context.close()


def read(page):
    """Return the numbers that the page displays."""
    text = page.locator("#lpc-readout").inner_text()
    return text, [float(word) for word in re.findall(r"[-\d.]+(?:e-?\d+)?", text)]


def test_the_keyboard_moves_gamma_and_epoch_and_the_page_says_pythons_numbers(shown, frames):
    table = frames.table()
    shown.locator("#lpc-gamma").focus()
    shown.keyboard.press("Home")
    for place, name in enumerate(frames.names):
        shown.locator("#lpc-epoch").focus()
        shown.keyboard.press("Home")
        for epoch in frames.epochs:
            row = table.loc[(name, epoch)]
            text, numbers = read(shown)
            assert numbers[:2] == [explorer.last_gamma(name), epoch], text
            said = [numbers[2], numbers[3], numbers[4], numbers[5] / 100, numbers[6] / 100]
            expected = row[["gamma", "rms", "trace_ratio", "accuracy", "nearest_mean_accuracy"]]
            assert said == pytest.approx(expected.tolist(), rel=5.1e-3), text
            spoken = shown.locator("#lpc-epoch").get_attribute("aria-valuetext")
            assert spoken == f"epoch {epoch} of {frames.epochs[-1]}"
            shown.keyboard.press("ArrowRight")
        shown.locator("#lpc-gamma").focus()
        shown.keyboard.press("ArrowRight")
        last = frames.names[min(place + 1, len(frames.names) - 1)]
        spoken = shown.locator("#lpc-gamma").get_attribute("aria-valuetext")
        assert spoken == f"γ grows to {explorer.last_gamma(last):g}"


def test_the_script_reads_the_arrays_that_python_wrote(shown, frames, data):
    there = shown.evaluate(
        """() => {
          const { at, data } = document.getElementById("lpc-explore").decoded, f = 2 * data.epochs.length + 1;
          const all = (n, of) => Array.from({ length: n }, (_, i) => of(i));
          return {
            counts: all(data.bins, (bin) => at.count(f, 5, 7, bin)),
            means: all(data.nodes, (node) => at.mean(f, 4, node)),
            ends: all(data.nodes, (node) => [at.end(f, node, 0), at.end(f, node, 1)]),
            plane: all(2, (axis) => at.middle(f, 9, axis)),
            points: all(data.shown.length, (i) => [at.point(f, i, 0), at.point(f, i, 1)]),
          };
        }"""
    )
    assert there["counts"] == decoded(data, "counts")[2, 1, 5, 7].tolist()
    assert there["means"] == decoded(data, "means")[2, 1, 4].astype(float).tolist()
    assert there["ends"] == decoded(data, "ends")[2, 1].astype(float).tolist()
    assert there["plane"] == decoded(data, "plane")[2, 1, 9].astype(float).tolist()
    points = (2 * decoded(data, "points")[2, 1].astype(float) / explorer.LEVELS - 1) * data["reach"][2][1]
    assert np.array(there["points"]) == pytest.approx(points, rel=1e-9, abs=1e-12)


def test_a_node_and_a_scale_can_be_chosen_and_are_drawn(shown, frames, data):
    assert shown.locator("#lpc-explore svg").count() == 2
    assert (
        shown.locator("#lpc-explore svg").nth(1).get_attribute("aria-label")
        == "Histogram of node 0, stacked by class"
    )
    unit = shown.locator("#lpc-explore svg").nth(0).text_content()
    bars = [path.get_attribute("d") or "" for path in shown.locator("svg").nth(1).locator("path[fill]").all()]
    counts = decoded(data, "counts")[-1, 0, 0]  # the page opens at the first epoch of the largest gamma
    assert [one.count("M") for one in bars] == (counts > 0).sum(axis=1).tolist(), (
        "a bar for every bin with points"
    )
    shown.get_by_label("true scale").check()
    assert shown.locator("#lpc-explore svg").nth(0).text_content() != unit
    shown.get_by_label("Node", exact=True).select_option("all")
    assert shown.locator("#lpc-explore svg").count() == frames.latent.shape[-1]


def test_play_runs_to_the_last_epoch_and_is_not_offered_where_motion_is_not_wanted(browser, place, shown):
    shown.get_by_role("button", name="Play").click()
    shown.wait_for_function("(one => one.value === one.max)(document.getElementById('lpc-epoch'))")
    shown.get_by_role("button", name="Play").wait_for()
    still = browser.new_context(reduced_motion="reduce").new_page()
    still.goto(place)
    assert still.locator("#lpc-gamma").count() == 1 and still.locator("#lpc-explore button").count() == 0


def test_without_scripts_there_are_words_and_no_dead_controls(browser, place):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(place)
    assert "needs" in page.locator("#lpc-explore").inner_text().replace("need JavaScript", "needs")
    assert page.locator("#lpc-explore :is(input, select, button)").count() == 0


def test_nothing_is_loaded_from_elsewhere(frames):
    whole = (
        explorer.element(frames).html
        + (STATIC / "explore.js").read_text()
        + (STATIC / "explore.css").read_text()
    )
    addresses = set(re.findall(r"https?://[^\s\"')]+", whole))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a name of a format, not an address"
    assert not re.search(r"\b(fetch|XMLHttpRequest|import\s*\()", whole)
