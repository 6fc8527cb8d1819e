"""The README's examples run, and what it names exists."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
import torch
from support import warm

from experiments.__main__ import cli
from experiments.publishing.executing import dependencies
from experiments.publishing.executing.chapter_sources import code_of
from experiments.publishing.places import PLACES

ROOT = Path(__file__).parents[2]
README = ROOT.joinpath("README.md").read_text()


def test_python_examples_run_and_say_what_they_should(capsys):
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    report, training = examples
    lines = [line for line in report.splitlines() if line.strip()]
    assert len(lines) <= 5 and '"resnet18", pretrained=True' in report
    named = '"resnet18", pretrained=True'
    small = report.replace(named, '"test_resnet", num_classes=4')  # nothing to download
    images, label = torch.randn(40, 3, 32, 32), torch.arange(40) % 4
    space = {"train_loader": [(images[:24], label[:24])], "test_loader": [(images[24:], label[24:])]}
    exec(compile(small, "README.md", "exec"), space)
    said = capsys.readouterr().out
    assert said.startswith("train 24 points; test 16 points; ") and "tr Sw / tr Sb" in said
    exec(compile(training, "README.md", "exec"), {})
    within, ratio = (float(text) for text in re.findall(r"\d\.\de[-+]\d+", capsys.readouterr().out))
    assert within < 1e-3 and ratio < 0.1


def test_it_stays_short():
    assert len(README.splitlines()) <= 150


def test_folders_and_pictures_are_there_and_every_package_has_its_row():
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).exists()
    (table,) = re.findall(r"\| folder \|.*?\n\n", README, re.DOTALL)
    named = set(re.findall(r"`((?:lpc|experiments|book|tests)/[\w/.]*)`", table))
    assert all((ROOT / name).exists() for name in named if name != "chapters/noise/")
    packages = [path.parent for path in ROOT.glob("[el]*/*/__init__.py")]
    assert len(packages) > 8
    assert {f"{path.relative_to(ROOT).as_posix()}/" for path in packages} <= named


def wanted_by(page):
    """Return the modules that a page names in its imports, as files."""
    code = "\n".join(re.sub(r"^%.*$", "", cell, flags=re.MULTILINE) for cell in code_of(page))
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    names = {node.module or "" for node in nodes}
    names |= {f"{node.module}.{item.name}" for node in nodes for item in node.names}
    return {f"{name.replace('.', '/')}.py" for name in names}


def test_the_map_leads_from_tables_and_figures_to_pages_and_modules():
    rows = re.findall(r"^\| (LPC|Kirsch et al\.), (.*?) \| `([\w-]+)` \| (.*?) \|$", README, re.MULTILINE)
    mapped = []
    for paper, places, page, modules in rows:
        kind, numbers = places.split()[0].rstrip("s"), re.findall(r"\d", places)
        mapped += [(paper, kind, number) for number in numbers]
        text = PLACES.source(page).read_text()
        assert all(re.search(rf"{kind} {number}\b", text) for number in numbers), (page, places)
        files = re.findall(r"`([^`]+)`", modules)
        reached = {path.relative_to(ROOT).as_posix() for path in dependencies.files(code_of(page))}
        assert set(files) <= reached and wanted_by(page) & set(files), page
    lpc = [("LPC", "Table", n) for n in "123"] + [("LPC", "Figure", n) for n in "123"]
    assert sorted(mapped) == sorted([*lpc, *(("Kirsch et al.", "Figure", n) for n in "1234567")])


def test_commands_are_understood():
    makefile = ROOT.joinpath("Makefile").read_text()
    targets = set(re.findall(r"(?:`|^)make ([a-z]+)", README, flags=re.MULTILINE))
    assert {"book", "test", "serve", "pdf"} <= targets
    assert all(f"\n{target}:" in makefile for target in targets)
    lines = re.findall(r"^\.venv/bin/python -m experiments (.*)$", README, flags=re.MULTILINE)
    verbs = [shlex.split(line) for line in lines if line != "--help"]
    assert len(verbs) >= 4
    for verb, *arguments in verbs:
        cli.commands[verb].make_context(verb, arguments)


def test_a_command_with_an_unknown_option_would_be_noticed():
    with pytest.raises(click.NoSuchOption):
        cli.commands["train"].make_context("train", ["--profil", "smoke"])


@pytest.mark.book
def test_the_papermill_line_works(tmp_path):
    (line,) = re.findall(r"(\.venv/bin/jupytext .*)", README)
    line = line.replace("build/", f"{tmp_path}/") + f" -p store {tmp_path / 'runs'} -p seeds 1"
    done = warm.shell(line, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "collapse-smoke.ipynb").exists()
