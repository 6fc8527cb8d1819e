"""The face of lpc.runs."""

from lpc.runs.execution import execute as execute
from lpc.runs.execution import execute_all as execute_all
from lpc.runs.execution import load_model as load_model
from lpc.runs.execution import measure as measure
from lpc.runs.execution import measure_all as measure_all
