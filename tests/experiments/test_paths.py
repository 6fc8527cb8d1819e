import pytest

from experiments import paths

MADE = ("GPU_CHECKS", "BUILD", "EPOCH_TIMES")


def test_what_is_kept_is_there():
    kept = {name: path for name, path in vars(paths).items() if name.isupper() and name not in MADE}
    assert len(kept) > 10
    assert [name for name, path in kept.items() if not path.exists()] == []


def test_toml_is_read_as_utf8_and_what_is_none_is_named(tmp_path):
    path = tmp_path / "some.toml"
    path.write_bytes('word = "naïve"\n'.encode())
    assert paths.read_toml(path) == {"word": "naïve"}
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte-order mark
    assert paths.read_toml(path) == {"word": "naïve"}
    for content in (b"word = \n", 'word = "naïve"'.encode("latin-1")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"some\.toml is not TOML: "):
            paths.read_toml(path)
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        paths.read_toml(tmp_path / "none.toml")
