"""``python -m lpc report FILE``: kinds of files, guessed names, errors before torch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import lpc
from lpc.computing.stopping import ends_with_its_reader
from lpc.reporting.command import main
from lpc.reporting.files import chosen, numbered, read

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)
LABEL = np.arange(120) % 3
LATENT = np.eye(3, 4)[LABEL] + 0.2 * RNG.standard_normal((120, 4))
WEIGHT = np.eye(3, 4)


@pytest.fixture(scope="module")
def ratio():
    return lpc.report(LATENT, LABEL)["trace_ratio"]


def write(folder, kind):
    path = folder / f"features{kind}"
    if kind == ".npz":
        np.savez(path, latent=LATENT, label=LABEL, weight=WEIGHT)
    elif kind == ".safetensors":
        safetensors.numpy.save_file({"embeddings": LATENT, "Targets": LABEL, "W": WEIGHT}, path)
    else:
        table = pd.DataFrame(LATENT, columns=[f"node{i}" for i in range(4)]).assign(y=LABEL, name="image")
        table = table.join(pd.DataFrame(LATENT @ WEIGHT.T).add_prefix("logit_"))
        table.to_csv(path, index=False) if kind == ".csv" else table.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", [".npz", ".safetensors", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_table_and_a_page(tmp_path, capsys, ratio, kind):
    path = write(tmp_path, kind)
    assert (
        main(["report", str(path), "--json", str(tmp_path / "out.json"), "--csv", str(tmp_path / "out.csv")])
        == 0
    )
    said = capsys.readouterr().out
    assert said.startswith("arrays: latents = ") and "tr Sw / tr Sb" in said
    values = {one["key"]: one["value"] for one in json.loads((tmp_path / "out.json").read_text())["values"]}
    assert values["trace_ratio"] == pytest.approx(ratio, rel=1e-9)
    assert values["accuracy"] == np.mean((LATENT @ WEIGHT.T).argmax(axis=1) == LABEL)
    assert pd.read_csv(tmp_path / "out.csv")["key"].tolist()[0] == "accuracy"
    assert (tmp_path / f"features{kind}.report.html").read_text().startswith("<!doctype html>")


def test_test_sets_and_points_from_outside_are_taken(tmp_path, capsys):
    path = tmp_path / "all.npz"
    np.savez(
        path,
        train_latent=LATENT,
        train_label=LABEL,
        test_latent=LATENT[:60],
        test_label=LABEL[:60],
        ood=-LATENT,
    )
    assert main(["report", str(path), "--no-html"]) == 0
    said = capsys.readouterr().out
    assert "Collapse (test)" in said and "Out-of-distribution detection (outside)" in said
    assert list(tmp_path.iterdir()) == [path]


def test_names_are_guessed_where_there_is_one_choice_and_given_elsewhere():
    arrays = {"a": LATENT, "b": LABEL}
    assert chosen(arrays, {}) == {"latents": "a", "labels": "b"}
    two = {**arrays, "c": LATENT}
    with pytest.raises(ValueError, match=r"no latents: .* --latents NAME. It has a \(120, 4\) float64, b"):
        chosen(two, {})
    assert chosen(two, {"latents": "c"})["latents"] == "c"
    with pytest.raises(ValueError, match=r"the file has no labels: .* --labels NAME"):
        chosen({"latent": LATENT}, {})
    with pytest.raises(ValueError, match=r"unknown array for labels 'lable'\. Did you mean label"):
        chosen({"latent": LATENT, "label": LABEL}, {"labels": "lable"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npz", None, "does not exist"),
        ("features.mat", b"", r"ends in .mat; expected .npz, .* np.savez\('features.npz'"),
        ("bad.npz", b"no zip", "cannot be read as .npz: it is not an archive of arrays"),
        ("cut.npz", b"PK\x03\x04 and then nothing", "cannot be read as .npz"),
        ("bad.safetensors", b"nothing", "cannot be read as .safetensors"),
        ("bad.parquet", b"nothing", "cannot be read as .parquet"),
        ("empty.csv", b"", "is empty"),
        ("head.csv", b"a,label\n", "has column names but no rows"),
        ("words.csv", b"label,name\n1,a\n", "has no column of floats .* It has label, name"),
        ("numbers.csv", b"0.5,1\n0.6,0\n", "begins with numbers, 0.5"),
        ("semicolons.csv", b"a;label\n0.5;1\n", "has columns separated by ';'; expected commas"),
        ("text.csv", b"a,b,label\n1.0,2.5,0\n1.0,x,0\n2.0,1.5,1\n", "has 'x' in column 'b', row 2"),
        ("ragged.csv", b"a,label\n0.5,1\n0.5,1,2\n", "cannot be read as .csv: .* line 3"),
        ("binary.csv", b"\xff\xfe\x00", "cannot be read as .csv"),
        ("folder.npz", ..., "is no file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    if content is ...:
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_other_forms_of_arrays_are_named_or_taken(tmp_path):
    np.save(tmp_path / "one.npy", LATENT)
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"cannot be read as \.npz"):
        read(tmp_path / "one.npz")
    safetensors.torch.save_file({"z": torch.ones(3, 2).bfloat16()}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="'z' has a dtype that numpy lacks"):
        read(tmp_path / "half.safetensors")
    names = np.array(["a", None], dtype=object)
    np.savez(tmp_path / "objects.npz", features=LATENT, labels=LABEL, names=names)
    assert chosen(read(tmp_path / "objects.npz"), {}) == {"latents": "features", "labels": "labels"}
    pd.DataFrame({"embedding": list(LATENT), "label": LABEL}).to_parquet(tmp_path / "lists.parquet")
    assert np.array_equal(read(tmp_path / "lists.parquet")["embedding"], LATENT)


def test_columns_of_a_table_can_be_named_and_what_is_not_used_is_said(tmp_path, capsys, ratio):
    table = pd.DataFrame(LATENT).add_prefix("f")
    species = np.array(["cat", "dog", "emu"])[LABEL]
    whole = table.assign(count=np.arange(120), file="image", kind=LABEL.astype(float), species=species)
    whole.to_csv(tmp_path / "all.csv", index=False)
    for label in ("species", "kind"):
        command = ["report", str(tmp_path / "all.csv"), "--labels", label, "--latents", "f0"]
        assert main([*command, "--no-html"]) == 0
        said = capsys.readouterr().out
        assert "latents = f0 (120, 1)" in said and f"labels = {label} (120,)" in said
        assert "not used: " in said and "count" in said and "file" in said
        assert ("labels are text: 0 = cat, 1 = dog, 2 = emu" in said) == (label == "species")
        assert f"{lpc.report(LATENT[:, :1], LABEL)['trace_ratio']:.4g}" in said


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.where(LABEL == 1, np.nan, LABEL)}, "labels hold nan at index 1; expected integers"),
        ({"labels": np.array(["a", "nan"])[LABEL % 2]}, "labels lack 40 values, the first at index 1"),
        (
            {"labels": np.array(["a", "b", "c"])[LABEL], "logits": LATENT},
            "whose order of classes is unknown",
        ),
        (
            {"labels": np.array(["a", "b", "c"])[LABEL], "test_labels": np.array(["a", "d"])[LABEL % 2]},
            "test_labels hold 'd', which labels do not",
        ),
    ],
)
def test_labels_that_cannot_be_numbered_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        numbered(dict(arrays))


def test_labels_are_told_from_names_of_points_and_a_bias_needs_its_weight():
    with pytest.raises(ValueError, match="the file has no labels"):
        chosen({"features": LATENT, "ids": np.arange(120)}, {})
    with pytest.raises(ValueError, match="--bias was given without a weight"):
        chosen({"z": LATENT, "y": LABEL, "b": LATENT[:, 0]}, {"bias": "b"})
    assert "bias" not in chosen({"z": LATENT, "y": LABEL, "b": LATENT[:3, 0]}, {})


def test_help_and_errors_of_files_load_no_torch_and_say_one_line(tmp_path):
    np.savez(tmp_path / "unlabelled.npz", latent=LATENT)
    asked = "import sys; from lpc.reporting.command import main\n"
    asked += "try: code = main({!r})\nexcept SystemExit as error: code = error.code\n"
    asked += "print(code, [m for m in ('torch', 'pandas', 'scipy', 'matplotlib') if m in sys.modules])"
    for arguments, status in (
        (["--help"], 0),
        (["report", "--help"], 0),
        (["report", "no.npz"], 1),
        (["report", str(tmp_path / "unlabelled.npz")], 1),
        (["reprot"], 2),
    ):
        command = [sys.executable, "-c", asked.format(arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"{status} []", done.stderr
        assert "Traceback" not in done.stderr
        if status == 1:
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = subprocess.run(
        [sys.executable, "-m", "lpc", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "python -m lpc" in done.stdout and "report" in done.stdout


@pytest.mark.parametrize("command", [("lpc", "report"), ("experiments", "--help")])
def test_a_program_whose_output_nobody_reads_ends_quietly(tmp_path, command):
    np.savez(path := tmp_path / "features.npz", latent=LATENT, label=LABEL)
    more = [str(path), "--no-html"] if "report" in command else []
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-m", *command, *more], cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True
    )
    os.close(write_end)
    assert done.returncode == 141
    assert "Broken" not in done.stderr and "Traceback" not in done.stderr


def test_the_broken_pipe_of_a_worker_is_an_error_as_any_other():
    with pytest.raises(BrokenPipeError), ends_with_its_reader():
        raise BrokenPipeError("of a worker")
