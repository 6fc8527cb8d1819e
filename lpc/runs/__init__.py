"""Runs: from a spec to a result in a store; only here do training, measuring and storing meet.

``execute`` trains and measures one run, ``execute_all`` many, in cohorts and processes. ``measure`` takes the
test metrics of a run that was selected, ``load_model`` returns the classifier of a finished one.
"""

from typing import TYPE_CHECKING

from lpc._front.faces import face

if TYPE_CHECKING:
    from lpc.runs.execution import execute as execute
    from lpc.runs.execution import execute_all as execute_all
    from lpc.runs.execution import load_model as load_model
    from lpc.runs.execution import measure as measure
    from lpc.runs.execution import measure_all as measure_all
else:
    __getattr__, __dir__ = face(__name__)
