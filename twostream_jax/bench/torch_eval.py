"""How videos are scored in PyTorch: as the popular two-stream repository does it, and well made. Needs the `bench` extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from twostream_jax.bench.scored_videos import Job, VideoStacks, leave_scores
from twostream_jax.bench.torch_nets import TorchCnnM
from twostream_jax.host_memory import keep_freed_memory
from twostream_jax.preprocess import FLOW_SCALE_PX

USUAL_BATCH = 25  # crops
TUNED_STACKS = 5  # a batch, ten crops each


def usual_scorer(job: Job, left: Path) -> tuple[Callable[[], None], dict]:
    """Return a function that scores all videos in the usual way and leaves the scores, and {"batch": crops}."""
    return partial(_score_all, partial(usual_video, _net(job)), job, left), {"batch": USUAL_BATCH}


def tuned_scorer(job: Job, left: Path, compiled: bool) -> tuple[Callable[[], None], dict]:
    """Return the same of a well-made scorer, and {"batch": crops}."""
    keep_freed_memory()  # as ours
    net = _net(job).to(memory_format=torch.channels_last)
    forward = torch.compile(net) if compiled else net
    return partial(_score_all, partial(tuned_video, forward), job, left), {"batch": 10 * TUNED_STACKS}


def _probabilities(forward: nn.Module, crops: torch.Tensor, job: Job) -> torch.Tensor:
    with torch.autocast(crops.device.type, torch.bfloat16, enabled=job.half):
        logits = forward(crops)
    return torch.softmax(logits.float(), dim=1)


def _score_all(score: Callable[[VideoStacks, Job], np.ndarray], job: Job, left: Path) -> None:
    leave_scores(left, np.stack([score(video, job) for video in job.videos]))


def _net(job: Job) -> TorchCnnM:
    weights = job.weights()
    channels = job.shapes["conv1"]["kernel"][2]
    classes = next(shapes["bias"][0] for layer, shapes in job.shapes.items() if layer.startswith("full8"))
    net = TorchCnnM(channels, classes, normalised=job.normalised, width=job.width, dropout=0.0).eval()
    net = net.to("cuda" if torch.cuda.is_available() else "cpu")
    net(torch.zeros((1, channels, job.crop, job.crop), device=_device(net)))  # gives the lazy layer its size
    net.load(weights)
    return net


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _read(video: VideoStacks, field: int, axis: str) -> np.ndarray:
    return cv2.imread(str(video.folder / f"flow_{axis}_{field:05d}.jpg"), cv2.IMREAD_GRAYSCALE)


def _px(levels: np.ndarray, job: Job) -> np.ndarray:
    px = levels.astype(np.float32) * np.float32(2 * job.bound_px / 255) - np.float32(job.bound_px)
    return (px - px.mean() if job.means else px) / np.float32(FLOW_SCALE_PX)


def usual_video(net: nn.Module, video: VideoStacks, job: Job) -> np.ndarray:
    """Return probabilities [classes] of a video as the usual script finds them.

    Written as that is: all stacks as one array [H, W, 2L, stacks] read file by file and its mirror image, ten crops of
    these by slices, joined to one array, made a list of network inputs one by one, joined again, and run batch by batch;
    the probabilities of all columns are averaged at the end.
    """
    shape = (video.height, video.width, 2 * len(video.stacks[0]), len(video.stacks))
    flow, mirrored = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i, stack in enumerate(video.stacks):
        for j, field in enumerate(stack):
            x, y = _px(_read(video, field, "x"), job), _px(_read(video, field, "y"), job)
            flow[:, :, 2 * j, i], flow[:, :, 2 * j + 1, i] = x, y
            mirrored[:, :, 2 * j, i], mirrored[:, :, 2 * j + 1, i] = -x[:, ::-1], y[:, ::-1]
    crops = []
    for whole in (flow, mirrored):
        for y, x in _origins(video, job.crop):
            crops.append(whole[y : y + job.crop, x : x + job.crop])
    crops = np.concatenate(crops, axis=3)
    inputs = np.concatenate([crops[None, :, :, :, i].transpose(0, 3, 1, 2) for i in range(crops.shape[3])])
    columns = []
    for start in range(0, len(inputs), USUAL_BATCH):
        batch = torch.from_numpy(np.ascontiguousarray(inputs[start : start + USUAL_BATCH])).to(_device(net))
        with torch.no_grad():
            columns.append(_probabilities(net, batch, job).cpu().numpy())
    return np.concatenate(columns).astype(np.float64).mean(axis=0)


def tuned_video(forward: nn.Module, video: VideoStacks, job: Job) -> np.ndarray:
    """Return the same, made well: each field is read once, crops are cut on the device, of a few stacks at a time."""
    total = 0.0
    with torch.inference_mode():
        for crops in _tuned_batches(video, job, _device(forward)):
            total = total + _probabilities(forward, crops, job).double().sum(dim=0)
    return total.cpu().numpy() / (10 * len(video.stacks))


def _tuned_batches(video: VideoStacks, job: Job, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the ten crops [50, 2L, crop, crop] of five stacks after the other, in the order of memory that the net likes."""
    fields = sorted({field for stack in video.stacks for field in stack})
    levels = np.empty((len(fields), 2, video.height, video.width), np.uint8)
    for target, field in zip(levels, fields, strict=True):
        target[0], target[1] = _read(video, field, "x"), _read(video, field, "y")
    px = torch.from_numpy(levels).to(device).float().mul_(2 * job.bound_px / 255).sub_(job.bound_px)
    if job.means:
        px -= px.mean(dim=(2, 3), keepdim=True)
    px /= FLOW_SCALE_PX
    place = {field: i for i, field in enumerate(fields)}
    sign = torch.tensor([-1.0, 1.0], device=device).repeat(len(video.stacks[0]))[:, None, None]
    for start in range(0, len(video.stacks), TUNED_STACKS):
        some = video.stacks[start : start + TUNED_STACKS]
        whole = px[torch.tensor([[place[field] for field in stack] for stack in some], device=device)].flatten(1, 2)
        five = [whole[:, :, y : y + job.crop, x : x + job.crop] for y, x in _origins(video, job.crop)]
        upright = torch.cat(five)
        yield torch.cat([upright, upright.flip(-1) * sign]).contiguous(memory_format=torch.channels_last)


def _origins(video: VideoStacks, crop: int) -> list[tuple[int, int]]:
    down, right = video.height - crop, video.width - crop
    return [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
