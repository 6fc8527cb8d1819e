"""Lists the files to bring to a machine without a network: wheels and data, by the project's own lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments.paths import ROOT, read_toml
from experiments.studies.profiles import profile
from lpc.datasets import FILES, absent_files


def wheels(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the packages to install: ``asked``, the project's requirements, and ``pinned``, the locked ones.

    Requirements that are not locked, because they replace a locked package, are ``instead``.

    Parameters
    ----------
    root
        Folder of ``pyproject.toml`` and ``constraints.txt``. Packages for other platforms and versions of
        Python are left out.
    """
    project = read_toml(root / "pyproject.toml")["project"]
    extras = project.get("optional-dependencies", {})
    lines = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    asked = {str(canonicalize_name(one.name)): one for one in map(Requirement, lines) if _here(one)}
    pinned = {str(canonicalize_name(one.name)): one for one in _pins(root / "constraints.txt")}
    return {
        "asked": _texts(one for name, one in asked.items() if name in pinned),
        "pinned": _texts(pinned.values()),
        "instead": _texts(one for name, one in asked.items() if name not in pinned),
    }


def _texts(found: Iterable[Requirement]) -> list[str]:
    return sorted(f"{one.name}{one.specifier}" for one in found)


def _here(one: Requirement) -> bool:
    return one.marker is None or one.marker.evaluate()


def _pins(path: Path) -> Iterator[Requirement]:
    for line in path.read_text(encoding="utf-8").replace("\\\n", "").splitlines():
        text = re.sub(r"(^|\s)(#|--hash=).*", "", line).strip()
        if text:
            one = Requirement(text)
            if _here(one):
                yield one


def data(name: str) -> list[str]:
    """Return the files of a profile's data set by their path in the data folder; missing ones are marked."""
    known = profile(name).data.name
    missing = {path.name for path in absent_files(known)}
    found = FILES[known]() if known in FILES else []
    return [f"{file}{': missing here' if Path(file.path).name in missing else ''}" for file in found]


def listing(name: str = "fashion") -> str:
    """Return lines that say what to bring, and which commands collect it on a machine with a network.

    Parameters
    ----------
    name
        Name of the profile that is trained in the remaining time.
    """
    found = wheels()
    other, install = (
        found["instead"],
        ".venv/bin/python -m pip install --no-index --find-links wheels --no-deps",
    )
    fetched = "--no-build-isolation --require-hashes --no-deps --requirement constraints.txt"
    return "\n".join(
        [
            "On a machine with a network and the same platform and Python:",
            "  make env",
            f"  .venv/bin/python -m pip download --dest wheels {fetched}",
            *(f"  .venv/bin/python -m pip download --dest wheels --no-deps '{line}'" for line in other),
            f"  LPC_DATA=data .venv/bin/python -m experiments fetch --profile {name}",
            "Bring the project without .venv, with wheels/ and data/. There:",
            '  PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels" make env',
            *(["  .venv/bin/python -m pip uninstall --yes faiss-cpu"] if other else []),
            *(f"  {install} '{line}'" for line in other),
            "  .venv/bin/python -m experiments gpu-check",
            "",
            f"Required by the project ({len(found['asked'])}):",
            *(f"  {line}" for line in found["asked"]),
            f"With their dependencies, at the versions of constraints.txt ({len(found['pinned'])}):",
            *(f"  {line}" for line in found["pinned"]),
            f"Data of profile {name}, below data/:",
            *(f"  {line}" for line in data(name)),
        ]
    )
