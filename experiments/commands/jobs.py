"""Verbs about a cluster: submit missing runs, cancel submissions."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from experiments.commands.options import relative, selecting, store_option
from experiments.studies.selection import Selection
from lpc.errors import on_one_line


@click.command()
@selecting()
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "local"]),
    default="slurm",
    show_default=True,
    help="A SLURM cluster, or this machine.",
)
@click.option(
    "--resources",
    default="cluster.toml",
    show_default=True,
    help="Profile file with the jobs' resources; copy experiments/cluster.example.toml.",
)
@click.option(
    "--beside",
    default="laptop",
    show_default=True,
    help="Profile of the pages whose runs are not submitted.",
)
@click.option(
    "--pages/--no-pages", default=True, show_default=True, help="Whether the last job builds the book."
)
@click.option("--workers", type=click.IntRange(min=1), help="With --cluster local: processes per program.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show exactly what would be submitted, and the hours and disk space it needs.",
)
def submit(
    selection: Selection,
    cluster: str,
    resources: str,
    beside: str,
    pages: bool,
    workers: int | None,
    dry_run: bool,
) -> None:
    """Train a profile's missing runs on a cluster.

    For each profile, one job array trains the runs that are neither finished nor queued; where the profile
    asks for it, another retrains the selected learning rates. A last job resubmits lost runs or, if there
    are none, makes the tables and the book. The command is safe to repeat.

    \b
    Examples:
      python -m experiments submit --profile paper --dry-run
      python -m experiments submit --profile paper --dataset CIFAR10 --only IB,NoPen
      python -m experiments submit --profile paper-embedding --dataset CIFAR10
      python -m experiments submit --profile fashion --cluster local
    """
    from experiments.cluster.submissions import Request

    local = cluster == "local"
    selection.profiles()  # raises an error for an unknown data set
    if workers is not None and not local:
        raise ValueError(f"--workers is for --cluster local; it has no meaning with --cluster {cluster}")
    request = Request.of(
        selection,
        resources="" if local else str(on_one_line(resources, "--resources").absolute()),
        beside=beside,
        pages=pages,
    )
    if local:
        import torch

        from experiments.cluster import worker
        from experiments.cluster.demand import of_request

        if dry_run:
            click.echo(of_request(request))
            return
        worker.local(request, workers=workers, gpus=torch.cuda.device_count())
        return
    from experiments.cluster.submit import send
    from experiments.cluster.worker import run

    sent = send(request, run, click.echo, dry_run=dry_run)
    if sent is not None:
        watch = shlex.join(["python", "-m", "experiments", "status", *selection.options()])
        click.echo(f"logs: {relative(sent.folder)}; watch: {watch}")


@click.command()
@store_option
@click.argument("submissions", nargs=-1)
def cancel(store: str, submissions: tuple[str, ...]) -> None:
    """Cancel submissions (default: all those of the store).

    Trained runs are kept.

    \b
    Examples:
      python -m experiments cancel
      python -m experiments cancel 20261122-101530-402731
    """
    from experiments.cluster.jobs import take_back

    for line in take_back(str(Path(store).absolute()), submissions):
        click.echo(line)
