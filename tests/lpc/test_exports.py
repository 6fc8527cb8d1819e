"""Traced, compiled and exported classifiers give the same results, for other batch sizes, too."""

from pathlib import Path

import pytest
from support import warm

ROOT = Path(__file__).parents[2]
CODE = """
import torch, lpc
from onnx.reference import ReferenceEvaluator
from torch import nn

torch.manual_seed(0)
backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Flatten())
model = lpc.bottleneck_classifier(backbone, classes=3, latent_width=5, images=torch.rand(2, 1, 6, 6)).eval()
given, other = torch.rand(4, 1, 6, 6), torch.rand(7, 1, 6, 6)
expected = model(other)
batch = torch.export.Dim("batch", min=2)


def by_onnx(program):
    evaluator = ReferenceEvaluator(program.model_proto)
    (name,) = evaluator.input_names
    return lambda images: [torch.from_numpy(value) for value in evaluator.run(None, {name: images.numpy()})]


made = {
    "jit.trace": lambda: torch.jit.trace(model, (given,)),
    "torch.export": lambda: torch.export.export(model, (given,), dynamic_shapes=({0: batch},)).module(),
    "torch.compile": lambda: torch.compile(model, backend="eager", fullgraph=True),
    "torch.onnx": lambda: by_onnx(
        torch.onnx.export(model, (given,), dynamic_shapes=({0: batch},), verbose=False)
    ),
}
for name, make in made.items():
    latent, logits = make()(other)
    torch.testing.assert_close(latent, expected.latent)
    torch.testing.assert_close(logits, expected.logits)
    print(name)
"""


@pytest.mark.process
def test_they_give_what_they_gave():
    done = warm.run("-W", "ignore", "-c", CODE, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["jit.trace", "torch.export", "torch.compile", "torch.onnx"]
