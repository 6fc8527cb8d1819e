"""Which tests are slow and which compare numbers: marks that follow from records and code."""

from types import SimpleNamespace
from typing import Any

import pytest
from support.cpu_seconds import QUICK, RECORD, is_slow, recorded
from support.sources import compares, starts_python

FILE = "tests/test_x.py"


@pytest.mark.parametrize(
    ("recorded_as", "slow"),
    [
        (f"{FILE}::test_a", True),
        (f"{FILE}::test_ab", False),
        (f"{FILE}::(made)", True),
        ("tests/test_y.py::(made)", False),
        ("::(node)", True),
        ("::(others)", False),
    ],
)
def test_a_test_is_slow_that_took_long_itself_or_shares_what_did(recorded_as, slow):
    item: Any = SimpleNamespace(nodeid=f"{FILE}::test_a", fixturenames=["made", "node"])
    assert is_slow(item, {recorded_as: QUICK + 0.1}) == slow
    assert not is_slow(item, {recorded_as: QUICK})


def test_what_is_recorded_is_of_files_that_are_there():
    root = RECORD.parents[1]
    assert {name for name in recorded() if not (root / name.partition("::")[0]).exists()} == set()


TESTS = """
CASES = [approx(1.0)]
def close(a, b): return isclose(a, b)
def by_helper(a): return close(a, 1)
class Base:
    def compare(self): assert_close(1, 1)
class Mine(Base): ...
def test_tolerance(): assert 1 == approx(1)
def test_order(): assert loss() < 2
@parametrize("case", CASES)
def test_case(case): ...
def test_helper(): assert by_helper(1)
def test_base(): Mine().compare()
def test_words(): assert "a" in "ab" and words() == ["a"]
def test_closed(): assert closed()
@fixture
def gpu():
    with pretended_gpu(): yield
def test_pretended(gpu): assert on(gpu) == approx(on_cpu())
"""


def test_a_test_compares_numbers_itself_or_by_what_it_names(tmp_path):
    path = tmp_path / "test_them.py"
    path.write_text(TESTS)
    names = ["tolerance", "order", "case", "helper", "base", "words", "closed", "pretended"]
    assert [compares(f"test_{name}", path) for name in names] == [True] * 5 + [False] * 3
    assert not any(starts_python(f"test_{name}", path) for name in names)
    plain = tmp_path / "test_none.py"
    plain.write_text("def test_order(): assert loss() < 2\n")
    assert not compares("test_order", plain), "nothing in this file has a tolerance"


def test_a_test_starts_a_python_itself_or_by_what_it_names(tmp_path):
    path = tmp_path / "test_them.py"
    path.write_text(
        "def done(): return warm.run('-c', '')\ndef test_run(): assert done()\n"
        "def test_program(): run([sys.executable])\ndef test_neither(): assert warm\n"
    )
    names = ("run", "program", "neither")
    assert [starts_python(f"test_{name}", path) for name in names] == [True, True, False]
