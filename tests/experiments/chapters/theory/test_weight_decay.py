import math

import pandas as pd
import pytest

from experiments.chapters.theory.weight_decay import across, free_minimum, network_table, trained_free


def test_free_latents_end_at_the_laws_gap_below_extinction_and_at_zero_above():
    below, above = (free_minimum(gamma, weight_decay=0.02, classes=5) for gamma in (1.0, 7.0))
    assert below["gap"] == pytest.approx(below["gap_law"], rel=1e-3) and below["gap"] > 1
    assert above["gap_law"] == 0 and abs(above["gap"]) < 1e-6 and above["rms"] < 1e-3


def test_the_threshold_is_where_it_is_for_any_number_of_classes_nodes_and_decay():
    found = across(classes=(3, 6), widths=(2, 6), shares=(0.8, 1.25))
    below, above = (found[found["share"] == share] for share in (0.8, 1.25))
    assert (below["logits"] > 0.01).all() and (above["logits"] < 1e-3).all()
    wide = found[(found["width"] >= found["classes"] - 1) & (found["share"] == 0.8)]
    assert len(wide) >= 4
    for row in wide.itertuples():
        assert row.gap == pytest.approx(row.gap_law, rel=0.02)
    same = below[(below["classes"] == 6) & (below["width"] == 6)]
    assert same["weight_decay"].nunique() == 3 and same["product"].nunique() <= 3
    assert same["product"].tolist() == pytest.approx([0.8 / 12] * 3)
    assert same["gap"].max() == pytest.approx(same["gap"].min(), rel=0.02)


def test_coupled_decay_puts_free_latents_out_above_the_threshold_and_decoupled_does_not():
    found = trained_free(weight_decay=0.05, shares=(0.5, 3.0), classes=4, width=3, steps=1500)
    logits = found.set_index(["decay", "share"])["logits"]
    assert logits["coupled (Adam)", 3.0] < 0.05
    assert logits["coupled (Adam)", 0.5] > 0.5 and logits["decoupled (AdamW)", 3.0] > 0.5


def test_networks_are_shown_with_their_product_and_interval():
    rows = [
        {
            "architecture": f"{name}-0.005-2",
            "train.optimizer": optimizer,
            "train.weight_decay": 5e-3,
            "train.gamma_maximum": 20.0,
            "accuracy": accuracy + 0.01 * seed,
            "trace_ratio": 0.1,
            "rms": 1e-3,
        }
        for name, optimizer, accuracy in (("CoupledAdam", "adam", 0.1), ("AdamW", "adamw", 0.9))
        for seed in range(3)
    ]
    table = network_table(pd.DataFrame(rows))
    assert table.index.tolist() == [("coupled (Adam)", "0.005", "20"), ("decoupled (AdamW)", "0.005", "20")]
    assert table["γλ"].tolist() == ["0.100", "0.100"]
    assert table["γ over extinction's"].tolist() == ["2", "2"]
    assert table["n"].tolist() == ["3", "3"]
    half = 4.302653 * 0.01 / math.sqrt(3)  # Student's t with 2 degrees of freedom
    assert table["training accuracy"].iloc[0] == f"0.110 [{0.11 - half:.3g}, {0.11 + half:.3g}]"
