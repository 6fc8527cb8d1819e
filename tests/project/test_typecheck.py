"""Signatures of `lpc` are checked in tests, with and without shapes, until that is switched off."""

import ast
from pathlib import Path
from typing import Any, cast

import jaxtyping
import pytest
import torch
from support.typecheck import checked, jaxtyped

from lpc.losses import conditional_log_variance
from lpc.schedules import geometric_gamma
from lpc.specs import TrainSpec

WRONG: dict[str, Any] = {
    "a shape": lambda: conditional_log_variance(torch.zeros(4, 2), torch.zeros(3, dtype=torch.int64)),
    "a type": lambda: geometric_gamma(1, initial=cast(Any, "1"), factor=2.0, maximum=1.0),
    "a field": lambda: TrainSpec(epochs=cast(Any, "3"), learning_rate=0.1),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_a_signature_is_an_error(kind):
    with pytest.raises(jaxtyping.TypeCheckError):
        WRONG[kind]()


def test_shapes_of_any_size_are_written_as_words():
    """Three bare dots cannot be resolved, and what they belong to is then not checked."""
    found = 0
    for path in (Path(__file__).parents[2] / "lpc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                shape = node.slice.elts[-1]
                if hasattr(jaxtyping, getattr(node.value, "id", " ")):
                    found += 1
                    assert getattr(shape, "value", "named") is not ..., (path, node.lineno)
    assert found > 500


def test_an_int_fits_where_a_float_is_asked_for():
    assert geometric_gamma(0, initial=1, factor=2, maximum=8) == 1


def test_nothing_is_checked_once_that_is_switched_off(unhooked):
    for kind, call in WRONG.items():
        try:
            call()
        except jaxtyping.TypeCheckError:
            pytest.fail(f"{kind} is checked")
        except Exception:
            continue  # what the function itself says


def made(function: Any) -> Any:
    return jaxtyped(typechecker=checked)(function)


def test_names_of_dimensions_hold_over_arguments_and_results():
    def first(x: jaxtyping.Float[torch.Tensor, "n d"]) -> jaxtyping.Float[torch.Tensor, " n"]:
        return x[0]

    assert len(made(first)(torch.zeros(2, 2))) == 2
    with pytest.raises(jaxtyping.TypeCheckError):
        made(first)(torch.zeros(2, 3))


def test_shapes_within_other_types_are_found_and_results_without_shapes_checked():
    def total(x: "dict[str, list[jaxtyping.Float[torch.Tensor, 'n']] | None]") -> float:
        return float(sum(one.sum() for one in x["a"] or []))

    def word(number: int, *, wrong: bool = False) -> "str":
        return cast(str, number) if wrong else str(number)

    def unknown(number: "Nowhere", other: int) -> float:  # pyright: ignore[reportUndefinedVariable]
        return number + other

    assert made(total)({"a": [torch.ones(2)]}) == 2.0
    with pytest.raises(jaxtyping.TypeCheckError):
        made(total)({"a": [torch.ones(2, 2)]})
    assert made(word)(3) == "3" and made(unknown)(1.5, 1) == 2.5
    for call in (lambda: made(word)("3"), lambda: made(word)(3, wrong=True), lambda: made(unknown)(1, "1")):
        with pytest.raises(jaxtyping.TypeCheckError):
            call()


def test_a_checked_function_is_still_that_function(unchecked):
    assert unchecked(geometric_gamma) is not geometric_gamma
    assert geometric_gamma.__name__ == "geometric_gamma" == unchecked(geometric_gamma).__name__
    count = 0

    def add(number: int) -> None:
        nonlocal count
        count += number

    made(add)(2)
    assert count == 2
