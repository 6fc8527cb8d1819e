"""Settings of torch that decide how float32 is rounded: their values inside the context, and afterwards."""

import functools
import json
import subprocess
import sys
import threading

import torch

from lpc.computing.precision import _SETTINGS, exact_float32, precision_of

CASES = {
    "nothing": "pass",
    "every backend": "torch.backends.fp32_precision = 'tf32'",
    "every backend, bfloat16": "torch.backends.fp32_precision = 'bf16'",
    "every backend, exact": "torch.backends.fp32_precision = 'ieee'",
    "cuDNN": "torch.backends.cudnn.fp32_precision = 'tf32'",
    "convolutions": "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "products": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "oneDNN": "torch.backends.mkldnn.conv.fp32_precision = 'bf16'",
    "old, high": "torch.set_float32_matmul_precision('high')",
    "old, medium": "torch.set_float32_matmul_precision('medium')",
    "old, cuBLAS": "torch.backends.cuda.matmul.allow_tf32 = True",
    "old, cuDNN": "torch.backends.cudnn.allow_tf32 = False",
    "benchmark": "torch.backends.cudnn.benchmark = True",
}
LATER = "torch.backends.fp32_precision = 'ieee'"
"""What the caller sets afterwards: whatever was inherited must still follow it."""
PROGRAM = """
import json, os, sys, torch
from lpc.computing.precision import _SETTINGS, exact_float32

def state():
    found = [torch._C._get_fp32_precision_getter(*setting) for setting in _SETTINGS]
    old = torch._C._get_cudnn_allow_tf32, torch._C._get_cublas_allow_tf32
    for get in (*old, torch.get_float32_matmul_precision):
        try:
            found.append(get())
        except RuntimeError:
            found.append("unreadable")
    return [*found, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic]

cases, later = json.loads(sys.argv[1])
for name, line in cases.items():
    for visit in (True, False):
        if os.fork() == 0:  # what a case sets stays in a process of its own
            exec(line)
            inside = None
            try:
                if visit:
                    with exact_float32(), exact_float32():
                        inside = state()
                        raise KeyError
            except KeyError:
                pass
            after = state()
            exec(later)
            print(json.dumps([name, visit, inside, after, state()]), flush=True)
            os._exit(0)
        os.wait()
"""


@functools.cache
def states() -> dict[tuple[str, bool], list]:
    """Return, by case and whether there was a visit, the settings inside, after, and later."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([CASES, LATER])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {(name, visit): rest for name, visit, *rest in map(json.loads, done.stdout.splitlines())}


def test_everything_is_exact_inside_and_as_before_after_an_exception():
    assert len(states()) == 2 * len(CASES)
    for name in CASES:
        (inside, *visited), (_, *untouched) = states()[name, True], states()[name, False]
        assert inside[: len(_SETTINGS)] == ["ieee"] * len(_SETTINGS), name
        assert inside[-2:] == [False, True], name
        assert visited == untouched, name
    # The program tells settings apart: the control of the comparison above.
    assert len({json.dumps(after) for (_, visit), (_, *after) in states().items() if not visit}) >= 9


def test_old_settings_of_products_can_be_read_inside():
    """As torch.compile and libraries do; torch raises where old and new settings disagree."""
    inside = {name: found[0][-4:-2] for (name, visit), found in states().items() if visit}
    readable = {name for name, value in inside.items() if value == [False, "highest"]}
    assert readable >= {"nothing", "old, high", "old, medium", "old, cuBLAS", "old, cuDNN", "convolutions"}


def test_the_last_of_several_threads_to_leave_puts_the_settings_back():
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with exact_float32():
            entered.set()
            leave.wait(300)

    before = torch.backends.cudnn.deterministic
    thread = threading.Thread(target=other)
    with exact_float32():
        thread.start()
        assert entered.wait(300)
    try:
        assert not before
        assert torch.backends.cudnn.deterministic
        assert precision_of("cuda", "conv") == "ieee"
    finally:
        leave.set()
        thread.join()
    assert not torch.backends.cudnn.deterministic


def test_bfloat16_stays_bfloat16():
    with exact_float32(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
