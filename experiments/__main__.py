"""The command line: ``python -m experiments VERB``."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from experiments.studies.profiles import GROUPS, PROFILES, of_book, plain, resolve
from lpc.specs import VARIANTS

if TYPE_CHECKING:
    import pandas as pd

    from experiments.studies.ablation import Study

Command = TypeVar("Command", bound=Callable[..., Any])

profile_option = click.option(
    "--profile",
    "-P",
    default="laptop",
    show_default=True,
    help=f"How much is run: {', '.join(dict.fromkeys(map(plain, PROFILES)))}.",
)
profiles_option = click.option(
    "--profile",
    "-P",
    default="laptop",
    show_default=True,
    help=f"How much is run: {', '.join([*PROFILES, *GROUPS])} (all of that name).",
)
dataset_option = click.option("--dataset", help="The profile of this data set alone, as CIFAR10.")
seeds_option = click.option("--seeds", type=int, help="Number of seeds; default: the profile's own.")
study_option = click.option(
    "--study",
    "kind",
    type=click.Choice(["ablation", "bottlenecks"]),
    default="ablation",
    show_default=True,
    help="Runs of the LPC paper's tables, or of Kirsch et al.'s figures.",
)
only_option = click.option(
    "--only",
    help=f"Architectures, with commas, of: {', '.join(VARIANTS)} (embeddings and gammas have their own); "
    "of bottlenecks, what names begin with.",
)
store_option = click.option("--store", default="runs", show_default=True, help="Folder of the run store.")


def runs_options(command: Command) -> Command:
    """Give a verb the options that say which runs it is about."""
    options = (profiles_option, dataset_option, seeds_option, only_option, study_option, store_option)
    for option in reversed(options):  # as decorators, the last of a stack is applied first
        command = option(command)
    return command


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
@profiles_option
@dataset_option
@study_option
def fetch(profile: str, dataset: str | None, kind: str) -> None:
    """Download the data sets of a profile that are not there yet, and check them all.

    They lie in the folder data, or in the one that the environment variable LPC_DATA names. Training
    fetches what it needs as well: this is for machines whose compute nodes have no network.

    \b
    Examples:
      python -m experiments fetch --profile paper
      python -m experiments fetch --profile fashion
    """
    from experiments.studies import bottlenecks
    from lpc.datasets import load_raw

    if kind == "bottlenecks":
        _without_dataset(dataset)
        wanted = [spec.data.name for spec in bottlenecks.declared(profile)]
    else:
        wanted = [chosen.data.name for chosen in resolve(profile, dataset)]
    for name in dict.fromkeys(wanted):
        raw = load_raw(name)
        digest = hashlib.sha256()
        for part in (raw.train_images, raw.train_label, raw.test_images, raw.test_label):
            digest.update(part.astype("uint8").tobytes())
        click.echo(
            f"{name}: {len(raw.train_label):,} train and {len(raw.test_label):,} test images, "
            f"SHA-256 {digest.hexdigest()}"
        )


@cli.command()
@runs_options
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one a core, one on a GPU.")
def train(
    profile: str,
    dataset: str | None,
    seeds: int | None,
    only: str | None,
    kind: str,
    store: str,
    workers: int | None,
) -> None:
    """Train and measure the runs of a profile that are missing.

    The learning rate is selected on validation images; only the selected runs are measured on the test
    images. Ctrl-C stops after the epoch, and the same command goes on from there.

    \b
    Examples:
      python -m experiments train --profile laptop
      python -m experiments train --profile laptop --only IB,LinPen --seeds 1
      python -m experiments train --profile paper --dataset CIFAR10 --only IB
      python -m experiments train --profile paper-cifar10-embedding
      python -m experiments train --study bottlenecks --profile fashion --only permuted,norm
    """
    from experiments.studies import bottlenecks
    from experiments.studies.ablation import study

    if kind == "bottlenecks":
        _without_dataset(dataset)
        done = bottlenecks.study(profile, seeds=seeds, only=_names(only), store=store, workers=workers)
        _tell(profile, done.frame)
        return
    for chosen in resolve(profile, dataset):
        found = study(chosen.name, seeds=seeds, only=_names(only), store=store, workers=workers)
        _tell(chosen.name, found.runs, f", {len(found.selected)} selected and measured")


def _tell(profile: str, runs: pd.DataFrame, more: str = "") -> None:
    failed = runs[runs["status"] == "failed"]
    click.echo(f"{profile}: {len(runs)} runs{more}, {len(failed)} failed")
    for _, row in failed.iterrows():
        click.echo(
            f"  failed: {row['architecture']}, seed {row['seed']}, "
            f"learning rate {row['train.learning_rate']}: {row['reason']}"
        )


def _without_dataset(dataset: str | None) -> None:
    if dataset is not None:
        raise ValueError(
            f"--dataset is {dataset!r}; the bottleneck runs of a profile have no data set to choose"
        )


@cli.command()
@profiles_option
@dataset_option
@seeds_option
@only_option
@store_option
@click.option("--probes", help="Probes, with commas; default: all that are about such runs.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; default: one a core, one on a GPU.")
def stress(
    profile: str,
    dataset: str | None,
    seeds: int | None,
    only: str | None,
    store: str,
    probes: str | None,
    workers: int | None,
) -> None:
    """Probe the selected runs of a profile on the test images: attacks, certificates, corruptions.

    Nothing is trained. What a run was probed with is kept with it and not repeated; record writes it with
    the rest. Ctrl-C ends the runs under way, and the same command goes on from there.

    \b
    Examples:
      python -m experiments stress --profile laptop
      python -m experiments stress --profile fashion-cpu --only IB,NoPen --probes attacks
    """
    from experiments.studies.ablation import existing
    from experiments.studies.probing import applicable, measure_all

    for chosen in resolve(profile, dataset):
        found = existing(chosen.name, seeds=seeds, only=_names(only), store=store)
        if found.selected.empty:
            raise ValueError(f"no run of profile {chosen.name} is selected in {store}: train it first")
        names = applicable(chosen.name, _names(probes))
        measure_all(found, names=names, workers=workers)
        click.echo(f"{chosen.name}: {', '.join(names) or 'no probe'} of {len(found.selected)} selected runs")


@cli.command()
@runs_options
def status(
    profile: str, dataset: str | None, seeds: int | None, only: str | None, kind: str, store: str
) -> None:
    """Show which runs of a profile exist, are under way, failed or are missing, and the hours they take.

    \b
    Examples:
      python -m experiments status --profile laptop
      python -m experiments status --profile paper --dataset SVHN
    """
    from experiments.benchmarks.epoch_times import hours_left
    from experiments.cluster.jobs import in_queue
    from experiments.studies import bottlenecks
    from experiments.studies.ablation import existing, progress_of
    from experiments.studies.progress import counted, sentence

    if kind == "bottlenecks":
        _without_dataset(dataset)
        runs = bottlenecks.existing(profile, seeds=seeds, only=_names(only), store=store)
        table = counted(runs.specs, runs.frame, runs.store.holders())
        click.echo(f"{profile}: {runs.scale.summary}\n\n{table.to_string()}\n")
        click.echo(sentence(table))
    else:
        for number, chosen in enumerate(resolve(profile, dataset)):
            found = existing(chosen.name, seeds=seeds, only=_names(only), store=store)
            table = progress_of(found)
            total = table.sum()
            again = (
                f", {total['retrained']} of {total['to retrain']} trained again"
                if "retrained" in total
                else ""
            )
            click.echo("\n" * (number > 0) + f"{chosen.name}: {chosen.summary}\n\n{table.to_string()}\n")
            click.echo(sentence(table) + again)
            click.echo(hours_left(found.needed, found.store, profile=chosen.name))
    for line in in_queue(str(Path(store).absolute())):
        click.echo(line)


@cli.command()
@runs_options
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
    help="Profile file of the cluster; experiments/cluster.example.toml is one to copy.",
)
@click.option(
    "--beside",
    default="laptop",
    show_default=True,
    help="Profile of the pages whose runs are not among those that are submitted.",
)
@click.option(
    "--pages/--no-pages", default=True, show_default=True, help="Whether the last job makes the book."
)
@click.option("--workers", type=click.IntRange(min=1), help="With --cluster local: processes a program.")
@click.option("--dry-run", is_flag=True, help="Show to the letter what would be submitted.")
def submit(
    profile: str,
    dataset: str | None,
    seeds: int | None,
    only: str | None,
    kind: str,
    store: str,
    cluster: str,
    resources: str,
    beside: str,
    pages: bool,
    workers: int | None,
    dry_run: bool,
) -> None:
    """Train the missing runs of a profile on a cluster; then measure, export, build the book.

    One array of jobs a profile trains what is missing and is not in the queue already; another one trains the
    selected learning rates again where the profile asks for it; a last job makes tables and pages, or submits
    again what was lost. The command is safe to repeat.

    \b
    Examples:
      python -m experiments submit --profile paper --dry-run
      python -m experiments submit --profile paper --dataset CIFAR10 --only IB,NoPen
      python -m experiments submit --profile paper-embedding --dataset CIFAR10
      python -m experiments submit --profile fashion --cluster local
    """
    from experiments.cluster.submissions import Request

    local = cluster == "local"
    if kind == "bottlenecks":
        _without_dataset(dataset)
    for name, given, needed in (("--workers", workers is not None, local), ("--dry-run", dry_run, not local)):
        if given and not needed:
            raise ValueError(f"{name} is given with --cluster {cluster}, where it means nothing")
    request = Request(
        profile=profile,
        dataset=dataset,
        seeds=seeds,
        only=_names(only),
        study=kind,
        store=str(Path(store).absolute()),
        resources="" if local else str(Path(resources).absolute()),
        beside=beside,
        pages=pages,
    )
    if local:
        import torch

        from experiments.cluster import worker

        worker.local(request, workers=workers, gpus=torch.cuda.device_count())
        return
    from experiments.cluster.submit import send
    from experiments.cluster.worker import run

    sent = send(request, run, click.echo, dry_run=dry_run)
    if sent is not None:
        click.echo(f"logs: {_relative(sent.folder)}; watch: python -m experiments status --profile {profile}")


@cli.command()
@store_option
@click.argument("submissions", nargs=-1)
def cancel(store: str, submissions: tuple[str, ...]) -> None:
    """Take the jobs of submissions (default: all of the store) out of the queue; what was trained is kept.

    \b
    Examples:
      python -m experiments cancel
      python -m experiments cancel 20261122-101530-402731
    """
    from experiments.cluster.jobs import take_back

    for line in take_back(str(Path(store).absolute()), submissions):
        click.echo(line)


@cli.command()
@profiles_option
@dataset_option
@only_option
def time(profile: str, dataset: str | None, only: str | None) -> None:
    """Measure how long an epoch of a profile takes on this machine, for the hours that status shows.

    The images are random: no data set is needed.

    \b
    Example:
      python -m experiments time --profile paper --dataset CIFAR100
    """
    from experiments.benchmarks.epoch_times import measure
    from experiments.studies.ablation import declared

    for chosen in resolve(profile, dataset):
        rows = measure(declared(chosen.name, only=_names(only)))
        for _, row in rows.iterrows():
            click.echo(
                f"{chosen.name}: {row['seconds']:.3g} s an epoch of {row['backbone']} on {row['device']}"
            )


@cli.command()
@runs_options
def record(
    profile: str, dataset: str | None, seeds: int | None, only: str | None, kind: str, store: str
) -> None:
    """Write what is finished of a profile into experiments/results, where the book reads it.

    \b
    Example:
      python -m experiments record --profile fashion
    """
    from experiments.studies.recorded import record as write
    from experiments.studies.recorded import record_bottlenecks

    if kind == "bottlenecks":
        _without_dataset(dataset)
        click.echo(_relative(record_bottlenecks(profile, store=store, seeds=seeds, only=_names(only))))
        return
    for chosen in resolve(profile, dataset):
        click.echo(_relative(write(chosen.name, store=store, seeds=seeds, only=_names(only))))


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
    from experiments.publishing.chapter_sources import parse
    from experiments.publishing.execution import execute

    for path in execute(names or None, {key: parse(value) for key, value in parameters}, force=force):
        click.echo(_relative(path))


@cli.command()
@profile_option
@seeds_option
@store_option
@click.option("--force", is_flag=True, help="Execute chapters whose output is current too.")
def book(profile: str, seeds: int | None, store: str, force: bool) -> None:
    """Train, execute every chapter and build the pages; prints the first page.

    Chapters about embeddings and about gamma read profiles that stand beside this one (laptop-embedding,
    laptop-gammas): where this one is trained with the book, so are they.

    \b
    Examples:
      python -m experiments book
      python -m experiments book --profile smoke
    """
    from experiments.paths import ROOT
    from experiments.publishing.plan import make
    from experiments.studies import ablation, bottlenecks
    from experiments.studies.bottleneck_profiles import SCALES

    if profile in PROFILES:
        of_book(profile)
    ablation.study(profile, seeds=seeds, store=ROOT / store)
    if profile in SCALES:
        bottlenecks.study(profile, seeds=seeds, store=ROOT / store)
    click.echo(_relative(make(profile, seeds=seeds, store=store, force=force)))


@cli.command()
@profile_option
@seeds_option
@store_option
def pdf(profile: str, seeds: int | None, store: str) -> None:
    """Print the executed chapters as one PDF, build/latent-point-collapse.pdf; needs a Chromium or Chrome.

    Nothing is trained or executed: `book` does that. The reference of the library's functions and folded
    code are left out. The environment variable LPC_CHROMIUM names the program where it is not found.

    \b
    Examples:
      python -m experiments pdf
    """
    from experiments.publishing.pdf import write
    from experiments.publishing.plan import substitutions

    click.echo(_relative(write(substitutions(profile, seeds=seeds, store=store))))


@cli.command()
@runs_options
@click.option(
    "--format", "file_format", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True
)
@click.option("--output", type=click.Path(dir_okay=False), required=True, help="File to write.")
@click.option("--epochs", is_flag=True, help="One row per selected run and epoch instead of one row per run.")
@click.option(
    "--selected",
    is_flag=True,
    help="One row per architecture and seed: the run with the selected learning rate, measured on test.",
)
def export(
    profile: str,
    dataset: str | None,
    seeds: int | None,
    only: str | None,
    kind: str,
    store: str,
    file_format: str,
    output: str,
    epochs: bool,
    selected: bool,
) -> None:
    """Write the runs of a profile as one tidy table: spec, metrics, test metrics.

    Nothing is trained: runs that do not exist have no row, values that are missing are empty. Runs that
    train a selected rate again on the full train set have no validation images (data.validation is 0); the
    accuracy that their rate was selected by is selected_validation_accuracy.

    \b
    Examples:
      python -m experiments export --profile laptop --format csv --output results.csv
      python -m experiments export --profile paper --selected --output best_results.csv
      python -m experiments export --profile paper-cifar10-embedding --selected --output best_cifar10.csv
    """
    from experiments.studies import bottlenecks
    from experiments.studies.ablation import existing
    from experiments.studies.export import best_results, every_run, open_ends, write

    path = Path(output)
    if not path.parent.is_dir():
        raise ValueError(f"--output is {output!r}, but {path.parent} is not a folder; make it first")
    found: list[Study] = []
    if kind == "bottlenecks":
        _without_dataset(dataset)
        if selected:
            raise ValueError("--selected is given; the bottleneck runs have no learning rate to select")
        there = bottlenecks.existing(profile, seeds=seeds, only=_names(only), store=store)
        tables = [there.history if epochs else there.frame]
    else:
        found = [
            existing(chosen.name, seeds=seeds, only=_names(only), store=store)
            for chosen in resolve(profile, dataset)
        ]
        rows = best_results if selected else every_run
        tables = [one.history if epochs else rows(one) for one in found]
    if all(table.empty for table in tables):
        raise ValueError(f"no {'selected ' * selected}run of profile {profile} in {store}: train it first")
    table = write(tables, path, file_format=file_format)
    click.echo(f"{len(table)} rows, {len(table.columns)} columns: {output}")
    if selected:
        for line in open_ends(found):
            click.echo(line)


def _relative(path: Path) -> str:
    return os.path.relpath(path)


def _known_errors() -> tuple[type[BaseException], ...]:
    from experiments.cluster.slurm import SchedulerError
    from experiments.publishing.build import BuildError
    from experiments.publishing.checks import CheckError
    from experiments.publishing.execution import ChapterError

    return (ValueError, BuildError, ChapterError, CheckError, SchedulerError)


def _stopped(error: Exception) -> bool:
    """Whether training was asked to stop and has written where it stands."""
    from lpc.stopping import Stopped

    return isinstance(error, Stopped)


def _explain(error: OSError) -> str:
    reasons = {
        errno.ENOSPC: "the disk is full; what was finished is kept, free some space and call again",
        errno.EACCES: "no permission to write there",
        errno.EROFS: "the file system is read-only",
    }
    reason = reasons.get(error.errno or 0)
    return f"{error}: {reason}" if reason else str(error)


def main(arguments: Iterable[str] | None = None) -> Any:
    """Run the command line; errors that a user can cause are one message and exit status 1.

    Training that was asked to stop says where it stands; its exit status is 130.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return cli.main(given, prog_name="python -m experiments")
    except Exception as error:
        if _stopped(error):
            click.echo(str(error), err=True)
            sys.exit(130)
        known = isinstance(error, (*_known_errors(), OSError))
        if "--debug" in given or not known:
            raise
        click.echo(f"error: {_explain(error) if isinstance(error, OSError) else error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
