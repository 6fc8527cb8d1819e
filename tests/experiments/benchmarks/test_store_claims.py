import io
import os
import threading
import time

import pytest
import torch
from tqdm import tqdm

from experiments.benchmarks import store_claims, store_records
from experiments.benchmarks.store_claims import TRAINING, claim, unfinished
from experiments.benchmarks.store_scale import LOOK, READ, write_runs
from experiments.benchmarks.virtual_server import Server
from experiments.reporting.recorded_tables import recorded
from lpc.runs import packing
from lpc.specs import run_key
from lpc.store import Lease, RunStore
from lpc.store.listing import TOGETHER


def looking(path, times):
    return lambda: [os.stat(path) for _ in range(times)]  # noqa: PTH116


def test_a_program_waits_for_the_server_and_for_the_network(tmp_path):
    server = Server(tmp_path, network=3.0, service=0.5, places=1)
    assert server.run([looking(tmp_path, 10)]) == [35.0]
    assert server.requests == {"stat": 10} and server.waited == 0.0


def test_programs_queue_for_the_places_of_the_server(tmp_path):
    server = Server(tmp_path, network=0.0, service=0.5, places=1)
    assert max(server.run([looking(tmp_path, 10)] * 4)) == 20.0
    assert server.waited == pytest.approx(
        0.5 + 1.0 + 37 * 1.5
    )  # from then on each waits for the three others
    roomy = Server(tmp_path, network=0.0, service=0.5, places=4)
    assert roomy.run([looking(tmp_path, 10)] * 4) == [5.0] * 4 and roomy.waited == 0.0


def test_who_is_behind_goes_first_and_time_is_virtual(tmp_path):
    server, order, began = Server(tmp_path, network=0.0, service=1.0, places=9), [], time.monotonic()

    def program(name, pause):
        def work():
            for _ in range(3):
                time.sleep(pause)
                order.append((time.monotonic(), name))

        return work

    assert server.run([program("slow", 500.0), program("quick", 200.0)]) == [1500.0, 600.0]
    assert order == [
        (200.0, "quick"),
        (400.0, "quick"),
        (500.0, "slow"),
        (600.0, "quick"),
        (1000.0, "slow"),
        (1500.0, "slow"),
    ]
    assert time.monotonic() - began < 500.0


def test_only_files_on_the_server_take_time_and_nothing_stays_replaced(tmp_path):
    usual = os.stat, io.open, time.sleep, time.monotonic, os.replace
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()

    def work():
        (outside / "a").write_text("a")
        (inside / "a").write_text("a")
        (inside / "a").replace(inside / "b")
        assert (inside / "b").read_text() == "a"
        thread = threading.Thread(target=(inside / "b").read_text)
        thread.start()
        thread.join()

    server = Server(inside, network=1.0, service=0.0, places=1)
    assert server.run([work]) == [5.0]
    assert server.requests == {"open": 2, "write": 1, "replace": 1, "read": 1}
    assert usual == (os.stat, io.open, time.sleep, time.monotonic, os.replace)


def test_requests_of_a_pool_cross_the_network_together(tmp_path):
    server = Server(tmp_path, network=8.0, service=0.5, places=1)

    def work():
        with server.pool(4) as pool:
            list(pool.map(os.stat, [tmp_path] * 16))
        os.stat(tmp_path)  # noqa: PTH116

    assert server.run([work]) == [16 * (0.5 + 8.0 / 4) + 8.5]


def test_an_error_of_a_program_is_raised_and_a_server_without_places_is_one(tmp_path):
    def wrong():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        Server(tmp_path, network=0.0, service=0.0, places=1).run([wrong, looking(tmp_path, 1)])
    with pytest.raises(ValueError, match=r"places are 0\.0, 0\.0 and 0"):
        Server(tmp_path, network=0.0, service=0.0, places=0)


def test_programs_share_the_runs_and_none_is_trained_twice(tmp_path):
    wanted = unfinished(8)
    found = claim(tmp_path.resolve(), wanted, 4)
    assert found.twice == 0 and not RunStore(tmp_path).unfinished(wanted)
    assert found.ideal == 2 * TRAINING <= found.seconds < 2 * TRAINING + 60
    assert found.begun < 10 < TRAINING, "four are at work soon after the beginning"
    assert 50 * 8 < found.requests.total() < 1000 * 8
    row = found.row
    assert row["trained"] == "8" and row["trained twice"] == "0"
    assert float(row["of the ideal (%)"]) > 95
    assert not list((tmp_path / "heartbeats").iterdir()) and not list((tmp_path / "cohorts").iterdir())


def test_without_leases_runs_are_trained_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(Lease, "_look", lambda *_: None)
    monkeypatch.setattr(Lease, "_gain", lambda self, key: self._root / "runs" / key / "owner-1.json")
    assert claim(tmp_path.resolve(), unfinished(4), 2).twice > 0


def test_a_slower_server_keeps_programs_waiting_longer(tmp_path):
    wanted = unfinished(4)
    first = claim(tmp_path.resolve(), wanted[:2], 2)
    second = claim(tmp_path.resolve(), wanted[2:], 2, slower=10.0)
    assert 5 * first.begun < second.begun < 20 * first.begun


def test_no_programs_or_no_runs_are_an_error(tmp_path):
    for wanted, programs in (([], 1), (unfinished(1), 0)):
        with pytest.raises(ValueError, match="expected 1 or more of each"):
            claim(tmp_path, wanted, programs)


def test_a_recorded_measurement_is_read_back_with_what_it_was_measured_on(tmp_path, monkeypatch):
    monkeypatch.setattr(store_claims, "TRAINING", 60.0)
    store_records.measure((40,), ((1, 1.0), (2, 2.0)), folder=tmp_path, results=tmp_path / "results")
    claims = recorded(store_records.CLAIMS, results=tmp_path / "results")
    assert claims.table.index.tolist() == ["1", "2"] and claims.table["trained"].tolist() == ["5", "10"]
    assert claims.table["runs finished before"].tolist() == ["40", "45"]
    assert claims.about["date"] in claims.origin and "cores" in claims.about["machine"]
    asked = recorded(store_records.ASKING, results=tmp_path / "results").table
    assert len(asked) == 4 and (asked["processor (s)"].astype(float) < 60).all()
    again = asked.loc["40 runs: which are missing, again"].astype(float)
    assert again["requests per run"] == 1
    waiting = again["network, one by one (s)"] - again["processor (s)"]
    assert waiting == pytest.approx(40 * LOOK, abs=0.06)  # both are rounded
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_which_of_many_runs_are_missing_is_asked_together(tmp_path):
    write_runs(tmp_path, 3 * TOGETHER)
    store, more = RunStore(tmp_path), unfinished(2)
    done = [store.spec(str(key)) for key in store.frame()["key"]]
    wanted = [more[0], *done, more[1]]
    assert store.unfinished(wanted) == more == [spec for spec in wanted if not store.finished(spec)]
    assert store.unfinished([]) == []
    (store.directory(run_key(done[50])) / "spec.json").unlink()
    with pytest.raises(ValueError, match=rf"{run_key(done[50])}/spec.json does not exist"):
        RunStore(tmp_path).unfinished(wanted)
    assert READ > LOOK > 0


def test_programs_that_began_together_do_not_ask_for_the_same_runs_in_the_same_order(monkeypatch, tmp_path):
    asked, refused = [], {0}

    def train_plans(plans, *_, **__):
        (plan,) = plans
        asked.append(plan.specs[0].seed)
        if len(asked) - 1 in refused:
            raise packing.Held("another program has it")

    monkeypatch.setattr(packing, "train_plans", train_plans)
    monkeypatch.setattr(packing, "load_images", lambda *_, **__: None)
    bar, cpu = tqdm(disable=True), torch.device("cpu")
    planned = packing.plan(unfinished(40), RunStore(tmp_path))
    usual = [plan.specs[0].seed for plan in planned]
    for some in ({0}, {5}, set()):
        asked.clear()
        refused = some
        assert packing.in_turn(planned, RunStore(tmp_path), cpu, 1, lambda: False, bar) == []
        first = min(some, default=len(usual)) + 1
        assert asked[:first] == usual[:first] and sorted(asked) == sorted(usual)
        assert (asked != usual) == bool(some)
