"""The command line: ``python -m experiments VERB``."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterable
from typing import Any

import click

from experiments.commands import cli
from lpc.computing.stopping import Stopped, ends_with_its_reader, exit_status, interrupt
from lpc.store.reading import out_of_place

_ERRORS = {
    "experiments.cluster.slurm": "SchedulerError",
    "experiments.publishing.build": "BuildError",
    "experiments.publishing.chromium": "ChromiumError",
    "experiments.publishing.checking.checks": "CheckError",
    "experiments.publishing.executing.execution": "ChapterError",
}
"""Errors, by module, that are reported in one line, as ValueError and OSError are."""


def _known_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that are reported in one line; a module not yet imported cannot raise any."""
    loaded = [(sys.modules[module], name) for module, name in _ERRORS.items() if module in sys.modules]
    return (ValueError, *(getattr(module, name) for module, name in loaded))


def _explain(error: OSError) -> str:
    reasons = {
        errno.ENOSPC: "the disk is full; finished work is kept: free some space and run the command again",
        errno.EACCES: "no permission to write there",
        errno.EROFS: "the file system is read-only",
        errno.ENAMETOOLONG: "choose a shorter one",
        errno.ELOOP: "a link leads back to itself; remove it",
    }
    if misplaced := out_of_place(error):
        return str(misplaced)
    reason = reasons.get(error.errno or 0)
    return f"{error}: {reason}" if reason else str(error)


def main(arguments: Iterable[str] | None = None) -> Any:
    """Run the command line; an error that a user can cause gives one message and exit status 1.

    When asked to stop, training says how far it has come; the exit status is 130 after Ctrl-C, 143 after
    SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return cli.main(given, prog_name="python -m experiments")
    except Exception as error:
        if isinstance(error, Stopped):
            click.echo(str(error), err=True)
            sys.exit(exit_status())
        known = isinstance(error, (*_known_errors(), OSError))
        if "--debug" in given or not known:
            raise
        click.echo(f"error: {_explain(error) if isinstance(error, OSError) else error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # training has its own handler
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell ignores it for background jobs
            signal.signal(number, interrupt)
    with ends_with_its_reader():
        main()
