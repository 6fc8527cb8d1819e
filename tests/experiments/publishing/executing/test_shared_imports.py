"""What chapters share before their kernels are forked, and what a kernel begins with."""

import importlib
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.publishing.executing import execution, preloaded
from experiments.publishing.executing.shared_imports import VARIABLE, shared_imports
from experiments.publishing.places import Places

CODE = {
    "one": "%matplotlib inline\nimport wave\nfrom xml.dom import minidom\nimport colorsys",
    "two": "def later():\n    import wave\nfrom xml import dom\nfrom xml.dom import minidom",
    "three": "this is no Python",
}


def test_modules_that_two_chapters_import_are_shared(tmp_path):
    for name, code in CODE.items():
        (tmp_path / f"{name}.md").write_text(f"# A page\n\n```{{code-cell}} ipython3\n{code}\n```\n")
    places = Places(sources=tmp_path)
    assert shared_imports(list(CODE), places) == ["wave", "xml.dom", "xml.dom.minidom"]
    assert shared_imports(["one"], places) == []


def test_what_cannot_be_loaded_is_left_to_the_chapter(monkeypatch, tmp_path):
    (tmp_path / "broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    read = []
    recorded = SimpleNamespace(
        all_recorded=lambda: read.append("runs"), all_recorded_bottlenecks=lambda: read.append("bottlenecks")
    )
    monkeypatch.setitem(sys.modules, "experiments.studies.recorded", recorded)
    monkeypatch.setenv(VARIABLE, "broken_module,no_such_module,wave")
    importlib.reload(preloaded)
    assert "wave" in sys.modules and read == ["runs", "bottlenecks"]


@pytest.mark.parametrize("begun", [False, True], ids=["as matplotlib does", "in a kernel"])
def test_a_kernel_draws_no_figure_for_a_screen(monkeypatch, begun):
    drawn, callbacks = [], []
    monkeypatch.setattr(FigureCanvasAgg, "draw_idle", FigureCanvasAgg.draw_idle)
    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda self: drawn.append(self))
    events = SimpleNamespace(register=lambda _, callback: callbacks.append(callback))
    exec(execution._DRAW_ONCE, {"get_ipython": lambda: SimpleNamespace(events=events)})
    for callback in callbacks if begun else ():
        callback()
    figure = plt.figure()
    figure.canvas.draw_idle()
    plt.close(figure)
    assert len(drawn) == (0 if begun else 1)
