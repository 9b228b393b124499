"""What both sides of bench=eval are given: which stacks of which videos, and the net's weights; and what they leave."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Of full8 beside the other layers' weights: scores that tell videos apart, where an untrained head's are all alike.
HEAD_SCALE = 8.0


@dataclass(frozen=True)
class VideoStacks:
    """One video: where its flow lies as files, and the fields of each stack."""

    folder: Path  # of flow_x_00001.jpg, flow_y_00001.jpg, ...
    stacks: tuple[tuple[int, ...], ...]  # from 1, as the files count; each of L fields
    height: int
    width: int


@dataclass(frozen=True)
class Job:
    """The videos to score by ten crops of each stack, and the net. Weights are drawn: every process draws the same."""

    videos: tuple[VideoStacks, ...]
    shapes: dict[str, dict[str, tuple[int, ...]]]  # of the net's parameters
    normalised: tuple[str, ...]  # its layers with response normalisation
    crop: int  # px
    width: float  # of the net
    bound_px: float  # that level 255 of the flow stands for
    means: bool  # whether each field's mean is subtracted
    half: bool  # computed in bfloat16

    def weights(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the net's parameters, float32, of a variance that keeps the scores in range."""
        rng, params = np.random.default_rng(0), {}
        for layer, shapes in sorted(self.shapes.items()):
            scale = (2 / np.prod(shapes["kernel"][:-1])) ** 0.5 * (HEAD_SCALE if layer.startswith("full8") else 1)
            kernel = rng.standard_normal(shapes["kernel"], np.float32) * np.float32(scale)
            params[layer] = {
                "kernel": kernel,
                "bias": np.float32(0.1) * rng.standard_normal(shapes["bias"], np.float32),
            }
        return params


def leave_scores(path: Path, probs: np.ndarray) -> None:
    """Write a contestant's probabilities [videos, classes], and the most memory that its process has had until now."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    np.savez(path, probs=probs, peak_bytes=np.int64(peak))


def left_scores(path: Path) -> tuple[np.ndarray, int]:
    """Return (probabilities, peak memory in bytes) that a contestant left."""
    with np.load(path) as found:
        return found["probs"], int(found["peak_bytes"])
