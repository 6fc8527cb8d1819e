"""Every public function of `lpc.evaluation`, `lpc.losses`, `lpc.schedules.gammas`, with whatever is given.

Each call ends in the plain value, or in a ValueError or TypeError that names the argument.
"""

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.measures import PUBLIC, Draw
from support.references import REFERENCES, Case, Undefined

EXAMPLES = 30  # of each function: more than 2,000 in all
FLAVOURS = (
    "plain",
    "plain",
    "plain",
    "tiny",
    "huge",
    "collapsed",
    "repeated",
    "constant",
    "zero",
    "one point",
)
DOUBTFUL = ("repeated", "constant", "zero", "one point")  # may be refused, with the argument's name
LABELS = ("range", "range", "range", "few", "one class", "negative", "absurd")
HALF = 0.05  # relative: what half precision rounds, where it is taken
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


def test_every_public_function_has_a_reference():
    assert sorted(PUBLIC.values()) == sorted(PUBLIC.get(function, str(function)) for function in REFERENCES)
    assert EXAMPLES * len(REFERENCES) >= 2000


@st.composite
def draws(draw, smooth: bool):
    flavours = [flavour for flavour in FLAVOURS if not (smooth and flavour in DOUBTFUL)]
    flavour = draw(st.sampled_from(flavours))
    points = 1 if flavour == "one point" else draw(st.integers(6 if smooth else 2, 14))
    seed = draw(st.integers(0, 2**32 - 1))
    return Draw(
        np.random.default_rng(seed), points, draw(st.integers(1, 4)), flavour, draw(st.sampled_from(LABELS))
    )


def laid_out(value: np.ndarray, layout: str, device: str) -> Any:
    """Return the same values in another place: strides, byte order, memory, library."""
    if layout == "tensor":
        return torch.from_numpy(value.copy()).to(device)
    if layout == "strided tensor":
        return torch.from_numpy(np.repeat(value, 2, axis=0)).to(device)[::2]
    if layout == "gradient":
        return torch.from_numpy(value.copy()).to(device).requires_grad_(value.dtype.kind == "f")
    if layout == "transposed":
        return np.asfortranarray(value)
    if layout == "backwards":
        return value[::-1].copy()[::-1]
    if layout == "read-only":
        value = value.copy()
        value.flags.writeable = False
        return value
    if layout == "swapped":
        return value.astype(value.dtype.newbyteorder(">"))
    return value


LAYOUTS = ("plain", "transposed", "backwards", "read-only", "swapped")
TENSORS = ("tensor", "strided tensor", "gradient")


def spoiled(value: np.ndarray, how: str) -> Any:
    """Return what must be refused in place of an array; None stands for what cannot be made of it."""
    whole = value.dtype.kind in "iub"
    if how in ("NaN", "infinity"):
        if whole:
            return value.astype(np.float64)
        value = value.copy()
        value.flat[value.size // 2] = math.nan if how == "NaN" else math.inf
        return value
    if how == "half":
        return value.astype(np.float16)
    if how == "bfloat16":
        return torch.from_numpy(value.astype(np.float32)).bfloat16()
    if how == "whole":
        return value.astype(np.float32 if whole else np.int64)
    if how == "complex":
        return value.astype(np.complex128)
    if how == "objects":
        return value.astype(object)
    if how == "words":
        return value.astype(str)
    if how == "list":
        return value.tolist()
    if how == "frame":
        return pd.DataFrame(value.reshape(len(value), -1))
    if how == "masked":
        return np.ma.masked_array(value, mask=np.arange(value.size).reshape(value.shape) == 0)
    if how == "sparse":
        return torch.from_numpy(value.copy()).to_sparse()
    if how == "meta":
        return torch.from_numpy(value.copy()).to("meta")
    if how == "empty":
        return value[:0]
    if how == "one dimension more":
        return value[..., None]
    return {"None": None, "a word": "latent", "a number": 3.5}[how]


SPOILED = (
    "NaN", "infinity", "half", "bfloat16", "whole", "complex", "objects", "words", "list", "frame", "masked",
    "sparse", "meta", "empty", "one dimension more", "None", "a word", "a number",
)  # fmt: skip


def as_numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def flat(value: Any) -> list[float]:
    """Return all numbers in a result, in order; None and what is not compared is NaN."""
    if value is None:
        return [math.nan]
    value = as_numpy(value)
    if isinstance(value, np.ndarray):
        return [float(number) for number in value.ravel()]
    if isinstance(value, (tuple, list)):
        return [number for part in value for number in flat(part)]
    return [float(value)]


def assert_named(error: Exception, case: Case) -> None:
    names = [*case.arrays, *case.options, *case.wrong]
    assert re.search(rf"\b({'|'.join(names)})s?\b", str(error)), f"no argument is named: {error}"


def compared(found: Any, expected: Any, tolerance: float) -> None:
    """Compare all numbers; parts of a tuple whose expected value is None are not compared."""
    if isinstance(expected, str) or expected is None:
        assert found == expected
        return
    pairs = [(found, expected)]
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        pairs = [pair for pair in zip(found, expected, strict=True) if pair[1] is not None]
    for own, other in pairs:
        ours, theirs = np.array(flat(own)), np.array(flat(other))
        assert ours.shape == theirs.shape
        size = np.abs(theirs[np.isfinite(theirs)]).max(initial=0.0)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * size + 1e-12)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.filterwarnings(
    *("ignore::RuntimeWarning", "ignore:the measures of neural collapse are NaN"),
    "ignore:classes .* have (one|no) point",
)
@pytest.mark.parametrize("function", list(REFERENCES), ids=[PUBLIC.get(f, str(f)) for f in REFERENCES])
def test_the_plain_value_or_an_error_that_names_the_argument(function):
    case = REFERENCES[function]
    call = case.call or function

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[Phase.generate],  # what fails is small as it is
    )  # fmt: skip
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        draw = data.draw(draws(case.smooth))
        dtype = data.draw(st.sampled_from((np.float64, np.float32)))
        arrays = {name: draw.array(kind, dtype) for name, kind in case.arrays.items()}
        options = {name: make(draw) for name, make in case.options.items()}
        given = {}
        device = data.draw(st.sampled_from(DEVICES))
        for name, value in arrays.items():
            layouts = TENSORS if case.tensors else LAYOUTS + TENSORS
            given[name] = laid_out(value, data.draw(st.sampled_from(layouts)), device)
        kept = {name: as_numpy(value).copy() for name, value in given.items()}
        harm = data.draw(st.sampled_from(("none", "none", "array", "option")))
        if harm == "option" and case.wrong:
            name = data.draw(st.sampled_from(sorted(case.wrong)))
            wrong = data.draw(st.sampled_from(case.wrong[name]))
            if "generator" in options:
                options["generator"] = torch.Generator()
            with pytest.raises((ValueError, TypeError)) as caught:
                call(**given, **{**options, name: wrong})
            assert_named(caught.value, case)
            return
        if harm == "array" and arrays:
            name = data.draw(st.sampled_from(sorted(arrays)))
            how = data.draw(st.sampled_from(SPOILED))
            bad = spoiled(arrays[name], how)
            if (
                case.tensors
                and isinstance(bad, np.ndarray)
                and type(bad) is np.ndarray
                and bad.dtype.kind in "fiubc"
            ):
                bad = torch.from_numpy(np.ascontiguousarray(bad))
            try:
                found = call(**{**given, name: bad}, **options)
            except (ValueError, TypeError) as error:
                assert_named(error, case)
                return
            if how in ("NaN", "infinity") and name == "latent" and PUBLIC[function].startswith("losses."):
                assert not np.isfinite(flat(found)).all()  # losses look at no value: nothing waits for a GPU
                return
            assert how in ("half", "bfloat16"), f"{how} was taken"
            plain = {key: as_numpy(value).astype(np.float64) for key, value in arrays.items()}
            plain[name] = torch.as_tensor(bad).double().numpy()
            compared(found, case.reference(**plain, **options), HALF)
            return
        plain = {
            name: value.astype(np.float64) if value.dtype.kind == "f" else value
            for name, value in arrays.items()
        }
        try:
            with np.errstate(all="ignore"):
                expected = case.reference(**plain, **options)
        except Undefined:
            with pytest.raises((ValueError, TypeError)) as caught:
                call(**given, **options)
            assert_named(caught.value, case)
            return
        if "generator" in options:
            options["generator"].manual_seed(0)
        try:
            found = call(**given, **options)
        except (ValueError, TypeError) as error:
            if draw.flavour not in DOUBTFUL:
                raise
            assert_named(error, case)
            return
        compared(found, expected, max(case.tolerance, 1e-4 if dtype is np.float32 and case.tensors else 0.0))
        for name, value in given.items():
            assert np.array_equal(as_numpy(value), kept[name]), f"{name} was changed"

    check()
