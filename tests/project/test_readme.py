"""What the README shows is run, and what it names exists."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT.joinpath("README.md").read_text()


def test_python_examples_run_and_say_what_they_should(capsys):
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    first, second, third = capsys.readouterr().out.splitlines()
    within, ratio = (float(text) for text in re.findall(r"\d\.\de[-+]\d+", first))
    assert within < 1e-3 and ratio < 0.1
    assert second.endswith("nats")
    information, error = (float(text) for text in re.findall(r"\d+\.\d+(?:e-\d+)?", third))
    assert 1.6 < information < 1.75 and error < 0.05, "log 5 of the label, and hardly more"


def test_every_module_has_its_line():
    named = re.findall(r"^\| `((?:lpc|experiments)/[\w/]+\.py)` \|", README, flags=re.MULTILINE)
    paths = [path for folder in ("lpc", "experiments") for path in ROOT.joinpath(folder).rglob("*.py")]
    assert sorted(named) == sorted(
        path.relative_to(ROOT).as_posix() for path in paths if path.name != "__init__.py"
    )


def test_links_and_commands_exist():
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).exists()
    verbs = re.findall(r"-m experiments (\w+)", README)
    command = [sys.executable, "-m", "experiments", "--help"]
    known = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert verbs and all(f"  {verb} " in known for verb in verbs)


def test_the_papermill_line_works(tmp_path):
    (line,) = re.findall(r"(\.venv/bin/jupytext .*)", README)
    scripts = Path(sys.executable).parent
    line = line.replace(".venv/bin/", f"{scripts}/").replace("build/", f"{tmp_path}/")
    line += f" -p store {tmp_path / 'runs'} -p seeds 1"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "collapse-smoke.ipynb").exists()
    assert shutil.which("papermill", path=str(scripts))
