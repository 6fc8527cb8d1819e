"""The verb that checks a GPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from experiments.commands.options import relative, store_option


@click.command("gpu-check")
@store_option
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="Total time; sections that do not fit are named.",
)
@click.option("--fresh", is_flag=True, help="Start over; earlier records are kept.")
@click.option("--dry-run", is_flag=True, help="Show the sections and their expected times.")
@click.option("--bring", is_flag=True, help="List the wheels and data for a machine without a network.")
def gpu_check(store: str, minutes: float, fresh: bool, dry_run: bool, bring: bool) -> None:
    """Check a GPU's results and speed, then train on it.

    It also says which faster settings pay off on it. Each section is written to experiments/results/gpu as
    it ends. The command is safe to repeat: it resumes with missing or failed sections, then trains the runs
    of profile fashion.

    \b
    Examples:
      python -m experiments gpu-check --dry-run
      python -m experiments gpu-check
      python -m experiments gpu-check --bring
    """
    from experiments.gpu_check import bring as luggage
    from experiments.gpu_check import results, running
    from experiments.gpu_check.amounts import FULL
    from experiments.gpu_check.sections import PLAN
    from lpc.computing.devices import default_device

    if bring:
        click.echo(luggage.listing(FULL.trained))
        return
    if dry_run:
        click.echo(running.plan(minutes))
        return
    default_device("cuda")
    record = results.begin(PLAN, fresh=fresh)
    click.echo(results.about(record))
    running.check(record, minutes=minutes, told=click.echo, amount=replace(FULL, store=Path(store)))
    click.echo(results.worth_taking(record))
    click.echo(f"{relative(record.path)}, {relative(record.path.with_suffix('.md'))}")
    if left := record.open():
        click.echo(f"not done: {', '.join(left)}; run the command again to continue", err=True)
        sys.exit(1)
