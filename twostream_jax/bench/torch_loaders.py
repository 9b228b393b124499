"""How PyTorch reads flow: as popular repositories write it, and well tuned. Needs the `bench` extra.

Both read JPEG files (`clips.jpeg_files`), the same samples as ours: where each begins, its crop and whether it is mirrored
are given to them, so that they draw nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from input_pipeline.workers import usable_cores
from twostream_jax.bench.samples import Sample

# What bryanyzhu/two-stream-pytorch normalises flow with, on a range of 0 to 1.
MEAN, DEVIATION = 0.5, 0.226


class UsualFlow(Dataset):
    """Samples as float32 [2L, crop, crop], normalised and mirrored on the host, an item each.

    Written as bryanyzhu/two-stream-pytorch is (datasets/ucf101.py, video_transforms.py): all images [H, W, 1] joined to
    [H, W, 2L], the crop of each scaled into float64 [crop, crop, 2L] (to its own size here: ours scales none), the mirror
    image of that, then a tensor of 0 to 1, normalised channel by channel.
    """

    def __init__(self, samples: Sequence[Sample], crop: int):
        self.samples, self.crop = samples, crop

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = self.samples[index % len(self.samples)]
        images = []
        for i in sample.fields:
            for axis in "xy":
                image = cv2.imread(str(sample.folder / f"flow_{axis}_{i:05d}.jpg"), cv2.IMREAD_GRAYSCALE)
                images.append(np.expand_dims(image, 2))
        whole = np.concatenate(images, axis=2)
        clip = np.zeros((self.crop, self.crop, whole.shape[2]))
        for k in range(whole.shape[2]):
            image = whole[sample.y : sample.y + self.crop, sample.x : sample.x + self.crop, k]
            clip[..., k] = cv2.resize(image, (self.crop, self.crop), interpolation=cv2.INTER_LINEAR)
        if sample.flip:
            clip = np.ascontiguousarray(np.fliplr(clip))
            clip[..., ::2] = 255 - clip[..., ::2]
        tensor = torch.from_numpy(clip.transpose(2, 0, 1)).float().div(255)
        for channel in tensor:
            channel.sub_(MEAN).div_(DEVIATION)
        return tensor, sample.label


class TunedFlow(Dataset):
    """Whole batches uint8 [B, 2L, crop, crop] with `flip` bool [B]: only the crop is copied, straight into its place."""

    def __init__(self, samples: Sequence[Sample], crop: int, batch_size: int):
        assert len(samples) % batch_size == 0, (len(samples), batch_size)
        self.samples, self.crop, self.batch_size = samples, crop, batch_size

    def __len__(self) -> int:
        return len(self.samples) // self.batch_size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        first = index * self.batch_size % len(self.samples)
        samples = self.samples[first : first + self.batch_size]
        planes = 2 * len(samples[0].fields)
        batch = torch.empty((len(samples), planes, self.crop, self.crop), dtype=torch.uint8)
        for sample, target in zip(samples, batch.numpy(), strict=True):
            self.fill(sample, target)
        labels = torch.tensor([sample.label for sample in samples])
        return batch, torch.tensor([sample.flip for sample in samples]), labels

    def fill(self, sample: Sample, target: np.ndarray) -> None:
        """Fill in one sample's planes [2L, crop, crop]."""
        rows, columns = slice(sample.y, sample.y + self.crop), slice(sample.x, sample.x + self.crop)
        for k, i in enumerate(sample.fields):
            for axis, name in enumerate("xy"):
                image = cv2.imread(str(sample.folder / f"flow_{name}_{i:05d}.jpg"), cv2.IMREAD_GRAYSCALE)
                target[2 * k + axis] = image[rows, columns]


class TunedFlowByItem(TunedFlow):
    """The same, but a sample an item, which the loader puts together."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, bool, int]:
        sample = self.samples[index % len(self.samples)]
        planes = np.empty((2 * len(sample.fields), self.crop, self.crop), np.uint8)
        self.fill(sample, planes)
        return planes, sample.flip, sample.label


@dataclass(frozen=True)
class Tuning:
    """What can be set about the tuned loader."""

    workers: int  # processes; 0: the caller's own
    whole_batches: bool  # an item of the data set is a batch, not a sample
    prefetch: int  # batches a worker works ahead

    def __str__(self) -> str:
        what = "batches" if self.whole_batches else "samples"
        return f"{self.workers} workers, {what} as items, {self.prefetch} ahead"


def usual_reader(samples: Sequence[Sample], crop: int, batch_size: int, batches: int) -> tuple:
    """Return a function that reads the next `batches`, {"workers"}, and what drops those read ahead (`rounds.Builder`).

    Two workers, everything else as PyTorch sets it.
    """
    _quiet()
    loader = DataLoader(
        UsualFlow(samples, crop), batch_size, num_workers=2, pin_memory=torch.cuda.is_available(), sampler=_endless()
    )
    return _continued(loader, batches, ahead=2 * 2, facts={"workers": 2})


def tuned_reader(samples: Sequence[Sample], crop: int, batch_size: int, batches: int, tuning: Tuning) -> tuple:
    """Return the same of the tuned loader, and its settings."""
    kind = TunedFlow if tuning.whole_batches else TunedFlowByItem
    _quiet()
    _one_thread()
    workers = {"num_workers": tuning.workers, "worker_init_fn": _one_thread, "pin_memory": torch.cuda.is_available()}
    if tuning.workers:
        workers |= {"prefetch_factor": tuning.prefetch}
    together = None if tuning.whole_batches else batch_size
    loader = DataLoader(kind(samples, crop, batch_size), together, sampler=_endless(), **workers)
    return _continued(loader, batches, ahead=tuning.workers * tuning.prefetch, facts=asdict(tuning))


def _endless() -> Iterable[int]:
    """Return 0, 1, ...: data sets count items from the start again, so that no round begins or ends an epoch."""
    return range(2**40)


def _continued(loader: DataLoader, batches: int, ahead: int, facts: dict) -> tuple:
    arriving = iter(loader)
    return partial(_take, arriving, batches), facts, partial(_take, arriving, ahead + 2)


def _take(arriving: Iterator, count: int) -> None:
    for _ in range(count):
        next(arriving)


def settings() -> list[Tuning]:
    """Return every setting of the tuned loader that is worth trying."""
    cores = usable_cores()
    return [
        Tuning(workers, whole_batches, prefetch)
        for workers in sorted({0, 1, 2, cores // 2, cores, 2 * cores})
        for whole_batches in (False, True)
        for prefetch in ((2, 4) if workers else (0,))
    ]


def sweep(
    samples: Sequence[Sample], crop: int, batch_size: int, batches: int, rounds: int = 3
) -> dict[Tuning, list[float]]:
    """Return each setting's seconds for so many batches in each round; the loaders are there one after the other."""
    found: dict[Tuning, list[float]] = {}
    for tuning in settings():
        read, _, drop = tuned_reader(samples, crop, batch_size, batches, tuning)
        found[tuning] = []
        for _ in range(rounds):
            drop()
            begun = time.perf_counter()
            read()
            found[tuning].append(time.perf_counter() - begun)
    return found


def _quiet() -> None:
    """Turn off this process's stderr: loaders that end amid their work say so there, and others that 2 cores are few."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _one_thread(_: int = 0) -> None:
    # Workers that each start threads for small images are slower.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
