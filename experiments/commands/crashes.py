"""The verb that interrupts programs which train, and looks what became of their runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from experiments.commands.options import relative


@click.command()
@click.option(
    "--kills", type=click.IntRange(min=1), default=100, show_default=True, help="How many interruptions."
)
@click.option(
    "--store",
    help="A folder on the file system to be tested; default: where temporary files lie. Stores of a few tiny "
    "runs are made in it and removed, except those with damage.",
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of events and instants.")
@click.option(
    "--record", is_flag=True, help="Write the table into experiments/results, where the book reads it."
)
def crashtest(kills: int, store: str | None, seed: int, record: bool) -> None:
    """Interrupt programs that train, let others go on, and count what was lost, changed, stuck or left over.

    Programs are killed at every kind of event of the file system, in the middle of writing too, and at random
    instants; alone and with another one on the same store. Some find a full disk, some sleep beyond their
    lease and wake. What comes of it must be, to the bit, what an undisturbed program leaves. The exit status
    is 1 where it is not. A kill takes about a second; needs Linux.

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
