"""Rows that arrive batch by batch: kept in memory, or in a safetensors file that may be larger."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


class Rows:
    """Arrays that grow by rows.

    Parameters
    ----------
    file
        Path of a new safetensors file for the arrays; None: they are kept in memory.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._parts: dict[str, list[Tensor]] = {}
        self._first: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}
        self._folder = None
        if file is not None:
            if file.suffix != ".safetensors":
                raise ValueError(f"file is {str(file)!r}; expected a name that ends in .safetensors")
            self._folder = tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=f".{file.name}-")
            self._open: dict[str, IO[bytes]] = {}

    def add(self, name: str, rows: Tensor) -> None:
        """Add rows to an array.

        Raises
        ------
        ValueError
            If the width differs from that of earlier rows.
        """
        first = self._first.setdefault(name, rows[:0].cpu())
        if rows.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{name} has rows of shape {tuple(rows.shape[1:])} in one batch and {tuple(first.shape[1:])} "
                "in an earlier one; expected one shape"
            )
        self._count[name] = self._count.get(name, 0) + len(rows)
        rows = rows.to("cpu", first.dtype).contiguous()
        if self._folder is None:
            self._parts.setdefault(name, []).append(rows)
            return
        if name not in self._open:
            self._open[name] = Path(self._folder.name, str(len(self._open))).open("wb")  # noqa: SIM115
        self._open[name].write(rows.numpy().tobytes())

    def finished(self, more: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the arrays by name; with a file, as memory maps, which read only the requested entries.

        Parameters
        ----------
        more
            Further arrays to write to the file.
        """
        if self._folder is None or self.file is None:
            found = {}
            for name in list(self._parts):
                found[name] = torch.cat(self._parts.pop(name))  # one after another: at most one is held twice
            return found
        for name, value in (more or {}).items():
            self.add(name, value.detach())
        for stream in self._open.values():
            stream.close()
        part = Path(self._folder.name, "whole")
        with part.open("wb") as whole:
            header, begin = self._header()
            whole.write(header)
            for stream in self._open.values():
                with Path(stream.name).open("rb") as source:
                    shutil.copyfileobj(source, whole, 1 << 22)
                Path(stream.name).unlink()
        part.replace(self.file)
        self.close()
        found = {}
        for name, first in self._first.items():
            shape = (self._count[name], *first.shape[1:])
            mapped = np.memmap(self.file, first.numpy().dtype, "c", offset=begin, shape=shape)
            found[name] = torch.from_numpy(mapped)
            begin += mapped.nbytes
        return found

    def close(self) -> None:
        """Remove an unfinished file."""
        if self._folder is not None:
            for stream in self._open.values():
                stream.close()
            self._folder.cleanup()

    def _header(self) -> tuple[bytes, int]:
        """Return the file's header by the safetensors format, and where data begin."""
        entries, at = {}, 0
        for name in self._open:
            first = self._first[name]
            shape = [self._count[name], *first.shape[1:]]
            size = math.prod(shape) * first.element_size()
            entries[name] = {"dtype": _NAMES[first.dtype], "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text, 8 + len(text)
