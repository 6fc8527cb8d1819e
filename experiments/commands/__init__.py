"""The verbs of the command line."""

from __future__ import annotations

import click

from experiments.commands import jobs, pages, runs


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train what the book needs, execute its chapters, build its pages.

    Everything is safe to repeat: finished runs, current chapters and good pages are kept, and what was
    interrupted goes on where it stopped.
    """
    del debug  # read in main


for _command in (
    *(runs.fetch, runs.train, runs.stress, runs.status, runs.time, runs.record, runs.export),
    *(jobs.submit, jobs.cancel),
    *(pages.chapters, pages.book, pages.pdf),
):
    cli.add_command(_command)
