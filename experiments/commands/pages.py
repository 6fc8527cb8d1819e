"""Verbs about pages: execute chapters, make the book, print it."""

from __future__ import annotations

import click

from experiments.commands.options import profile_option, relative, seeds_option, store_option
from experiments.studies.profiles import LIVE, PROFILES, of_book
from experiments.studies.profiles import profile as named


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "-p",
    "parameters",
    type=(str, str),
    multiple=True,
    metavar="NAME VALUE",
    help="A parameter of the chapters; may be repeated.",
)
@click.option("--force", is_flag=True, help="Execute current chapters, too.")
def chapters(names: tuple[str, ...], parameters: tuple[tuple[str, str], ...], force: bool) -> None:
    """Execute chapters (default: all) into build/notebooks.

    Missing runs are trained first. Chapters whose text, code, parameters and runs have not changed are
    skipped.

    \b
    Examples:
      python -m experiments chapters
      python -m experiments chapters collapse -p profile smoke -p seeds 2
    """
    from experiments.publishing.places import PLACES

    PLACES.check_names(names)  # before papermill and torch are imported

    from experiments.publishing.executing.chapter_sources import parse
    from experiments.publishing.executing.execution import execute

    values = {key: parse(value) for key, value in parameters}

    for path in execute(names or None, values, force=force):
        click.echo(relative(path))


@click.command()
@profile_option
@seeds_option
@store_option
@click.option("--force", is_flag=True, help="Execute current chapters, too.")
def book(profile: str, seeds: int | None, store: str, force: bool) -> None:
    """Train, execute every chapter and build the book.

    The address of the first page is printed. The profiles of the chapters on embeddings and gamma, such as
    laptop-embedding and laptop-gammas, are trained with it.

    \b
    Examples:
      python -m experiments book
      python -m experiments book --profile smoke
    """
    from experiments.paths import ROOT

    named(profile)  # before anything imports torch

    from experiments.publishing.unchanged import BESIDE, Book

    own = Book(profile, BESIDE, seeds, store)
    if not force and own.is_unchanged():
        click.echo("nothing that this book depends on has changed: its pages are kept", err=True)
        click.echo(relative(own.first_page))
        return

    from experiments.publishing.plan import make
    from experiments.studies.selection import KINDS, kind_of

    if profile in PROFILES:
        of_book(profile)
    for kind in map(kind_of, KINDS):  # if the profile is trained with its book, show pages meanwhile
        if profile in kind.profiles and profile not in LIVE:
            kind.study(profile, seeds=seeds, store=ROOT / store)
    click.echo(relative(make(profile, seeds=seeds, store=store, force=force)))


@click.command()
@profile_option
@seeds_option
@store_option
def pdf(profile: str, seeds: int | None, store: str) -> None:
    """Print the executed chapters as one PDF.

    The file is build/latent-point-collapse.pdf, without the function reference and folded code. Nothing is
    trained or executed: the verb book does that. Needs Chromium or Chrome; if it is not found, the
    environment variable LPC_CHROMIUM can name the program.

    \b
    Examples:
      python -m experiments pdf
    """
    from experiments.publishing.pdf import write
    from experiments.publishing.plan import substitutions

    click.echo(relative(write(substitutions(profile, seeds=seeds, store=store))))
