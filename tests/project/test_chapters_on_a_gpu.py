"""Every chapter on a pretended GPU, with the runs of the profile smoke: nightly, as every launch is counted.

The runs are trained, measured and probed on it too: nothing of what the book computes stays on the CPU.
"""

import multiprocessing
import os
from collections.abc import Iterator
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from IPython.core.interactiveshell import InteractiveShell
from support.pretended_gpu import pretended_gpu
from support.pretended_kernels import Kernels

from experiments.benchmarks import training_crew
from experiments.paths import ROOT
from experiments.publishing.executing import chapter_sources, needs
from experiments.publishing.places import PLACES
from lpc.training import compiling

CHAPTERS = [name for name in PLACES.page_names() if not PLACES.is_text(name)]


@pytest.fixture(scope="module")
def gpu() -> Iterator[Kernels]:
    """A card that Triton does not support, so that nothing is compiled."""
    with pytest.MonkeyPatch.context() as patch, pretended_gpu() as kernels:
        patch.setattr(compiling, "has_triton", lambda: False)
        forked = multiprocessing.get_context("fork")  # whose processes pretend, too
        patch.setattr(training_crew, "multiprocessing", SimpleNamespace(get_context=lambda _: forked))
        patch.chdir(ROOT)
        patch.setenv("MPLBACKEND", "agg")
        mpl.use("agg")
        yield kernels


@pytest.fixture(scope="module")
def store(gpu, tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.nightly
@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # as in notebooks, where they are no errors
@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_on_a_gpu_runs_to_its_end_and_rounds_nothing(gpu, store, name):
    assert os.environ.get("LPC_DEVICE") in (None, "cuda")
    values = chapter_sources.chosen(None, {"profile": "smoke", "store": str(store)}, PLACES)[name]
    needs.train([(chapter_sources.settings_of(name).needs, values)], root=ROOT)
    gpu.rounded.clear()
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    try:
        for number, (code, tags) in enumerate(chapter_sources.cells_of(name)):
            done = shell.run_cell(code)
            done.raise_error()
            assert done.success, (name, number)
            if "parameters" in tags:
                shell.user_ns.update(values)
    finally:
        plt.close("all")
        InteractiveShell.clear_instance()
    assert not gpu.rounded or name == "cost"  # which times plain PyTorch as it comes
