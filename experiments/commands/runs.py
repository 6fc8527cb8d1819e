"""Verbs about runs: fetch their data, train, probe, time, count, record and export them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from experiments.commands.options import names, relative, selecting, workers_option
from experiments.studies.selection import Selection
from lpc.errors import on_one_line

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@selecting("profile", "dataset", "study")
def fetch(selection: Selection) -> None:
    """Download a profile's data sets and check them.

    They are kept in the folder data, or in the one that the environment variable LPC_DATA names. Training
    also downloads missing data; use this verb where compute nodes have no network.

    \b
    Examples:
      python -m experiments fetch --profile paper
      python -m experiments fetch --profile fashion
    """
    from lpc.datasets import load_raw

    for name in selection.data_names():
        raw = load_raw(name)
        digest = hashlib.sha256()
        for part in (raw.train_images, raw.train_label, raw.test_images, raw.test_label):
            digest.update(part.astype("uint8").tobytes())
        click.echo(
            f"{name}: {len(raw.train_label):,} train and {len(raw.test_label):,} test images, "
            f"SHA-256 {digest.hexdigest()}"
        )


@click.command()
@selecting()
@workers_option
def train(selection: Selection, workers: int | None) -> None:
    """Train and measure a profile's missing runs.

    Learning rates are selected on validation images; only the selected runs are measured on test images.
    Ctrl-C stops after the current epoch; the same command resumes from there.

    \b
    Examples:
      python -m experiments train --profile laptop
      python -m experiments train --profile laptop --only IB,LinPen --seeds 1
      python -m experiments train --profile paper --dataset CIFAR10 --only IB
      python -m experiments train --profile paper-cifar10-embedding
      python -m experiments train --study bottlenecks --profile fashion --only permuted,norm
    """
    for study in selection.studies():
        found = study.trained(workers=workers)
        measured = f", {len(found.tested)} selected and measured" if found.kind.selects else ""
        _tell(found.profile.name, found.runs, measured)


def _tell(profile: str, runs: pd.DataFrame, more: str) -> None:
    failed = runs[runs["status"] == "failed"]
    click.echo(f"{profile}: {len(runs)} runs{more}, {len(failed)} failed")
    for _, row in failed.iterrows():
        click.echo(
            f"  failed: {row['architecture']}, seed {row['seed']}, "
            f"learning rate {row['train.learning_rate']}: {row['reason']}"
        )


@click.command()
@selecting("profile", "dataset", "seeds", "only", "store")
@click.option("--probes", help="Probes, separated by commas (default: all that apply to these runs).")
@workers_option
def stress(selection: Selection, probes: str | None, workers: int | None) -> None:
    """Attack, certify and corrupt a profile's selected runs.

    Nothing is trained. By default, attacks cover the four architectures that the book shows; --probes
    attacks,attack_checks covers all architectures and seeds. Results are kept with each run, measured only
    once, and recorded by the verb record. Ctrl-C stops; the same command resumes.

    \b
    Examples:
      python -m experiments stress --profile laptop
      python -m experiments stress --profile fashion-cpu --only IB,NoPen --probes attacks
    """
    from experiments.studies.probing import applicable, measure_all
    from experiments.studies.study import titles

    for found in selection.studies():
        profile = found.profile.name
        if found.selected.empty:
            store = relative(Path(selection.store))
            raise ValueError(f"no run of profile {profile} is selected in {store}: train it first")
        named = names(probes, "--probes")
        wanted = applicable(profile, named)
        measure_all(found, names=wanted, usual=named is None, workers=workers)
        click.echo(f"{profile}: {', '.join(wanted) or 'no probe'} for {len(found.selected)} selected runs")
        if missing := found.missing:
            click.echo(f"not ended: {titles(missing)}")


@click.command()
@selecting()
def status(selection: Selection) -> None:
    """Count finished, running, failed and missing runs.

    Missing runs are named. The hours left are estimated from the epoch times that the verb time measured.

    \b
    Examples:
      python -m experiments status --profile laptop
      python -m experiments status --profile paper --dataset SVHN
    """
    from experiments.benchmarks.epoch_times import Model, hours_left, missing_times
    from experiments.cluster.jobs import in_queue
    from experiments.studies.progress import of_study, sentence
    from experiments.studies.study import titles

    untimed: list[Model] = []
    for number, found in enumerate(selection.studies()):
        table, profile = of_study(found), found.profile
        click.echo("\n" * (number > 0) + f"{profile.name}: {profile.summary}\n\n{table.to_string()}\n")
        click.echo(sentence(table))
        if (missing := found.missing) and table["finished"].sum():
            click.echo(f"not ended: {titles(missing)}")
        if not found.kind.selects:  # epochs of bottleneck runs, which measure information, are not timed
            continue
        if hours := hours_left(found.needed, found.store, untimed=untimed):
            click.echo(hours)
    if untimed:
        click.echo(missing_times(untimed, selection.profile))
    for line in in_queue(str(Path(selection.store).absolute())):
        click.echo(line)


@click.command()
@selecting("profile", "dataset", "only")
def time(selection: Selection) -> None:
    """Measure how long an epoch takes on this machine.

    The verb status estimates hours from these times. The images are random: no data set is needed.

    \b
    Example:
      python -m experiments time --profile paper --dataset CIFAR100
    """
    from experiments.benchmarks.epoch_times import measure

    for profile, specs in selection.declared().items():
        for _, row in measure(specs).iterrows():
            click.echo(f"{profile}: {row['seconds']:.3g} s per epoch of {row['backbone']} on {row['device']}")


_partial = click.option(
    "--partial",
    is_flag=True,
    help="Accept missing runs, and name them.",
)


@click.command()
@selecting()
@_partial
def record(selection: Selection, partial: bool) -> None:
    """Write finished runs into experiments/results for the book.

    Without --partial, missing runs are an error that names them.

    \b
    Example:
      python -m experiments record --profile fashion
    """
    from experiments.studies.export import open_ends
    from experiments.studies.recorded import record as write

    for study in selection.studies():
        click.echo(relative(write(study, partial=partial)))
        for line in open_ends([study]) if study.kind.selects else ():
            click.echo(line)


@click.command()
@click.argument("dataset")
def ceiling(dataset: str) -> None:
    """Bound how robust any network on a data set can be.

    No network that classifies both correctly is robust beyond the distance from a test image to the nearest
    training image of another class. These distances are recorded; nothing is trained, and missing files are
    downloaded.

    \b
    Examples:
      python -m experiments ceiling fashion_mnist
      python -m experiments ceiling cifar10
    """
    from experiments.paths import CEILINGS
    from experiments.studies.ceilings import measure

    row = measure(dataset.lower().replace("-", "_"))
    click.echo(
        f"{row['data']}: {row['single']:.3f} of the image's norm for one image, {row['both']:.3f} for the "
        f"mean over both ends, mean over {row['images']:,} test images: {relative(CEILINGS)}"
    )


@click.command()
@selecting()
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["csv", "parquet"]),
    help="Format (default: by the file's name).",
)
@click.option("--output", type=click.Path(dir_okay=False), required=True, help="The file to write.")
@click.option("--epochs", is_flag=True, help="One row per selected run and epoch.")
@click.option(
    "--selected",
    is_flag=True,
    help="One row per architecture and seed: the selected run, measured on test images.",
)
@_partial
def export(
    selection: Selection, file_format: str | None, output: str, epochs: bool, selected: bool, partial: bool
) -> None:
    """Write a profile's runs as one table.

    Each row has spec, metrics and test metrics; missing values are empty. Nothing is trained. Missing runs
    are an error that names them; with --partial, their rows are left out or have no results. Runs retrained
    on the full train set have no validation images (data.validation is 0); selected_validation_accuracy is
    the accuracy by which their learning rate was selected.

    \b
    Examples:
      python -m experiments export --profile laptop --output results.csv
      python -m experiments export --profile paper --selected --output best_results.csv
      python -m experiments export --profile paper-cifar10-embedding --selected --output best_cifar10.csv
    """
    from experiments.studies.export import best_results, every_run, format_of, open_ends, write

    path = on_one_line(output, "--output")
    file_format = format_of(path, file_format)
    if not path.parent.is_dir():
        raise ValueError(f"--output is {output!r}, but {path.parent} is not a folder; make it first")
    found = selection.studies()
    if selected and not selection.kind.selects:
        raise ValueError("--selected is given, but the bottleneck runs have no learning rate to select")
    rows = best_results if selected else every_run
    tables = [one.history if epochs else rows(one) for one in found]
    if all(table.empty for table in tables):
        what, store = f"{'selected ' * selected}run of profile {selection.profile}", Path(selection.store)
        raise ValueError(f"no {what} in {relative(store)}: train it first")
    for one in () if partial else found:
        one.check_ended()
    table = write(tables, path, file_format=file_format)
    click.echo(f"{len(table)} rows, {len(table.columns)} columns: {output}")
    if selection.kind.selects:
        for line in open_ends(found):
            click.echo(line)
