"""Damage from outside, verb by verb: each gives the result of a whole store, or one line that names the file.

Every kind of file in a store is damaged in every way, and every verb is called. There are many cases, so only
a sample is run unless the environment variable LPC_EVERY_DAMAGE is set.
"""

import hashlib
import os
import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from support.damage import WAYS

from experiments.__main__ import main
from experiments.cluster import submissions
from experiments.studies import ablation, recorded
from experiments.studies.probing import PROBES
from experiments.studies.profiles import PROFILES
from lpc.computing.stopping import Stopped
from lpc.data import load_images
from lpc.runs import execute, execution, measure
from lpc.runs.training_loop import Plan, train_plans
from lpc.specs import run_key
from lpc.store import Probe, RunStore, holders

PROBE = "corruptions"
SAMPLE = 40
"""Damaged stores of a sample."""
WHOLE, HALF = ("--profile", "ended"), ("--profile", "under-way")
VERBS = {
    "status": ("status", *WHOLE),
    "status of a run under way": ("status", *HALF),
    "export of runs": ("export", *WHOLE, "--output", "OUT/runs.csv"),
    "export of epochs": ("export", *WHOLE, "--selected", "--epochs", "--output", "OUT/epochs.csv"),
    "record": ("record", *WHOLE),
    "submit": ("submit", *HALF, "--cluster", "local", "--dry-run"),
    "stress": ("stress", *WHOLE, "--probes", PROBE, "--workers", "1"),
    "doctor": ("doctor", "--deep"),
    "train": ("train", *WHOLE, "--workers", "1"),
    "train a run under way": ("train", *HALF, "--workers", "1"),
}
OF_A_RUN = ("spec.json", "result.json", "test.json", "provenance.json", "history.jsonl")
KINDS = (
    *OF_A_RUN,
    *("checkpoint.safetensors", f"{PROBE}.probe", f"{PROBE}.csv"),
    *("spec of a run under way", "owner", "members", "state", "progress", "heartbeat"),
    *("listing", "submission"),
)
BY_DESIGN = {
    ("result.json", "gone"): {"status", "export of runs", "export of epochs", "record", "stress"},
    ("test.json", "gone"): {"export of runs", "record"},
    (f"{PROBE}.probe", "gone"): {"export of runs", "record", "stress"},
    ("spec of a run under way", "gone"): {"status of a run under way"},
    ("members", "gone"): {"status of a run under way"},
}
"""What a file that is not there changes, verb by verb: it is as if that had not been written yet."""
MEASURES_AGAIN = {(f"{PROBE}.probe", "gone", "stress")}
"""Cases that are left out: they do what the verb is there for, and take long."""


@pytest.fixture(scope="module")
def small():
    """Two profiles: one with two runs, of which one is selected, and one with a single run."""
    with pytest.MonkeyPatch.context() as patch:
        one = replace(PROFILES["smoke"], seeds=(0,), architectures=("IB",))
        other = replace(one, architectures=("NoPen",), learning_rates=one.learning_rates[:1])
        for name, profile in (("ended", one), ("under-way", other)):
            patch.setitem(PROFILES, name, replace(profile, name=name))
        yield


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """Return the files, by kind, of a store with two finished runs and one whose program has died."""
    root = tmp_path_factory.mktemp("damage") / "store"
    store, ended, (half,) = RunStore(root), ablation.declared("ended"), ablation.declared("under-way")
    for spec in ended:
        execute(spec, store)
    chosen = ablation.existing("ended", store=root).tested[0]
    measure(chosen, store)
    table = pd.DataFrame({"corruption": ["noise", "blur"], "accuracy": [0.5, 0.25]})
    store.save_probe(chosen, PROBE, Probe({"mean": 0.375}, table), version=PROBES[PROBE].version)
    plan = Plan(RunStore.cohort([half]), [half])
    images = load_images(half.data, device="cpu")
    with pytest.raises(Stopped):
        train_plans([plan], store, images, lambda _: None, lambda: True, workers=1)
    files = {name: f"runs/{run_key(chosen)}/{name}" for name in OF_A_RUN}
    files |= {name: f"runs/{run_key(chosen)}/{name}" for name in KINDS[len(OF_A_RUN) :][:3]}
    files["spec of a run under way"] = f"runs/{run_key(half)}/spec.json"
    files["owner"] = f"runs/{run_key(half)}/owner-1.json"
    files |= {name: f"cohorts/{plan.cohort}/{name}.json" for name in ("members", "progress")}
    files |= {"state": f"cohorts/{plan.cohort}/state.pt", "heartbeat": "heartbeats/token"}
    _let_it_have_died(root / files["owner"], root / files["heartbeat"], run_key(half))
    submission = submissions.begin(submissions.Request(profile="ended", store=str(root)))
    submission.write()
    files["submission"] = f"submissions/{submission.id}.json"
    store.frame()
    files["listing"] = next(path.name for path in root.glob("listing-*.json"))
    assert set(files) == set(KINDS) and all((root / name).is_file() for name in files.values())
    return root, files


def _let_it_have_died(owner, heartbeat, key):
    """Make an owner file name a process of this machine that no longer exists."""
    text = re.sub(r'"ended": "stopped"', '"ended": null', owner.read_text())
    text = re.sub(r'"token": "\w+"', '"token": "token"', re.sub(r'"pid": \d+', '"pid": 4194999', text))
    owner.write_text(text)
    kept = re.sub(r',\n "token": "token",\n "ended": null', f',\n "keys": ["{key}"]', text)
    assert kept != text
    heartbeat.write_text(kept)


class Store:
    """A copy of the store in which one file is damaged, and the verbs on it."""

    def __init__(self, whole, folder, patch, capsys):
        root, self.files = whole
        self.root, self.out, self.capsys = folder / "store", folder / "out", capsys
        shutil.copytree(root, self.root)
        self.out.mkdir()
        patch.setattr(recorded, "RESULTS", self.out)
        for module, name, seconds in (
            (holders, "LEASE", 0.3),
            (holders, "HEARTBEAT", 0.02),
            (execution, "POLL", 0.02),
        ):
            patch.setattr(module, name, seconds)

    def call(self, verb):
        """Call a verb; return its exit status, what it printed, and the files that it wrote."""
        given = [word.replace("OUT", str(self.out)) for word in VERBS[verb]]
        with pytest.raises(SystemExit) as caught:
            main([*given, "--store", str(self.root)])
        printed = self.capsys.readouterr()
        if caught.value.code:
            return caught.value.code, printed.out if verb == "doctor" else printed.err, {}
        written = {path.name: path.read_text() for path in sorted(self.out.rglob("*.csv"))}
        shutil.rmtree(self.out)
        self.out.mkdir()
        text = printed.out.replace(str(self.root), "STORE").replace(os.path.relpath(self.root), "STORE")
        for out in (str(self.out), os.path.relpath(self.out)):
            text = text.replace(out, "OUT")
        return 0, text, written | self.trained(verb)

    def trained(self, verb):
        """Return the digests of what training must repeat to the bit; empty after any other verb."""
        if not verb.startswith("train"):
            return {}
        names = ("checkpoint.safetensors", "history.jsonl")
        return {
            f"{key}/{name}": hashlib.sha256((self.root / "runs" / key / name).read_bytes()).hexdigest()
            for key in map(run_key, ablation.declared(VERBS[verb][2]))
            for name in names
        }


def cases():
    """Return kinds and ways of damage: all of them, or a sample that has every kind and every way."""
    if os.environ.get("LPC_EVERY_DAMAGE"):
        return [(kind, way) for kind in KINDS for way in WAYS]
    turns = -(-SAMPLE // len(KINDS))
    places = [(place, turn) for turn in range(turns) for place in range(len(KINDS))]
    return [(KINDS[place], list(WAYS)[(place + 4 * turn) % len(WAYS)]) for place, turn in places][:SAMPLE]


@pytest.fixture
def said(whole, tmp_path_factory, monkeypatch, capsys):
    """Return what every verb prints and writes for the whole store; called once."""
    if not SAID:
        store = Store(whole, tmp_path_factory.mktemp("whole"), monkeypatch, capsys)
        SAID.update({verb: store.call(verb) for verb in VERBS})
        assert all(status == 0 for status, *_ in SAID.values()), SAID
    return SAID


SAID: dict[str, tuple] = {}


@pytest.mark.filterwarnings("ignore:.* has no checksum, as earlier versions wrote none:UserWarning")
@pytest.mark.parametrize(("kind", "way"), cases())
def test_a_verb_ends_as_if_nothing_were_damaged_or_names_the_file(
    whole, said, tmp_path, monkeypatch, capsys, kind, way
):
    store = Store(whole, tmp_path, monkeypatch, capsys)
    path, content = store.root / store.files[kind], (whole[0] / store.files[kind]).read_bytes()
    wrong: dict[str, str] = {}
    for verb in VERBS:
        if not path.exists():
            path.write_bytes(content)
        if path.is_file():
            WAYS[way](path, content)
        if (kind, way, verb) not in MEASURES_AGAIN:
            made, expected = (beside(one, path) for one in (store.call(verb), said[verb]))
            found = (seen if verb == "doctor" else verdict)(made, expected, path)
            designed = {"doctor"} if way == "gone" else set()
            wrong |= (
                {verb: found} if found and verb not in designed | BY_DESIGN.get((kind, way), set()) else {}
            )
    assert not wrong


def verdict(found, expected, path):
    """Return what is wrong with a verb's result on a damaged store, or None."""
    status, printed, written = found
    if not status:
        return None if (printed, written) == expected[1:] else f"passed over: {printed}"
    lines = [line for line in printed.splitlines() if line and "%|" not in line]  # no progress bars
    named = status == 1 and len(lines) == 1 and lines[0].startswith("error: ") and str(path) in lines[0]
    return None if named else f"status {status}: {printed}"


def beside(found, path):
    """Return what a verb made, without the digest of the damaged file, which it did not touch."""
    status, printed, written = found
    own = f"{path.parent.name}/{path.name}"
    return status, printed, {name: digest for name, digest in written.items() if name != own}


def seen(found, expected, path):
    """Return what is wrong with the doctor's report on a damaged store, or None."""
    status, printed, _ = found
    if not status:
        return None if printed == expected[1] else f"passed over: {printed}"
    named = status == 1 and [line for line in printed.splitlines() if line.strip().startswith(str(path))]
    return None if named else f"status {status}: {printed}"


def test_the_sample_has_every_kind_and_every_way_and_all_cases_are_many():
    assert {kind for kind, _ in cases()} == set(KINDS) and {way for _, way in cases()} == set(WAYS)
    assert len(KINDS) * len(WAYS) * len(VERBS) >= 792


def test_a_verb_that_passes_damage_over_is_found_out(whole, said, tmp_path, monkeypatch, capsys):
    store = Store(whole, tmp_path, monkeypatch, capsys)
    shutil.rmtree(
        (store.root / store.files["result.json"]).parent
    )  # which nothing can tell from a run not begun
    verb, path = "status", store.root / store.files["result.json"]
    assert "passed over" in str(verdict(store.call(verb), said[verb], path))
    assert verdict((1, f"error: {path} is gone\n", {}), said[verb], path) is None
    for text in (f"{path}\n", f"error: it is gone\nerror: {path}\n", "error: it is gone\n"):
        assert "status 1" in str(verdict((1, text, {}), said[verb], path))
