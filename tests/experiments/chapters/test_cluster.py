"""The chapter on clusters: its tables, its command lines and its two worked changes to the code."""

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields

import click
import numpy as np
import pytest
from support import warm

from experiments.__main__ import cli
from experiments.chapters.cluster import cost, tables, transcript
from experiments.cluster import resources
from experiments.cluster.resources import Resources
from experiments.paths import CLUSTER_EXAMPLE, ROOT, TRANSCRIPT
from experiments.publishing.checking.prose import CODE_WIDTH
from lpc.datasets import load_raw
from lpc.runs.packing import COHORT_SIZE
from lpc.store import holders

CHAPTER = ROOT.joinpath("book", "cluster.md").read_text()
TYPED = re.findall(r"^(?:\.venv/bin/)?(python -m experiments .*)$", CHAPTER, flags=re.MULTILINE)
IN_TEXT = re.findall(r"`(python -m experiments [^`]+)`", CHAPTER)


def parsed(line: str) -> click.Context:
    """Parse a command line as the program would, without running it."""
    verb, *arguments = shlex.split(line.partition(" -m experiments ")[2])
    return cli.commands[verb].make_context(verb, arguments)


@pytest.mark.parametrize("line", sorted({*TYPED, *IN_TEXT, *transcript.commands()}))
def test_every_command_line_parses(line):
    if " -m experiments " in line:
        assert parsed(line).params
    else:
        assert shlex.split(line)[0] in ("cat", "cut", "grep", "scancel")


def test_command_lines_are_found_and_a_wrong_one_does_not_parse():
    assert len(TYPED) >= 10 and len(IN_TEXT) >= 8 and len(transcript.commands()) >= 10
    for wrong in ("submit --profil paper", "status --dry-run", "export"):
        with pytest.raises(click.UsageError):
            parsed(f"python -m experiments {wrong}")
    with pytest.raises(KeyError):
        parsed("python -m experiments submitt")


def test_every_option_in_the_text_is_one_of_a_verb():
    ours = {name for verb in cli.commands.values() for option in verb.params for name in option.opts}
    theirs = {"--config", "--hours", "--n-gpus", "--id-name", "--dataset-dir", "--results-dir"}
    others = {"--output-dir", "--gres", "--slurm-status-command"}
    assert set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]*)", CHAPTER)) - ours <= theirs | others


def test_every_title_that_the_chapter_asks_for_is_in_the_transcript():
    asked = re.findall(r'transcript\.part\(\s*"(.*?)"\s*\)', CHAPTER)
    assert list(transcript.parts()) and sorted(asked) == sorted(transcript.parts())


def test_the_transcript_shows_what_the_chapter_says():
    assert re.fullmatch(r"Recorded 20\d\d-\d\d-\d\d at commit [0-9a-f]{12} by .*", transcript.recorded())
    text = TRANSCRIPT.read_text()
    assert not re.search(r"(?<![\w.])/(tmp|work|home|root|usr)/", text), "paths are the project's"
    stopped = transcript.part("What a time limit or a pre-emption does: a signal")
    assert "3 interrupted" in stopped and "pending (BeginTime)" in stopped
    after = transcript.part("Afterwards: the log of the task that was stopped, the report, the tables")
    assert "SIGUSR1: stopping after this epoch" in after and "all 6 runs have ended" in after
    assert "has 6 runs of laptop in the queue already" in text


def test_a_transcript_that_is_not_there_or_has_no_such_part_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.txt does not exist; .* records it"):
        transcript.parts(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match=r"unknown part of transcript\.txt: 'Submitt'. Did you mean Submit"):
        transcript.part("Submitt")
    empty = tmp_path / "empty.txt"
    empty.write_text("# Recorded\n")
    with pytest.raises(ValueError, match="has no part"):
        transcript.parts(empty)


def test_lines_of_the_transcript_fit_the_page_and_can_still_be_typed():
    recorded, shown = transcript.parts(), {title: transcript.part(title) for title in transcript.parts()}
    assert any(len(line) > CODE_WIDTH for text in recorded.values() for line in text.splitlines())
    for title, text in shown.items():
        wide = [line for line in text.splitlines() if len(line) > CODE_WIDTH]
        assert all(" " not in line.strip() for line in wide), f"can be broken: {wide}"
        assert text.replace(" \\\n", " ").split() == recorded[title].split()
    typed = [
        line for text in shown.values() for line in re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    ]
    assert [" ".join(shlex.split(line.replace("\\\n", ""))) for line in typed] == [
        " ".join(shlex.split(line)) for line in transcript.commands()
    ]


def test_keys_are_those_of_the_file_with_their_defaults():
    table = tables.keys()
    assert list(table.index) == [one.name for one in fields(Resources)]
    assert table.T["tasks_at_once"].tolist()[:2] == [str(Resources(time=1).tasks_at_once), "64"]
    assert table["default"]["time"] == "required" and table["default"]["partition"] == "the cluster's"
    assert table["default"]["warning"] == f"{Resources(time=1).warning} s"
    assert (table["what"].str.len() > 5).all()


def test_examples_of_keys_are_taken_by_the_file(tmp_path):
    written = tables.keys()["as in"].drop("options")
    path = tmp_path / "cluster.toml"
    path.write_text("[all]\n" + "".join(f"{key} = {text}\n" for key, text in written.items()))
    assert resources.read(path).of("smoke").time == 12 * 60


def test_jobs_of_the_paper():
    table = tables.jobs("paper")
    assert len(table) == 7 and table["runs"].tolist() == ["200", "40"] * 3 + ["none"]
    assert table["tasks"].tolist() == ["200", "40"] * 3 + ["1"]
    assert table["begins"].iloc[:2].tolist() == ["at once", "after all tasks of train paper-svhn"]


def test_tasks_are_packs_of_runs(tmp_path):
    path = tmp_path / "cluster.toml"
    path.write_text('[all]\ntime = "1 h"\nruns_at_once = 3\n')
    assert tables.jobs("paper-cifar10", resources=path)["tasks"].tolist() == ["67", "14", "1"]


def test_cost_is_that_of_known_operations():
    table = cost.cost("paper", dataset="CIFAR10", rates={"toy": 1e15})
    # 0.556e9 multiply-adds: ResNet-18 with the CIFAR stem; backward twice, less the first layer's images
    forward = 2 * 0.556e9 * 800 * (200 * 45_000 + 40 * 50_000)
    assert float(table["EFLOP"]["paper-cifar10"]) == pytest.approx(3 * forward / 1e18, rel=0.01)
    assert float(table["toy (h)"]["all"]) == pytest.approx(3 * forward / 0.3e15 / 3600, rel=0.01)
    # 11.17 million parameters of four bytes
    assert float(table["weights (GB)"]["all"]) == pytest.approx(240 * 4 * 11.17e6 / 1e9, rel=0.01)


def test_a_choice_costs_its_share():
    whole = cost.cost("paper", dataset="CIFAR10")
    part = cost.cost("paper", dataset="CIFAR10", only=["IB", "NoPen"], seeds=2)
    assert part["runs"]["all"] == "20" and part["trained again"]["all"] == "4"
    assert float(part["EFLOP"]["all"]) == pytest.approx(float(whole["EFLOP"]["all"]) / 10, rel=0.01)
    assert cost.cost("smoke")["trained again"]["all"] == "0"
    with pytest.raises(ValueError, match="Did you mean NoPen"):
        cost.cost("paper", only=["NoPenn"])


def test_hours_are_those_of_measured_epochs_or_nothing():
    assert cost.hours("paper", dataset="SVHN").startswith("paper-svhn: ")


def test_numbers_of_the_text_are_those_of_the_code():
    assert (holders.LEASE, holders.HEARTBEAT) == (180, 15) and "After 180 s and a second look" in CHAPTER
    assert "one every 15 s" in CHAPTER and "about 200 s in all" in CHAPTER
    assert abs(holders.LEASE + 1.5 * holders.HEARTBEAT - 200) < 5
    assert COHORT_SIZE == 14 and "up to fourteen in one program" in CHAPTER
    assert CLUSTER_EXAMPLE.relative_to(ROOT).as_posix() in CHAPTER


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("lpc/computing/stopping.py", ": stopping after "),
        ("lpc/store/holders.py", "died"),
        ("lpc/runs/execution.py", "waiting for "),
        ("experiments/cluster/submit.py", "in the queue already"),
        ("experiments/cluster/submit.py", ".failed"),
        ("experiments/cluster/worker.py", "this node would mix code"),
        ("experiments/cluster/worker.py", "report.txt"),
        ("experiments/cluster/slurm.py", "SLURM's controller does not answer"),
        ("experiments/cluster/jobs.py", "the queue is not known"),
        ("experiments/__main__.py", "the disk is full"),
        ("experiments/__main__.py", "no permission to write there"),
    ],
)
def test_what_a_user_is_said_to_see_is_what_the_code_says(module, words):
    assert words in CHAPTER and words in ROOT.joinpath(module).read_text()


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """The project with the chapter's two changes, and a file of images that they read."""
    project = tmp_path_factory.mktemp("project")
    for name in ("lpc", "experiments"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    raw = load_raw("digits")
    project.joinpath("data").mkdir()
    (example,) = re.findall(r"```python\n(.*?)```", CHAPTER, flags=re.DOTALL)
    arrays = dict(zip(raw._fields, raw, strict=True))
    exec(example.replace("data/mine.npz", str(project / "data" / "mine.npz")), {"np": np, **arrays})
    digest = hashlib.md5((project / "data" / "mine.npz").read_bytes()).hexdigest()
    for diff in re.findall(r"```diff\n(.*?)```", CHAPTER, flags=re.DOTALL):
        text = diff.replace("what md5sum prints", digest).replace("epochs=100", "epochs=4")
        done = subprocess.run(
            ["git", "apply"], cwd=project, input=text, capture_output=True, text=True, check=False
        )
        assert not done.returncode, f"does not fit the code any more: {done.stderr}\n{diff}"
    return project


def call(project, *arguments):
    environment = {name: text for name, text in os.environ.items() if name != "LPC_DATA"}
    return warm.run(*arguments, cwd=project, env=environment)


@pytest.mark.slow
def test_the_data_set_and_the_architecture_that_the_chapter_adds_are_trained(changed):
    chosen = ["--profile", "mine", "--only", "NarrowLinPen", "--seeds", "1"]
    done = call(changed, "-m", "experiments", "train", *chosen, "--workers", "1")
    assert "mine: 4 runs, 1 selected and measured, 0 failed" in done.stdout, done.stderr


def test_without_the_file_what_is_missing_is_named(changed):
    changed.joinpath("data", "mine.npz").rename(changed / "aside.npz")
    code = (
        "from lpc.datasets import absent_files; print(absent_files('mine'));"
        "from lpc.figures import LOOKS; from lpc.specs import VARIANTS; print(set(VARIANTS) <= set(LOOKS))"
    )
    done = call(changed, "-c", code)
    assert "mine.npz" in done.stdout and done.stdout.endswith("True\n"), done.stderr
