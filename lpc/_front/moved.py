"""Modules that were moved: importing one by its old path says where it is now."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

RENAMED: Mapping[str, str] = {
    "lpc.machine": "lpc.computing.devices and lpc.computing.provenance",
    "lpc.recording": "lpc.runs.training_loop",
    "lpc.epochs": "lpc.training.draws and lpc.training.trainers",
}
"""Modules of the library that were renamed; modules that kept their name are found without an entry."""


class MovedModules:
    """A finder that comes after all others: for a module that was moved, it says where it is now.

    Parameters
    ----------
    package
        Name of the package.
    folder
        Folder of the package.
    renamed
        Present paths of modules that were renamed, by their old paths.
    """

    def __init__(self, package: str, folder: str, renamed: Mapping[str, str]) -> None:
        self.package, self.folder, self.renamed = package, folder, renamed

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Raise a ModuleNotFoundError that says where a module is now, if that is known."""
        place = self.place(name) if name.startswith(f"{self.package}.") else ""
        if place:
            # without a name, as `from package import module` would drop the message
            raise ModuleNotFoundError(f"No module named {name!r}: it is {place} now")

    def place(self, name: str) -> str:
        """Return where a module is now, from the table or by its name; empty: unknown."""
        from pathlib import Path

        if name in self.renamed:
            return self.renamed[name]
        own, folder = name.rpartition(".")[2].lstrip("_"), Path(self.folder)
        paths = (path.relative_to(folder).with_suffix("") for path in folder.rglob(f"*{own}.py"))
        found = (".".join([self.package, *path.parts]) for path in paths if path.name.lstrip("_") == own)
        return " or ".join(sorted(found))


def announce(package: str, renamed: Mapping[str, str]) -> None:
    """Let imports of a package's modules by their old paths say where the modules are now.

    Parameters
    ----------
    package
        Name of the package that is being imported.
    renamed
        Present paths of modules that were renamed, by their old paths.
    """
    sys.meta_path.append(MovedModules(package, sys.modules[package].__path__[0], renamed))
