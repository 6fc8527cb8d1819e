"""Training as it is usually written (transforms, a DataLoader, a loop), which the chapter on cost times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lpc.classifiers import build_classifier
from lpc.data import ImageSet
from lpc.losses import squared_norm
from lpc.schedules import gamma, learning_rate
from lpc.specs import DataSpec, RunSpec

if TYPE_CHECKING:
    from torchvision import transforms


class AddNoise(nn.Module):
    """Add Gaussian noise to a tensor, which torchvision's classic transforms cannot.

    Parameters
    ----------
    sd
        Standard deviation of the noise.
    """

    def __init__(self, sd: float) -> None:
        super().__init__()
        self.sd = sd

    def forward(self, image: Tensor) -> Tensor:
        """Return the image with noise."""
        return image + self.sd * torch.randn_like(image)


def transform(spec: DataSpec, images: ImageSet) -> transforms.Compose:
    """Return the transform that turns a PIL training image into a normalised tensor.

    Parameters
    ----------
    spec
        Spec with the augmentation.
    images
        Images that give the size, pixel mean and pixel sd.
    """
    from torchvision import transforms  # seconds, which a page that names a constant of ours need not wait

    steps: list[nn.Module | transforms.ToTensor] = []
    if spec.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if spec.crop_padding:
        steps.append(transforms.RandomCrop(images.size, padding=spec.crop_padding))
    steps += [transforms.ToTensor(), transforms.Normalize(images.mean, images.sd)]
    if spec.noise:
        steps.append(AddNoise(spec.noise))
    return transforms.Compose(steps)


class PlainImages(Dataset):
    """Images one by one, as torchvision's data sets give them: each array becomes a PIL image, then a tensor.

    Parameters
    ----------
    images
        Images as uint8, on any device.
    transform
        Function from a PIL image to a tensor.
    """

    def __init__(self, images: ImageSet, transform: transforms.Compose) -> None:
        pixels = images.images.permute(0, 2, 3, 1).cpu().numpy()
        self.pixels = np.ascontiguousarray(pixels[..., 0] if images.channels == 1 else pixels)
        self.label = images.label.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an augmented image (channel, row, column) and its label."""
        image: Tensor = self.transform(Image.fromarray(self.pixels[index]))  # type: ignore[assignment]
        return image, self.label[index]


class PlainTraining:
    """A run in float32 in a plain loop, with the same model, objective and schedules as in ``lpc.training``.

    Parameters
    ----------
    spec
        Spec of the run; its precision is ignored.
    images
        Train set.
    device
        Device of the model.
    workers
        Number of the DataLoader's processes; 0: none.
    order
        Indices of an epoch, iterated again in every epoch; None: shuffled.
    channels_last
        Whether the model and its batches are in channels-last memory, which a plain loop can use, too.
    """

    def __init__(
        self,
        spec: RunSpec,
        images: ImageSet,
        *,
        device: torch.device | str = "cpu",
        workers: int = 0,
        order: Iterable[int] | None = None,
        channels_last: bool = False,
    ) -> None:
        self.spec, self.device, self.epoch = spec, torch.device(device), 0
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.loader = DataLoader(
            PlainImages(images, transform(spec.data, images)),
            batch_size=spec.train.batch_size,
            shuffle=None if order is not None else True,
            sampler=order,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            drop_last=False,
        )
        model = build_classifier(
            spec.model, channels=images.channels, size=images.size, classes=images.classes, seed=spec.seed
        )
        self.model = model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        last = list(self.model.head.classifier.parameters())
        rest = [value for name, value in self.model.named_parameters() if "head.classifier." not in name]
        self.optimizer = torch.optim.AdamW(
            [{"params": rest}, {"params": last}],  # only the first group's rate decays
            lr=spec.train.learning_rate,
            weight_decay=spec.train.weight_decay,
        )

    def train_epoch(self) -> float:
        """Train one epoch and return its mean loss, including the penalty."""
        total = 0.0
        self.begin_epoch()
        for images, label in self.loader:
            total += self.step(images, label) * len(label)
        self.epoch += 1
        return total / len(self.loader.dataset)  # type: ignore[arg-type]

    def begin_epoch(self) -> None:
        """Set the mode of the model, the learning rate and gamma for the coming epoch."""
        self.model.train()
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.epoch, self.spec.train)
        self.gamma = gamma(self.epoch, self.spec.train)

    def step(self, images: Tensor, label: Tensor) -> float:
        """Take one step on a batch (points, channel, row, column) and return its loss."""
        train = self.spec.train
        images = images.to(self.device, non_blocking=True, memory_format=self.layout)
        label = label.to(self.device, non_blocking=True)
        self.optimizer.zero_grad()
        output = self.model(images)
        loss = cross_entropy(output.logits, label)
        if train.penalty == "squared_norm":
            loss = loss + self.gamma * squared_norm(output.latent, reduction=train.penalty_reduction)
        elif train.penalty == "weight_l1":
            loss = loss + train.l1 * self.model.head.penultimate.weight.abs().sum()  # type: ignore[union-attr]
        loss.backward()
        self.optimizer.step()
        return loss.item()


def worker_counts(cores: int) -> list[int]:
    """Return the numbers of DataLoader workers to try: 0, 1, 2, 4, ... up to the number of cores."""
    return sorted({0, *(2**power for power in range(cores.bit_length())), cores})


def best_workers(
    spec: RunSpec,
    images: ImageSet,
    *,
    cores: int,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Return the number of DataLoader workers with which an epoch takes the least time, as measured.

    Parameters
    ----------
    spec, images, device
        Arguments of :class:`PlainTraining`.
    cores
        Largest number of workers to try.
    clock
        Function that returns seconds.

    Notes
    -----
    Each number is tried for three epochs: the first starts the workers and does not count, and the faster of
    the others does.
    """
    fastest = {}
    for workers in worker_counts(cores):
        plain = PlainTraining(spec, images, device=device, workers=workers)
        plain.train_epoch()
        seconds = []
        for _ in range(2):
            began = clock()
            plain.train_epoch()  # ends with .item(), which waits for the device
            seconds.append(clock() - began)
        fastest[workers] = min(seconds)
    return min(fastest, key=lambda workers: fastest[workers])
