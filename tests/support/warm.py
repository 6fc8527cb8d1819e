"""Python commands in processes that have torch, pandas and the like already: starts are what tests wait for.

A process that has imported the libraries which the project uses, and nothing of the project's own, is forked
for each command. The fork has the command's folder, environment, arguments and output, and imports the
``lpc`` and ``experiments`` that lie in its folder. Where a test is about the start itself (what an import
loads, how a program is found, which signal ends it), it starts a program of its own instead.

What libraries read as they are loaded, such as OMP_NUM_THREADS, is read once: tests have one thread.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import shlex
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = (
    *("numpy", "torch", "torch.func", "torch.utils.data", "torchvision.datasets", "torchvision.transforms"),
    *("pandas", "pyarrow.parquet", "scipy.optimize", "scipy.spatial", "scipy.stats", "safetensors.torch"),
    *("sklearn.datasets", "sklearn.metrics", "sklearn.neighbors", "matplotlib.pyplot", "tqdm"),
    *("click", "jupytext", "nbformat", "papermill.cli", "nbclient"),
    *("jupyter_book.cli.main", "sphinx.application", "sphinx.ext.autodoc", "sphinx.ext.napoleon"),
    *("myst_nb.sphinx_ext", "sphinx_book_theme", "sphinxcontrib.bibtex"),
)
ONE_CORE = {"SLURM_CPUS_PER_TASK": "1"}
"""What makes commands train in their own process: to start a second takes longer than what tests train."""
SECONDS: list[float] = []
"""The CPU seconds of each command so far, what it started included."""


def run(
    *arguments: object, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run what ``python ARGUMENTS`` would run in a folder, and return its status and what it printed.

    Parameters
    ----------
    arguments
        ``-m MODULE ...`` or ``-c CODE ...``, after any ``-W FILTER``.
    cwd
        The folder, where its modules are looked for first.
    env
        The environment; None: this process's, on :data:`ONE_CORE`.
    """
    words = [str(word) for word in arguments]
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.NamedTemporaryFile("r")) for _ in range(2))
        asked = {
            "words": words,
            "cwd": str(cwd),
            "env": dict({**os.environ, **ONE_CORE} if env is None else env),
        }
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps({**asked, "out": out.name, "err": err.name}) + "\n")
        server.stdin.flush()
        status, seconds = json.loads(server.stdout.readline())
        SECONDS.append(seconds)
        return subprocess.CompletedProcess([sys.executable, *words], status, out.read(), err.read())


def shell(line: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run lines of commands; those of the environment, ``.venv/bin/NAME``, as modules of the same name.

    Each has to be there as a program too. The first that fails is the last.

    Raises
    ------
    ValueError
        A program that the environment does not have, or no command at all.
    """
    done = None
    for part in filter(None, map(str.strip, line.replace("&&", "\n").splitlines())):
        program, *arguments = shlex.split(part)
        name = program.removeprefix(".venv/bin/")
        if name == program:
            done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
        elif not Path(sys.executable).with_name(name).exists():
            raise ValueError(f"{program!r} in {line!r}; expected a program of the environment")
        else:
            done = run(*(["-m", name] if name != "python" else []), *arguments, cwd=cwd)
        if done.returncode:
            break
    if done is None:
        raise ValueError(f"{line!r}; expected commands")
    return done


@functools.cache
def _server() -> subprocess.Popen[str]:
    command = [sys.executable, __file__]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)  # it ends where its input does
    return server


def _serve() -> None:
    """Fork for each line of the input, and answer with the child's status and CPU seconds."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        if not (child := os.fork()):
            _become(**json.loads(line))
        _, status, usage = os.wait4(child, 0)
        answer = (os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)
        print(json.dumps(answer), flush=True)


def _become(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """Be the command, to its end."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0] = ""
    sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    status = 0
    try:
        _execute(words)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)  # to take all of torch down takes a second


def _execute(words: list[str]) -> None:
    while words[0] == "-W":
        warnings._setoption(words[1])  # type: ignore[attr-defined]
        del words[:2]
    kind, what, *rest = words
    sys.argv = [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        raise ValueError(f"{kind!r}; expected -m or -c")


if __name__ == "__main__":
    _serve()
