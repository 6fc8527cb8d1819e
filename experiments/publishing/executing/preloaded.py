"""Loads what several chapters import and read, once, in the process whose forks are their kernels.

Import it only there. A module that cannot be loaded is left to the chapters that import it, which report why.
Kernels read recorded runs again if their files have changed since.
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
