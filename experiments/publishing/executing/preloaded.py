"""Loads what several chapters import and read, once, in the process whose forks are their kernels.

It is imported there, and nowhere else. What cannot be loaded is left to the chapter that wants it, which says
why. Recorded runs are read again by a kernel where their files have changed since.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress

from experiments.publishing.executing.shared_imports import VARIABLE

if VARIABLE in os.environ:
    for _module in filter(None, os.environ[VARIABLE].split(",")):
        with suppress(Exception):
            importlib.import_module(_module)
    if _recorded := sys.modules.get("experiments.studies.recorded"):
        with suppress(Exception):
            _recorded.all_recorded()
            _recorded.all_recorded_bottlenecks()
