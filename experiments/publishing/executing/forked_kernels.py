"""Kernels that are forks of one process in which the libraries are already loaded.

For each of two dozen chapters, loading torch, pandas, scikit-learn and IPython takes about four CPU seconds,
and other imports that several share (:mod:`experiments.publishing.executing.shared_imports`) one more.
A process that executes several chapters loads all of these once instead, in a separate process
(``multiprocessing``'s forkserver). Every kernel is a fork of that process: it shares these 300 MB, has its
own folder, environment, process group and memory, and ends like any other kernel.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

NAME = "forked-provisioner"
LIBRARIES = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "pandas.io.formats.style", "safetensors.torch", "tqdm"),
    *("torch", "torch.func", "torchvision", "scipy.optimize", "scipy.stats"),
    *("sklearn.datasets", "sklearn.metrics", "sklearn.neighbors"),
)
"""Modules that are loaded before kernels are forked, whichever chapters there are."""
PRELOADED = f"{__package__}.preloaded"
"""Module that loads the imports that chapters share."""


def kernel_spec() -> dict[str, Any]:
    """Return the entries of ``kernel.json`` that make this process's kernels forks."""
    module = f"{__name__}:{ForkedProvisioner.__name__}"
    group = KernelProvisionerFactory.GROUP_NAME
    KernelProvisionerFactory.provisioners[NAME] = EntryPoint(name=NAME, value=module, group=group)
    return {"metadata": {"kernel_provisioner": {"provisioner_name": NAME}}}


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel as a fork instead of a program, and is otherwise like the local provisioner."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel that a command ``[python, -m, ipykernel_launcher, ...]`` would start."""
        self.process = _Fork(cmd[3:], kwargs["env"], kwargs.get("cwd") or str(Path.cwd()))
        self.pid = self.pgid = self.process.pid  # it leads its own process group
        return self.connection_info


class _Fork:
    """A fork, with those methods of ``subprocess.Popen`` that the local provisioner uses."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], environment: Mapping[str, str], folder: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*LIBRARIES, PRELOADED])
        self._seconds = context.Value("d", 0.0)
        self._process = context.Process(
            target=_serve, args=(arguments, dict(environment), str(folder), self._seconds)
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        if self._process.exitcode is not None:
            SECONDS[self] = self._seconds.value
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.pid is not None and self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


SECONDS: dict[_Fork, float] = {}
"""CPU seconds of this process's kernels that have ended by themselves, and of their children. The system does
not report them, because the kernels are not this process's children. Loading the libraries is not counted."""


def _serve(arguments: list[str], environment: Mapping[str, str], folder: str, seconds: Synchronized) -> None:
    """Run a kernel in this fork; when it ends, note its CPU seconds."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))  # a kernel ends when its parent does
    sys.argv = ["ipykernel_launcher", *arguments]
    sys.path[0] = ""
    from ipykernel.kernelapp import launch_new_instance

    try:
        launch_new_instance()
    finally:
        seconds.value = sum(os.times()[:4])
