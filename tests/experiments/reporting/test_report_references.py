import json

from experiments.reporting.report_references import ARCHITECTURES, COLUMNS, TARGET, values, write


def test_the_librarys_copy_is_what_the_recorded_runs_say(tmp_path):
    recorded = json.loads(TARGET.read_text())
    assert recorded == values()
    assert set(recorded) == set(COLUMNS) and all(set(one) == set(ARCHITECTURES) for one in recorded.values())
    write(tmp_path / "book.json")
    assert (tmp_path / "book.json").read_bytes() == TARGET.read_bytes()
