"""Experiments and their results: profiles, the ablation, the claims ledger, chapters and the book."""

import os

from experiments.moved import RENAMED
from lpc._front.moved import announce

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Environment variables that let idle threads sleep, rather than spin, at the end of a parallel region."""
for _name, _value in PASSIVE.items():
    os.environ.setdefault(_name, _value)  # torch reads it once, on import; kernels and workers inherit it

announce(__name__, RENAMED)
