"""The callback: it trains as by hand, logs, and leaves the module unchanged."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning")

from lpc.integrations.lightning import LatentPointCollapse  # noqa: E402

ROOT = Path(__file__).parents[3]
torch.manual_seed(0)
LABEL = torch.arange(48) % 3
POINTS = 3 * torch.eye(3, 5)[LABEL] + torch.randn(48, 5)


class Module(lightning.LightningModule):
    def __init__(self, *, dressed=False, manual=False):
        super().__init__()
        torch.manual_seed(1)
        self.net: Any = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
        self.dressed, self.automatic_optimization, self.seen = dressed, not manual, []

    def training_step(self, batch, index):
        loss = cross_entropy(self.net(batch[0]), batch[1])
        return {"loss": loss} if self.dressed else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_epoch_end(self):
        self.seen.append(dict(self.trainer.callback_metrics))


def fitted(module, callback, epochs=3):
    quiet = ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            callbacks=[callback],
            **dict.fromkeys(quiet, False),
        )
        trainer.fit(module, DataLoader(TensorDataset(POINTS, LABEL), 16))
    return trainer


@pytest.mark.parametrize("dressed", [False, True])
def test_it_trains_as_a_loop_with_the_penalty_does(dressed):
    module, by_hand = Module(dressed=dressed), Module()
    callback = LatentPointCollapse("net.1", schedule=lambda epoch: 0.1 * (epoch + 1))
    trainer = fitted(module, callback)
    optimizer = by_hand.configure_optimizers()
    for epoch in range(3):
        for part in torch.arange(48).split(16):
            latent = by_hand.net[0](POINTS[part])
            loss = cross_entropy(by_hand.net[1](latent), LABEL[part])
            loss = loss + 0.1 * (epoch + 1) * latent.square().sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, by_hand.state_dict()[name])
    assert callback.penalty is not None and [
        state.gamma for state in callback.penalty.history
    ] == pytest.approx([0.1, 0.2, 0.3])
    logged = {"lpc/gamma", "lpc/trace_ratio", "lpc/accuracy", "lpc/nearest_mean_accuracy", "lpc/gap"}
    assert logged <= set(trainer.callback_metrics)
    assert float(trainer.callback_metrics["lpc/gamma"]) == pytest.approx(0.3)
    assert "training_step" not in vars(module) and not module.net[1]._forward_hooks


def test_it_stops_where_the_readout_is_lost_and_refuses_what_it_cannot_do():
    class Losing(Module):
        def on_train_epoch_start(self):
            if self.current_epoch == 3:
                with torch.no_grad():
                    self.net[1].bias.copy_(torch.tensor([1e4, 0.0, 0.0]))

    module = Losing()
    trainer = fitted(
        module, LatentPointCollapse("net.1", schedule=lambda epoch: 0.1, when_lost="stop"), epochs=9
    )
    assert trainer.current_epoch == 4
    with pytest.raises(ValueError, match=r"unknown layer 'net\.7'"):
        fitted(Module(), LatentPointCollapse("net.7"))
    with pytest.raises(ValueError, match=r"with manual optimisation use lpc\.integrations"):
        fitted(Module(manual=True), LatentPointCollapse("net.1"))


def test_without_lightning_the_extra_is_named_and_the_library_does_not_load_it():
    code = (
        "import sys; sys.modules['lightning'] = None\n"
        "import lpc.integrations.loop\n"
        "try: import lpc.integrations.lightning\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "needs lightning" in done.stdout and "pip install '.[lightning]'" in done.stdout
