"""Ways to damage a file of a store: functions of its path and its content."""

WAYS = {
    "gone": lambda path, _: path.unlink(),
    "empty": lambda path, _: path.write_bytes(b""),
    "half": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "short by ten": lambda path, whole: path.write_bytes(whole[:-10]),
    "object": lambda path, _: path.write_text("{}"),
    "list": lambda path, _: path.write_text("[]"),
    "null": lambda path, _: path.write_text("null"),
    "text": lambda path, _: path.write_text('"text"'),
    "noise": lambda path, _: path.write_bytes(bytes(range(256)) * 4),
    "flipped": lambda path, whole: path.write_bytes(
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "folder": lambda path, _: (path.unlink(), path.mkdir()),
}
