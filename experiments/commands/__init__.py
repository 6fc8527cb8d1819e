"""The verbs of the command line."""

from __future__ import annotations

import sys
from typing import Any

import click

from experiments.commands import crashes, gpus, jobs, pages, runs, stores
from lpc.computing.stopping import exit_status


class _Verbs(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; if a signal ends it, exit with the signal's status, where click would exit with 1."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("stopped: finished work is kept; the same command continues from there", err=True)
            sys.exit(exit_status())


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train what the book needs, execute its chapters, build its pages.

    Everything is safe to repeat: finished runs, current chapters and good pages are kept, and interrupted
    work continues where it stopped.
    """
    del debug  # read in main


for _command in (
    *(runs.fetch, runs.train, runs.stress, runs.status, runs.time, runs.record, runs.ceiling, runs.export),
    *(stores.doctor, crashes.crashtest),
    *(jobs.submit, jobs.cancel),
    gpus.gpu_check,
    *(pages.chapters, pages.book, pages.pdf),
):
    cli.add_command(_command)
