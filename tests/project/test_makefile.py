"""What the Makefile does and says, without making anything."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make(tmp_path):
    """Call make in a folder with the Makefile and the files that its targets are made from."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    # not as part of the make that runs the tests, which would say where it enters and leaves
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def call(*arguments):
        command = ["make", *arguments, f"PYTHON={sys.executable}"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return call


def test_the_lock_is_checked_unless_none_is_asked_for(make):
    locked, newest = make("-n", "env").stdout, make("-n", "env", "CONSTRAINTS=").stdout
    assert "--require-hashes --no-deps --requirement constraints.txt" in locked
    assert "--require-hashes" not in newest and "constraints.txt" not in newest.replace("env:", "")
    assert "--editable '.[attacks" in newest and "setuptools<81" in newest


def test_only_the_setuptools_of_the_lock_build_anything(make, tmp_path):
    (line,) = [one for one in make("-n", "env").stdout.splitlines() if one.startswith("sed ")]
    (tmp_path / ".venv").mkdir()
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    first, *hashes = (tmp_path / ".venv" / "build.txt").read_text().splitlines()
    assert first.startswith("setuptools==") and len(hashes) >= 2
    assert all(one.strip().startswith("--hash=sha256:") for one in hashes)


def test_a_taken_port_is_one_line(make, tmp_path):
    (tmp_path / "build" / "html").mkdir(parents=True)
    (tmp_path / "build" / "html" / "index.html").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = make("serve", f"PORT={port}")
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode and done.stdout == ""
    assert said == [f"port {port} is taken or not allowed; choose another: make serve PORT=8001"]
