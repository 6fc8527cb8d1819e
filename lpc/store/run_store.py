"""The run store: one directory per run, written atomically, read back as one tidy table.

Layout::

    runs/<key>/spec.json               what the run is; <key> is its SHA-256
    runs/<key>/provenance.json         commit, versions, device, packing, data checksum, wall time, attempts
    runs/<key>/history.jsonl           one line per epoch
    runs/<key>/checkpoint.safetensors  final weights and buffers
    runs/<key>/result.json             train and validation metrics; written last: it marks the run finished
    runs/<key>/test.json               test metrics, only of runs that were selected
    runs/<key>/<name>.probe            measurements taken afterwards: see :mod:`lpc.store.probes`
    cohorts/<id>/members.json          keys of runs that are training together
    cohorts/<id>/state.pt              their weights and training state
    cohorts/<id>/progress.json         number of epochs trained, readable without the weights
    runs/<key>/owner-<n>.json          a process that has tried to train it; removed at the end
    heartbeats/<token>                 a process and the runs it trains: see :mod:`lpc.store.ownership`
    listing-<protocol>.json            rows kept for listing; may be deleted: see :mod:`lpc.store.listing`
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lpc.errors import on_one_line
from lpc.specs import PROTOCOL, RunSpec, run_key
from lpc.store import holders, leftovers, listing, probes
from lpc.store.atomic import see_afresh, write_bytes, write_json, write_once
from lpc.store.checksums import (
    check,
    opened_bytes,
    part,
    say_unchecked,
    seal,
    sealed_object,
)
from lpc.store.holders import Attempt, Holder
from lpc.store.leftovers import Leftover, Swept
from lpc.store.ownership import Lease
from lpc.store.probes import Probe
from lpc.store.reading import (
    Damaged,
    bytes_if_there,
    damaged,
    out_of_place,
    parsed_lines,
    read_object,
    read_object_if_there,
    read_texts,
)
from lpc.store.wholeness import (
    has_ended,
    is_of,
    parsed_provenance,
    parsed_result,
    parsed_test,
    read_result,
    read_spec,
)

if TYPE_CHECKING:
    import pandas


def _cohort_of(keys: Iterable[str]) -> str:
    return hashlib.sha256("".join(keys).encode()).hexdigest()


class RunStore:
    """Results on disk, by run key.

    Parameters
    ----------
    root
        Directory of the store, created on the first write.

    Raises
    ------
    ValueError
        If the path has line breaks.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = on_one_line(root, "the folder of the run store")
        self._whole: dict[str, tuple[int, int]] = {}

    def directory(self, key: str) -> Path:
        """Return the directory of a run."""
        return self.root / "runs" / key

    def finished(self, spec: RunSpec) -> bool:
        """Whether the run has a result, trained or failed, and is whole.

        Raises
        ------
        lpc.store.reading.Damaged
            If it has a result, but its status, its spec or another of its files is damaged.
        """
        return self.has_ended(run_key(spec))

    def unfinished(self, specs: Iterable[RunSpec]) -> list[RunSpec]:
        """Return the runs that have no result yet; several are looked up together.

        Raises
        ------
        lpc.store.reading.Damaged
            As in :meth:`finished`, for the first damaged run.
        """
        asked = list(specs)
        parts = [asked[first : first + listing.TOGETHER] for first in range(0, len(asked), listing.TOGETHER)]
        with ThreadPoolExecutor(listing.TOGETHER) as pool:
            look = map if len(parts) == 1 else pool.map
            return list(chain.from_iterable(look(self._those_unfinished, parts)))

    def _those_unfinished(self, specs: Sequence[RunSpec]) -> list[RunSpec]:
        return [spec for spec in specs if not self.finished(spec)]

    def has_ended(self, key: str) -> bool:
        """Whether the run of a key has ended, as :meth:`finished` says.

        A run that was seen to be whole is read again only when its result changes.
        """
        try:
            status = (self.directory(key) / "result.json").stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise out_of_place(error) or error from None
        stamp = status.st_mtime_ns, status.st_size
        if self._whole.get(key) != stamp:
            if not has_ended(self.directory(key)):
                return False
            self._whole[key] = stamp
        return True

    def measured(self, spec: RunSpec) -> bool:
        """Whether the run has its test metrics."""
        return (self.directory(run_key(spec)) / "test.json").exists()

    def result(self, spec: RunSpec) -> dict[str, Any]:
        """Return the result of a finished run."""
        return self._part(spec, "result.json")

    def test(self, spec: RunSpec) -> dict[str, Any]:
        """Return the test metrics of a measured run."""
        return self._part(spec, "test.json")

    def provenance(self, spec: RunSpec) -> dict[str, Any]:
        """Return the provenance of a finished run's result."""
        return self._part(spec, "provenance.json")

    def _part(self, spec: RunSpec, name: str) -> dict[str, Any]:
        path = self.directory(run_key(spec)) / name
        content = bytes_if_there(path)
        if content is None:
            raise ValueError(
                f"{path} does not exist: run {spec.architecture}, seed {spec.seed}, has no {name}"
            )
        if name == "result.json":
            return parsed_result(path, content).values
        parse = parsed_provenance if name == "provenance.json" else parsed_test
        values, sealed = parse(path, content, read_result(path.parent))
        if not sealed:
            say_unchecked(self.root, path)
        return values

    def _check(self, path: Path, content: bytes) -> None:
        """Check a file of a run against the entry in its result, if there is one."""
        result = read_result(path.parent)
        if result is not None and not check(path, content, result.parts):
            say_unchecked(self.root, path)

    @staticmethod
    def cohort(specs: Sequence[RunSpec]) -> str:
        """Return the id of a cohort of these runs, in this order."""
        return _cohort_of(map(run_key, specs))

    def lease(self, specs: Sequence[RunSpec]) -> Lease:
        """Return a lease of this process on the unfinished runs among these: on all of them or none.

        Raises
        ------
        lpc.store.Held
            If another program has one of them.
        """
        return Lease(self.root, [run_key(spec) for spec in specs], self.has_ended)

    def holders(self) -> dict[str, Holder]:
        """Return the present holders of runs, by run key."""
        return holders.live_holders(self.root)

    def attempts(self, spec: RunSpec) -> list[Attempt]:
        """Return the attempts at a run that has not finished, in their order."""
        return holders.attempts(self.root, run_key(spec))

    def begin(self, specs: Sequence[RunSpec]) -> str:
        """Write the specs of runs that start together, once they are leased; return the cohort's id."""
        keys = [run_key(spec) for spec in specs]
        for key, spec in zip(keys, specs, strict=True):
            write_json(self.directory(key) / "spec.json", asdict(spec))
        cohort = self.cohort(specs)
        write_json(self.root / "cohorts" / cohort / "members.json", keys)
        return cohort

    def cohorts(self, *, afresh: bool = False) -> dict[str, list[str]]:
        """Return the keys of every cohort that has begun and not ended, by cohort id.

        Parameters
        ----------
        afresh
            Whether to ask a network file server anew; if not, the answer may be a minute old.
        """
        if afresh and (self.root / "cohorts").exists():
            see_afresh(self.root / "cohorts")
        found = {}
        for path in sorted(self.root.glob("cohorts/*/members.json")):
            keys = self.members(path.parent.name)
            if keys is not None:
                found[path.parent.name] = keys
        return found

    def members(self, cohort: str) -> list[str] | None:
        """Return the keys of a cohort's runs, or None if it has ended."""
        path = self.root / "cohorts" / cohort / "members.json"
        keys = read_texts(path)
        if keys is not None and _cohort_of(keys) != cohort:
            raise damaged(path, f"lists the runs of cohort {_cohort_of(keys)}")
        return keys

    def spec(self, key: str) -> RunSpec:
        """Return the spec of a run that has begun; a spec with another key is an error."""
        return read_spec(self.directory(key) / "spec.json")

    def save_state(self, cohort: str, state: dict[str, Any], *, epoch: int) -> None:
        """Write the state of a cohort after a number of epochs."""
        path = self.root / "cohorts" / cohort / "state.pt"
        content = io.BytesIO()  # torch reports a full disk as a RuntimeError, a plain write as an OSError
        torch.save({"cohort": cohort, **state}, content)
        write_bytes(path, content.getbuffer(), seal(content.getbuffer()))
        write_json(path.with_name("progress.json"), {"epoch": epoch})

    def epochs_done(self) -> dict[str, int]:
        """Return the number of epochs trained so far for every run in an unfinished cohort, by run key."""
        found = {}
        for cohort, keys in self.cohorts().items():
            epoch = self.progress(cohort)
            if epoch is not None:
                found.update(dict.fromkeys(keys, epoch))
        return found

    def progress(self, cohort: str) -> int | None:
        """Return the number of epochs in a cohort's last checkpoint, or None if there is no checkpoint."""
        path = self.root / "cohorts" / cohort / "progress.json"
        progress = read_object_if_there(path, fields={"epoch": int})
        return None if progress is None else progress["epoch"]

    def load_state(self, cohort: str, device: torch.device | str) -> dict[str, Any] | None:
        """Return the state of a cohort, or None before its first checkpoint.

        Raises
        ------
        ValueError
            If the file is truncated, not a checkpoint, or another cohort's.
        """
        path = self.root / "cohorts" / cohort / "state.pt"
        content = bytes_if_there(path)
        if content is None:
            return None
        try:
            body, sealed = opened_bytes(path, content)
            state = torch.load(io.BytesIO(body), map_location=device, weights_only=True)
        except Damaged:
            raise
        except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, ValueError) as error:
            raise damaged(path, f"is truncated or not a checkpoint ({type(error).__name__})") from error
        owner = state.get("cohort") if isinstance(state, dict) else None
        if owner != cohort:
            raise damaged(path, f"is the checkpoint of cohort {owner}, expected {cohort}")
        if not sealed:
            say_unchecked(self.root, path)
        return state

    def finish(
        self,
        spec: RunSpec,
        *,
        result: dict[str, Any],
        history: Iterable[dict[str, Any]],
        provenance: dict[str, Any],
        weights: dict[str, Tensor],
    ) -> None:
        """Write all files of a run, its result last; a run that already has a result keeps it.

        A program that slept in the middle of this, and was taken for dead, thus undoes nothing: all programs
        write the same for a run, except for the provenance, which is whole by itself.
        """
        key = run_key(spec)
        directory = self.directory(key)
        tensors = {name: value.contiguous().cpu() for name, value in weights.items()}
        contents = {
            "history.jsonl": "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in history).encode(),
            "checkpoint.safetensors": save(tensors, metadata={"key": key}),
        }
        for name, content in contents.items():
            write_bytes(directory / name, content)
        write_bytes(directory / "provenance.json", sealed_object(provenance))
        files = {name: part(content)._asdict() for name, content in contents.items()}
        write_once(directory / "result.json", sealed_object({**result, "files": files}))

    def leftovers(self) -> list[Leftover]:
        """Return leftovers of killed programs that nobody needs (:mod:`lpc.store.leftovers`)."""
        return leftovers.leftovers(self.root, self.has_ended)

    def sweep(self, specs: Iterable[RunSpec] | None = None, *, patient: bool = True) -> list[Swept]:
        """Remove leftovers that are certainly unused; return those that were tried.

        Parameters
        ----------
        specs
            Specs of the runs to look at, besides leftovers that belong to no run; None: the whole store.
        patient
            Whether to remove leftovers that take half a minute to be sure of: damaged heartbeats.
        """
        keys = None if specs is None else [run_key(spec) for spec in specs]
        return leftovers.sweep(self.root, self.has_ended, keys=keys, patient=patient)

    def end(self, cohort: str) -> None:
        """Remove a cohort once all its runs are finished, or belong to others; its list of members first."""
        directory = self.root / "cohorts" / cohort
        (directory / "members.json").unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)  # NFS keeps what another program reads at this moment

    def save_test(self, spec: RunSpec, test: dict[str, Any]) -> None:
        """Write the test metrics of a finished run."""
        write_bytes(self.directory(run_key(spec)) / "test.json", sealed_object(test))

    def save_probe(
        self, spec: RunSpec, name: str, probe: Probe, *, version: int, about: Mapping[str, Any] | None = None
    ) -> None:
        """Write a probe's results for a finished run; parameters as in :func:`~lpc.store.probes.save`."""
        probes.save(self.directory(run_key(spec)), name, probe, version=version, about=about)

    def probe(self, key: str, name: str, *, version: int) -> dict[str, Any] | None:
        """Return everything that was written for a run's probe, or None if there is none of this version."""
        return probes.read(self.directory(key), name, version=version)

    def probes(self, keys: Iterable[str], versions: Mapping[str, int]) -> pandas.DataFrame:
        """Return one row per run that has a probe: ``key``, and the values of each as ``<probe>_<value>``."""
        return probes.rows(self.root, keys, versions)

    def probe_table(self, key: str, name: str, *, version: int) -> pandas.DataFrame | None:
        """Return the table of a run's probe, or None if there is none of this version."""
        return probes.read_table(self.directory(key), name, version=version)

    def load_weights(self, spec: RunSpec) -> dict[str, Tensor]:
        """Return the final weights of a finished run.

        Raises
        ------
        ValueError
            If the file is missing, truncated, not safetensors, or another run's.
        """
        key = run_key(spec)
        path = self.directory(key) / "checkpoint.safetensors"
        content = bytes_if_there(path)
        if content is None:
            raise damaged(path, "does not exist")
        try:
            with safe_open(path, framework="pt") as stream:
                owner = (stream.metadata() or {}).get("key")
                weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (SafetensorError, FileNotFoundError) as error:
            raise damaged(path, f"is missing, truncated or not a checkpoint ({error})") from error
        if owner != key:
            raise damaged(path, f"is the checkpoint of run {owner}, expected {key}")
        self._check(path, content)
        return weights

    def rows(self, *, protocol: int = PROTOCOL) -> dict[str, dict[str, Any]]:
        """Return the rows of :meth:`frame` by run key."""
        found = listing.read(self.root, protocol=protocol)
        if found.unchecked:
            say_unchecked(self.root, self.directory(found.unchecked[0]) / "result.json")
        return {str(row["key"]): row for row in found.rows}

    def frame(self, *, protocol: int = PROTOCOL) -> pandas.DataFrame:
        """Return one row per run that has begun, under one protocol.

        Columns are the spec's fields (``data.name``, ``train.learning_rate``, ...), ``status``
        (``training``, ``finished`` or ``failed``), the result's metrics, and the test metrics as
        ``test_*``. A missing value is NaN.
        """
        import pandas

        return pandas.DataFrame(list(self.rows(protocol=protocol).values()))

    def history(self, keys: Iterable[str] | None = None, *, protocol: int = PROTOCOL) -> pandas.DataFrame:
        """Return one row per run and epoch: ``key``, ``epoch``, losses, rates and the recorded metrics.

        Parameters
        ----------
        keys
            Keys of the runs; None: all of them.
        protocol
            Protocol of the runs; others are left out.
        """
        import pandas

        found = (
            sorted(path.parent.name for path in self.root.glob("runs/*/history.jsonl"))
            if keys is None
            else sorted(keys)
        )
        parts = []
        for key in found:
            lines = self._history(key, protocol)
            if lines is not None:
                parts.append(pandas.DataFrame(lines).assign(key=key))
        return (
            pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=["key", "epoch"])
        )

    def _history(self, key: str, protocol: int) -> list[dict[str, Any]] | None:
        """Return a run's history; None if it has none yet, or has another protocol."""
        path = self.directory(key) / "history.jsonl"
        content = bytes_if_there(path)
        if content is None:
            if self.has_ended(key):
                raise damaged(path, "does not exist, but the run has a result")
            return None
        if not is_of(path.with_name("spec.json"), read_object(path.with_name("spec.json")), protocol):
            return None
        self._check(path, content)
        return parsed_lines(path, content)
