"""The same work in two processes that know of each other, as in distributed training on a CPU."""

import json
import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed


def _take_part(work: Callable[[int], Any], rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    (folder / f"{rank}.json").write_text(json.dumps(work(rank)))
    distributed.destroy_process_group()


def in_two(work: Callable[[int], Any], folder: Path) -> tuple[Any, Any]:
    """Return what a function of a module returns for ranks 0 and 1, one in a process of its own, by JSON."""
    other = multiprocessing.get_context("spawn").Process(target=_take_part, args=(work, 1, folder))
    other.start()
    _take_part(work, 0, folder)
    other.join()
    assert other.exitcode == 0
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    return first, second
