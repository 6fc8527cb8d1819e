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
import gc
import importlib
import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
        ``-m MODULE ...``, ``-c CODE ...``, after any ``-W FILTER``.
    cwd
        The folder, where its modules are looked for first.
    env
        The environment; None: this process's, on :data:`ONE_CORE`.
    """
    environment = {**os.environ, **ONE_CORE} if env is None else env
    with begin(*arguments, cwd=cwd, env=environment) as begun:
        command, status = [sys.executable, *map(str, arguments)], begun.wait()
        return subprocess.CompletedProcess(command, status, begun.out, begun.err)


class Begun:
    """A command that was begun, as :class:`subprocess.Popen` has it; what it prints goes to files.

    Leaving its context ends it.
    """

    def __init__(self, arguments: Sequence[object], cwd: Path, env: Mapping[str, str]) -> None:
        with contextlib.ExitStack() as stack:
            self._out, self._err = (stack.enter_context(tempfile.NamedTemporaryFile("r")) for _ in range(2))
            self._files = stack.pop_all()
        asked = {"words": [str(word) for word in arguments], "cwd": str(cwd), "env": dict(env)}
        self.pid: int = _ask(**asked, out=self._out.name, err=self._err.name)
        self.returncode: int | None = None

    def __enter__(self) -> Begun:
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self._files.close()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return Path(self._out.name).read_text()

    @property
    def err(self) -> str:
        """What it has printed so far on standard error."""
        return Path(self._err.name).read_text()

    def poll(self) -> int | None:
        """Return its status, None while it runs."""
        return self._ended(wait=False)

    def wait(self) -> int:
        """Return its status once it has ended."""
        status = self._ended(wait=True)
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless its end is known."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def _ended(self, *, wait: bool) -> int | None:
        if self.returncode is None:
            self.returncode, seconds = _ask(pid=self.pid, wait=wait)
            SECONDS.append(seconds)
        return self.returncode


def begin(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Begun:
    """Begin what ``python ARGUMENTS`` would run in a folder.

    Parameters
    ----------
    arguments
        As of :func:`run`; or a script's path and its arguments.
    cwd, env
        As of :func:`run`, but that None is this process's environment as it is.
    """
    return Begun(arguments, cwd, os.environ if env is None else env)


def _ask(**request: object) -> Any:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


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
    """Fork for each command of the input and answer with its process, or with how one has ended."""
    gc.disable()
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # forks neither look through it for garbage nor copy it
    gc.enable()
    for line in sys.stdin:
        request = json.loads(line)
        if "words" not in request:
            ended, status, usage = os.wait4(request["pid"], 0 if request["wait"] else os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
            print(json.dumps((code, usage.ru_utime + usage.ru_stime if ended else 0.0)), flush=True)
        elif child := os.fork():
            print(child, flush=True)
        else:
            _become(**request)
    gc.unfreeze()  # else extensions that count their objects report them as leaked


def _become(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """Be the command, to its end."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells let background programs ignore
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
    if words[0].endswith(".py"):
        _execute_script(*words)
        return
    kind, what, *rest = words
    sys.argv = [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        raise ValueError(f"{kind!r}; expected -m, -c or a script")


def _execute_script(path: str, *arguments: str) -> None:
    sys.argv, sys.path[0] = [path, *arguments], str(Path(path).parent)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = path  # where processes that are spawned look for it
    exec(compile(Path(path).read_text(), path, "exec"), main.__dict__)


if __name__ == "__main__":
    _serve()
