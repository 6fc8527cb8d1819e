"""Runs the same work in two communicating processes, as in distributed training on a CPU."""

import json
import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import support.warm
from torch import distributed

ROOT = Path(__file__).parents[2]
OTHER = """
import pickle, sys
from support.two_processes import take_part
take_part(pickle.loads(bytes.fromhex(sys.argv[1])), 1, sys.argv[2])
"""


def take_part(work: Callable[[int], Any], rank: int, folder: str | Path) -> None:
    """Do the work as one of the two processes, and write what it returns."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    Path(folder, f"{rank}.json").write_text(json.dumps(work(rank)))
    distributed.destroy_process_group()


def in_two(work: Callable[[int], Any], folder: Path) -> tuple[Any, Any]:
    """Return what a function of a module returns for ranks 0 and 1, one in a process of its own, by JSON."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with support.warm.begin("-c", OTHER, pickle.dumps(work).hex(), folder, cwd=ROOT, env=env) as other:
        take_part(work, 0, folder)
        assert other.wait() == 0, other.err
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    return first, second
