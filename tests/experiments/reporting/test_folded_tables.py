"""Wide tables: what is shown unfolded, what is folded, and that nothing is lost."""

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter

from experiments.publishing.checking.cell_html import Html
from experiments.reporting.csv_tables import MIME
from experiments.reporting.folded_tables import FoldedTable, first_columns
from experiments.reporting.tables import REPORTED, printed, show


def wide(*groups):
    columns = pd.MultiIndex.from_tuples([(name, f"<{name[:1]}> {k}") for name, n in groups for k in range(n)])
    return pd.DataFrame([["1"] * len(columns)], index=pd.Index(["IB"], name="architecture"), columns=columns)


@pytest.mark.parametrize(
    ("groups", "shown"),
    [
        ([("laptop", 3), (REPORTED, 3)], [0, 1, 2, 3, 4, 5]),
        ([("laptop", 4), (REPORTED, 3)], [0, 1, 2, 3, 4, 5, 6]),
        ([("laptop", 4), ("fashion", 2), (REPORTED, 3)], [0, 1, 4, 5, 6, 7, 8]),
        ([("laptop", 1), ("fashion", 9)], [0, 1, 2, 3, 4, 5, 6]),
        ([(REPORTED, 9), ("laptop", 2)], [*range(10)]),
    ],
)
def test_ours_and_the_papers_are_shown_and_the_rest_is_folded(groups, shown):
    assert first_columns(wide(*groups)) == shown


def test_a_plain_table_keeps_its_first_columns_and_labels_count():
    table = pd.DataFrame({f"c{k}": ["1"] for k in range(9)})
    assert first_columns(table) == [0, 1, 2, 3, 4, 5, 6]
    assert first_columns(table.set_index(["c0", "c1"])) == [0, 1, 2, 3, 4, 5]
    assert first_columns(table.iloc[:, :7]) == [0, 1, 2, 3, 4, 5, 6]


def test_every_column_is_in_one_of_two_tables_and_all_are_in_the_csv():
    table = wide(("laptop", 6), (REPORTED, 3))
    made = show(table, "A caption.")
    assert isinstance(made, FoldedTable)
    data, metadata = DisplayFormatter().format(made)
    html = Html(data["text/html"])
    assert html.captions == ["A caption.", "The same rows: <l> 4, <l> 5."]
    heads = [cell for rows in html.rows for cell in rows[1] if cell]
    assert sorted(heads) == sorted(
        ["architecture", "architecture", *(str(name) for _, name in table.columns)]
    )
    assert data["text/html"].count("<details") == 1 and "2 more columns: &lt;l&gt; 4" in data["text/html"]
    assert metadata[MIME] == {"caption": "A caption."} and data[MIME].count("laptop") == 6
    assert not isinstance(show(table.iloc[:, :5], "A caption."), FoldedTable)


def test_the_name_of_the_row_labels_stands_beside_the_headings_and_in_the_csv():
    table = pd.DataFrame({"a": ["1"], "b": ["2"]}, index=pd.Index(["IB"], name="network"))
    two = wide(("ours", 2)).droplevel(0, axis="columns").set_index(pd.MultiIndex.from_tuples([("IB", "8")]))
    two.index.names = ["network", "nodes"]
    pivoted = table.rename_axis(columns="seed")
    lines = {"one": table, "groups": wide(("ours", 2)), "two": two, "pivoted": pivoted}
    for name, heads in {"one": 1, "groups": 2, "two": 2, "pivoted": 2}.items():
        data, _ = DisplayFormatter().format(show(lines[name], "A caption."))
        head = data["text/html"].partition("</thead>")[0]
        assert head.count("<tr>") == heads, name
        assert all(head.count(f">{one}<") == 1 for one in lines[name].index.names), name
        labels = data[MIME].partition("\n")[0].split(",")
        assert labels[: lines[name].index.nlevels] == lines[name].index.names, name
    assert list(table.index.names) == ["network"] and table.columns.name is None, "the caller's stays"


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (91.53, 0.126, "91.53 ± 0.126"),
        (7.707e-11, 1.862e-11, "7.71e-11 ± 1.9e-11"),
        (0.003, 7.792, "0.003 ± 7.792"),
    ],
)
def test_values_of_the_paper_are_as_printed_but_for_very_small_ones(mean, sd, text):
    assert printed(mean, sd) == text
