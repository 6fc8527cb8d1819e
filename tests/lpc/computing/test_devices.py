"""Which device is used, and the error if a requested GPU is missing."""

import pytest
import torch
from support.pretended_gpu import pretended_gpu

from lpc.computing import devices
from lpc.computing.devices import default_device, driver_version
from lpc.computing.provenance import provenance
from lpc.errors import MissingGPU


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine without a GPU, and what its driver would report."""
    for name in (*devices.ASKING, "LPC_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "version")
    return tmp_path / "version"


def test_the_gpu_is_taken_where_there_is_one_and_else_the_cpu():
    assert default_device() == default_device(torch.device("cpu")) == torch.device("cpu")
    with pretended_gpu():
        assert default_device().type == "cuda"
        assert default_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA_VISIBLE_DEVICES", "0"), ("SLURM_JOB_GPUS", "0,1"), ("SLURM_GPUS_ON_NODE", "1")],
)
def test_gpus_that_were_asked_for_and_are_not_there_are_an_error(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(
        MissingGPU, match=rf"asked for \({name}={value}\).* no NVIDIA driver .*CUDA 13\.2.*LPC_DEVICE"
    ):
        default_device()
    monkeypatch.setenv("LPC_DEVICE", "cpu")
    assert default_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1"), ("SLURM_GPUS_ON_NODE", "0")],
)
def test_who_asks_for_no_gpu_gets_the_cpu(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert default_device() == torch.device("cpu")


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_a_gpu_that_is_named_is_an_error_too(monkeypatch, by):
    if by == "variable":
        monkeypatch.setenv("LPC_DEVICE", "cuda:1")
    with pytest.raises(MissingGPU, match="the device is 'cuda:1', but torch finds no GPU"):
        default_device("cuda:1" if by == "argument" else None)


def test_a_driver_without_a_usable_card_is_warned_of_and_named(machine, monkeypatch):
    machine.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2\n")
    assert driver_version() == "470.256.02"
    with pytest.warns(UserWarning, match=r"on the CPU: .* driver 470\.256\.02 is too old, or .* CUDA 13\.2"):
        assert default_device() == torch.device("cpu")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    with pytest.raises(MissingGPU, match=r"470\.256\.02"):
        default_device()


def test_a_wheel_without_cuda_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MissingGPU, match="is built without CUDA"):
        default_device("cuda")


def test_provenance_of_a_gpu_names_what_its_numbers_depend_on(machine):
    machine.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Thu May  2\n")
    with pretended_gpu():
        found = provenance()["gpu"]
    assert found["cuda"] == "13.2" and found["driver"] == "580.65.06" and found["capability"] == "9.0"
    assert set(found) == {"cuda", "cudnn", "driver", "triton", "capability"}
    assert "gpu" not in provenance(torch.device("cpu"))
