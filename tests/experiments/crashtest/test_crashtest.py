"""Kills training programs; a store that writes carelessly is detected."""

import io
import os
import re
import time
from pathlib import Path

import pytest
from support import warm

from experiments.crashtest import campaign, contents, events, programs, report
from experiments.crashtest.events import Event, Happening
from experiments.crashtest.trials import WAYS, Outcome, Reference, Trial
from experiments.paths import ROOT

CARELESS = """
import sys
from lpc.store import atomic

def written_in_place(path, write):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)

if sys.argv.pop(1) == "careless":
    atomic.write_file = written_in_place
from experiments.__main__ import main
main(sys.argv[1:])
"""


def crashtest(how, *arguments):
    """Run the command line in a process without threads, which forks would lose."""
    return warm.run("-c", CARELESS, how, "crashtest", *arguments, cwd=ROOT)


def totals(output):
    """Return the last row of the table: interruptions, and the counts of damage by name."""
    numbers = re.search(r"^all +(.*)$", output, flags=re.MULTILINE)
    assert numbers is not None, output
    return dict(zip(("interruptions", *campaign.COUNTED), map(int, numbers[1].split()), strict=True))


def test_thirty_kills_lose_nothing(tmp_path):
    ended = crashtest("as it is", "--kills", 30, "--store", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = totals(ended.stdout)
    assert found.pop("interruptions") >= 25
    found.pop("left")
    assert set(found.values()) == {0}
    assert not list(tmp_path.iterdir())


def test_a_store_that_writes_in_place_is_found_out(tmp_path):
    ended = crashtest("careless", "--kills", 12, "--store", tmp_path)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    found = totals(ended.stdout)
    assert found["lost"] + found["changed"] + found["stuck"] + found["errors"] > 0
    kept = re.findall(r"^kept: (.*)$", ended.stdout, flags=re.MULTILINE)
    assert kept and all(Path(folder, "store", "runs").is_dir() for folder in kept)


def test_a_crash_test_that_is_stopped_ends_its_programs_and_leaves_nothing(tmp_path, monkeypatch):
    begun = []

    def stopped(folder):
        said = folder / "said"
        begun.append(programs.fork(lambda: time.sleep(600), said))
        while not said.exists():  # the program has begun, and its file is there
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "reference", stopped)
    with pytest.raises(KeyboardInterrupt):
        campaign.crashtest(1, store=tmp_path, progress=False)
    assert not Path(f"/proc/{begun[0]}").exists() and not programs._living
    assert not list(tmp_path.iterdir())


def forked(work):
    """Do some work in a forked process; return its exit status, negative for a signal."""
    process = os.fork()
    if process == 0:
        status = 9
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def write(path):
    """A file made, written, synchronised, named and touched."""
    draft = path.with_name(f".{path.name}.0123456789ab")
    with draft.open("wb") as stream:
        stream.write(b"0123456789")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    os.utime(path)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_every_event_is_told_and_the_process_is_killed_before_it(tmp_path):
    store, usual = tmp_path.resolve() / "store", io.open
    store.mkdir()

    def work(happening=None):
        events.watch(store, tmp_path / "log", happening)
        (tmp_path / "elsewhere").write_text("is not told")
        write(store / "file")

    assert forked(work) == 0
    told = events.told(tmp_path / "log")
    draft = ".file.*"
    assert [(how, event.kind) for how, event in told] == [
        ("done", Event("open", draft)),
        ("done", Event("write", draft)),
        ("done", Event(events.HALF, draft)),
        ("done", Event("fsync", draft)),
        ("done", Event("rename", "file")),
        ("done", Event("utime", "file")),
    ]
    sizes = []
    for place in range(len(told)):
        (store / "file").unlink(missing_ok=True)
        assert forked(lambda: work(Happening("kill", place))) == -9  # noqa: B023
        left = next(iter(store.iterdir()), None)
        sizes.append(None if left is None else (left.name[0] == ".", left.stat().st_size))
        for path in store.iterdir():
            path.unlink()
    assert sizes == [None, (True, 0), (True, 5), (True, 10), (True, 10), (False, 10)]
    assert io.open is usual, "this process is watched"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_full_disk_refuses_what_needs_space_from_then_on(tmp_path):
    store = tmp_path.resolve()

    def work():
        events.watch(store, tmp_path.parent / f"{tmp_path.name}.log", Happening("fill", 2))
        for name in ("first", "second"):
            with pytest.raises(OSError, match=f"No space left on device: '{store}"):
                write(store / name)
        (store / ".first.0123456789ab").unlink()

    assert forked(work) == 0
    assert not list(store.iterdir())


def outcome(way="full disk", **found):
    return Outcome(Trial(way, at=1), happened=True, event=Event("open", "a"), **found)


def test_damage_is_counted_where_it_was_found_and_what_is_left_over_is_none():
    whole = outcome(left=["runs/a/.result.json.0123456789ab"])
    torn = outcome("killed at an event", changed=["a", "b"], stuck=["the next program: why"])
    found = campaign.Found([whole, torn], {Event("open", "a")}, {Event("open", "a")}, 0, [Path("kept")])
    assert found.damaged == [torn]
    table = found.table()
    assert table.loc["all"].to_dict() == {
        **dict.fromkeys(campaign.COUNTED, 0),
        **{"interruptions": 2, "changed": 2, "stuck": 1, "left": 1},
    }
    assert table.loc["full disk", "changed"] == 0
    said = report.lines(found)
    assert "interrupted at 1 of 1 kinds of event" in said and "kept: kept" in said
    assert "left over, 1 times: runs/a/.result.json.*" in said
    assert "killed at an event: stuck: the next program: why" in said


def test_interruptions_are_spread_over_all_ways_and_all_kinds_of_event():
    import random

    told = [Event("write", f"file{place % 40}") for place in range(400)]
    undisturbed = Reference(told, 2.0, {}, set())
    planned = campaign._plan(300, undisturbed, random.Random(0))
    assert len(planned) == 300
    shares = {way: sum(one.way == way for one in planned) for way in WAYS}
    assert shares == {way: round(300 * share) for way, share in campaign.SHARES.items()}
    alone = [told[one.at].kind for one in planned if one.way == "killed at an event" and one.at is not None]
    assert len(set(alone)) == 40
    assert all(0 <= one.after <= 2.0 for one in planned if one.after is not None)
    assert len(campaign._plan(1, undisturbed, random.Random(0))) == 1


def test_what_differs_from_run_to_run_is_no_part_of_a_kind():
    key, token = "0" * 64, "f" * 32
    for path, kind in {
        f"runs/{key}/owner-12.json": "runs/*/owner-*.json",
        f"heartbeats/{token}": "heartbeats/*",
        f"heartbeats/.{token}.0123456789ab": "heartbeats/.*.*",
        f"runs/{key}/.result.json.0123456789ab": "runs/*/.result.json.*",
        "cohorts/.fresh.01234567-12345-98765.0123456789ab": "cohorts/.fresh.*",
        "listing-2.json": "listing-2.json",
    }.items():
        assert Event("open", path).kind.path == kind


def test_what_lies_in_a_store_is_listed_without_the_copy_of_its_rows(tmp_path):
    for name in ("runs/a/result.json", "heartbeats/token", "listing-2.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert contents.files(tmp_path) == {"runs/a", "runs/a/result.json", "heartbeats/token"}


def test_no_kills_are_an_error():
    with pytest.raises(ValueError, match="kills is 0; expected 1 or more"):
        campaign.crashtest(0)
