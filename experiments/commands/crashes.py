"""The verb that kills training programs and checks their runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from experiments.commands.options import relative


@click.command()
@click.option(
    "--kills", type=click.IntRange(min=1), default=100, show_default=True, help="Number of interruptions."
)
@click.option(
    "--store",
    help="A folder on the file system to test (default: the folder of temporary files). Small stores are "
    "made in it and removed; damaged ones stay.",
)
@click.option("--seed", default=0, show_default=True, help="Seed for choosing events and instants.")
@click.option("--record", is_flag=True, help="Write the table into experiments/results for the book.")
def crashtest(kills: int, store: str | None, seed: int, record: bool) -> None:
    """Kill programs that train, and count the damage.

    Programs are killed at every kind of file-system event, in the middle of a write and at random instants,
    alone or while another works on the same store. Some meet a full disk; some sleep beyond their lease and
    wake. The next program must leave the same bits as an undisturbed one; otherwise the exit status is 1, and
    the table counts what was lost, changed, stuck or left over. A kill takes about a second. Linux only.

    \b
    Examples:
      python -m experiments crashtest --kills 30
      python -m experiments crashtest --kills 300 --store /scratch/me
    """
    from experiments.crashtest.campaign import crashtest as run
    from experiments.crashtest.report import lines, write

    folder = None if store is None else Path(store).absolute()
    found = run(kills, store=folder, seed=seed)
    click.echo(found.table().to_string())
    for line in lines(found):
        click.echo(line)
    if record:
        click.echo(relative(write(found, folder=folder, seed=seed)))
    if found.damaged:
        sys.exit(1)
