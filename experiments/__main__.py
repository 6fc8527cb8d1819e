"""The command line: ``python -m experiments VERB``."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from experiments.profiles import PROFILES
from lpc.specs import VARIANTS

profile_option = click.option(
    "--profile", "-P", default="laptop", show_default=True, help=f"How much is run: {', '.join(PROFILES)}."
)
seeds_option = click.option("--seeds", type=int, help="Number of seeds; default: the profile's own.")
only_option = click.option("--only", help=f"Architectures, with commas, of: {', '.join(VARIANTS)}.")
store_option = click.option("--store", default="runs", show_default=True, help="Folder of the run store.")


def _names(only: str | None) -> tuple[str, ...] | None:
    return None if only is None else tuple(name.strip() for name in only.split(",") if name.strip())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train what the book needs, execute its chapters, build its pages.

    Everything is safe to repeat: finished runs, current chapters and good pages are kept, and what was
    interrupted goes on where it stopped.
    """
    del debug  # read in main


@cli.command()
@profile_option
@seeds_option
@only_option
@store_option
def train(profile: str, seeds: int | None, only: str | None, store: str) -> None:
    """Train and measure the runs of a profile that are missing.

    The learning rate is selected on validation images; only the selected runs are measured on the test
    images.

    \b
    Examples:
      python -m experiments train --profile laptop
      python -m experiments train --profile laptop --only IB,LinPen --seeds 1
    """
    from experiments.ablation import study

    found = study(profile, seeds=seeds, only=_names(only), store=store)
    failed = found.frame[found.frame["status"] == "failed"]
    click.echo(f"{len(found.frame)} runs, {len(found.selected)} selected and measured, {len(failed)} failed")
    for _, row in failed.iterrows():
        click.echo(
            f"  failed: {row['architecture']}, seed {row['seed']}, "
            f"learning rate {row['train.learning_rate']}: {row['reason']}"
        )


@cli.command()
@profile_option
@seeds_option
@only_option
@store_option
def status(profile: str, seeds: int | None, only: str | None, store: str) -> None:
    """Show which runs of a profile exist, are under way, failed or are missing.

    \b
    Example:
      python -m experiments status --profile laptop
    """
    from experiments.ablation import progress_of

    table = progress_of(profile, seeds=seeds, only=_names(only), store=store)
    click.echo(table.to_string())
    total = table.sum()
    click.echo(
        f"\n{total['finished']} of {total['declared']} runs finished, {total['failed']} failed, "
        f"{total['training']} under way, {total['missing']} missing"
    )


@cli.command()
@click.argument("names", nargs=-1)
@click.option(
    "-p",
    "parameters",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="A parameter of the chapters; may be repeated.",
)
@click.option("--force", is_flag=True, help="Execute chapters whose output is current too.")
def chapters(names: tuple[str, ...], parameters: tuple[tuple[str, str], ...], force: bool) -> None:
    """Execute chapters (default: all) into build/notebooks.

    Runs that a chapter needs and that do not exist are trained. A chapter whose text, code, parameters
    and runs have not changed is not executed again.

    \b
    Examples:
      python -m experiments chapters
      python -m experiments chapters collapse -p profile smoke -p seeds 2
    """
    from experiments.chapters import execute, parse

    for path in execute(names or None, {key: parse(value) for key, value in parameters}, force=force):
        click.echo(_relative(path))


@cli.command()
@profile_option
@seeds_option
@store_option
@click.option("--force", is_flag=True, help="Execute chapters whose output is current too.")
def book(profile: str, seeds: int | None, store: str, force: bool) -> None:
    """Train, execute every chapter and build the pages; prints the first page.

    \b
    Examples:
      python -m experiments book
      python -m experiments book --profile smoke
    """
    from experiments import ablation, claims
    from experiments.book import build
    from experiments.chapters import execute

    found = ablation.study(profile, seeds=seeds, store=store)
    inserted = claims.substitutions(found)
    execute(values={"profile": profile, "seeds": seeds, "store": store}, force=force)
    click.echo("building the pages", err=True)
    click.echo(_relative(build(inserted)))


@cli.command()
@profile_option
@seeds_option
@only_option
@store_option
@click.option("--format", "kind", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False), required=True, help="File to write.")
@click.option("--epochs", is_flag=True, help="A row a selected run and epoch instead of a row a run.")
def export(
    profile: str, seeds: int | None, only: str | None, store: str, kind: str, output: str, epochs: bool
) -> None:
    """Write the runs of a profile as one tidy table: spec, metrics, test metrics.

    Nothing is trained: runs that do not exist have no row, values that are missing are empty.

    \b
    Example:
      python -m experiments export --profile laptop --format csv --output results.csv
    """
    from experiments.ablation import existing

    found = existing(profile, seeds=seeds, only=_names(only), store=store)
    table = found.history if epochs else found.frame
    if table.empty:
        raise ValueError(f"no run of profile {profile} in {store}: train it first")
    table = table.drop(columns="missing", errors="ignore")
    if kind == "csv":
        table.to_csv(output, index=False)
    else:
        table.to_parquet(output, index=False)
    click.echo(f"{len(table)} rows, {len(table.columns)} columns: {output}")


def _relative(path: Path) -> str:
    return os.path.relpath(path)


def _known_errors() -> tuple[type[BaseException], ...]:
    from experiments.book import BuildError
    from experiments.chapters import ChapterError

    return (ValueError, BuildError, ChapterError)


def _explain(error: OSError) -> str:
    reasons = {
        errno.ENOSPC: "the disk is full; what was finished is kept, free some space and call again",
        errno.EACCES: "no permission to write there",
        errno.EROFS: "the file system is read-only",
    }
    reason = reasons.get(error.errno or 0)
    return f"{error}: {reason}" if reason else str(error)


def main(arguments: Iterable[str] | None = None) -> Any:
    """Run the command line; errors that a user can cause are one message and exit status 1."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return cli.main(given, prog_name="python -m experiments")
    except Exception as error:
        known = isinstance(error, (*_known_errors(), OSError))
        if "--debug" in given or not known:
            raise
        click.echo(f"error: {_explain(error) if isinstance(error, OSError) else error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
