import json

import numpy as np
import pytest
import torch
from torch import nn

from experiments.probes import corruptions, images
from experiments.reporting.image_statistics import of_images
from lpc.data import ImageSet, Splits
from lpc.heads import BottleneckHead, Classifier
from lpc.runs.measurements import table2_metrics


def image_set(generator, count, classes=3):
    """Return 8 x 8 images of random grey values, brighter in the row of their class."""
    label = torch.arange(count) % classes
    pixels = torch.randint(120, (count, 1, 8, 8), generator=generator)
    pixels[torch.arange(count), 0, label] += 30
    return ImageSet(pixels.to(torch.uint8), label, classes, (0.3,), (0.25,))


def test_the_books_numbers_are_statistics_of_single_images():
    generator = torch.Generator().manual_seed(0)
    splits = Splits(*(image_set(generator, count) for count in (90, 12, 120)))
    torch.manual_seed(0)
    model = Classifier(nn.Flatten(), BottleneckHead(64, 3, latent_width=4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(6):  # until each class has points that are decided rightly, and some are not
        optimizer.zero_grad()
        some = splits.train.normalised(slice(None))
        nn.functional.cross_entropy(model(some).logits, splits.train.label).backward()
        optimizer.step()
    model.eval()
    found = images.probe(model, splits)
    json.dumps(found.values, allow_nan=False)
    assert found.values == {"total": 120, "missing": {}} and found.table is not None
    assert len(found.table) == 120 and int(found.table["deepfool"].notna().sum()) == 100
    whole = {f"test_{name}": value for name, value in table2_metrics(model, splits).as_dict().items()}
    whole["corruptions_mean"] = corruptions.probe(model, splits).values["mean"]
    once = np.ones((1, 120), dtype=int)
    for metric in (
        *("test_accuracy", "test_auroc_mahalanobis_shrunk", "test_auroc_odin", "test_trace_ratio"),
        *("test_deepfool_relative_norm", "test_deepfool_median", "corruptions_mean"),
    ):
        kind = of_images(metric)
        assert kind is not None and kind.probe == "images"
        assert kind.statistic(once, found.table)[0] == pytest.approx(whole[metric], rel=1e-9), metric
