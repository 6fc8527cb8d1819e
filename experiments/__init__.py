"""What is run, and what came out: profiles, the ablation, the claims ledger, chapters and the book."""

import os

from experiments.moved import RENAMED
from lpc._front.moved import announce

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""How threads wait for each other at the end of a parallel region: asleep, not on a core that others need."""
for _name, _value in PASSIVE.items():
    os.environ.setdefault(_name, _value)  # read once, when torch is imported; kernels and workers inherit it

announce(__name__, RENAMED)
