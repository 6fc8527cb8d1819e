"""What is run, and what came out: profiles, the ablation, the claims ledger, chapters and the book."""

from experiments.moved import RENAMED
from lpc.moved import announce

announce(__name__, RENAMED)
