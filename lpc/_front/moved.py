"""Modules that went elsewhere: importing one by its old path says where it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

RENAMED: Mapping[str, str] = {
    "lpc.machine": "lpc.computing.devices and lpc.computing.provenance",
    "lpc.recording": "lpc.runs.training_loop",
    "lpc.epochs": "lpc.training.draws and lpc.training.trainers",
}
"""Modules of the library that went to another name; those that kept theirs are found."""


class MovedModules:
    """A finder that comes after all others: for a module that is not there but was, it says where it went.

    Parameters
    ----------
    package
        Whose modules these are.
    folder
        Of the package.
    renamed
        Where modules are that have another name now, by their old path.
    """

    def __init__(self, package: str, folder: str, renamed: Mapping[str, str]) -> None:
        self.package, self.folder, self.renamed = package, folder, renamed

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Raise a ModuleNotFoundError that says where a module went, if it is known."""
        place = self.place(name) if name.startswith(f"{self.package}.") else ""
        if place:
            # without a name, as `from package import module` would drop the message
            raise ModuleNotFoundError(f"No module named {name!r}: it is {place} now")

    def place(self, name: str) -> str:
        """Return where a module went: its line of the table, or modules of its own name; empty: unknown."""
        from pathlib import Path

        if name in self.renamed:
            return self.renamed[name]
        own, folder = name.rpartition(".")[2].lstrip("_"), Path(self.folder)
        paths = (path.relative_to(folder).with_suffix("") for path in folder.rglob(f"*{own}.py"))
        found = (".".join([self.package, *path.parts]) for path in paths if path.name.lstrip("_") == own)
        return " or ".join(sorted(found))


def announce(package: str, renamed: Mapping[str, str]) -> None:
    """Let imports of a package's modules by their old paths say where they went.

    Parameters
    ----------
    package
        Its name; it is being imported.
    renamed
        Where modules are that have another name now, by their old path.
    """
    sys.meta_path.append(MovedModules(package, sys.modules[package].__path__[0], renamed))
