"""What flow fields are like on average: how long their vectors are, how many the bound clips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from input_pipeline.schema import dequantise_flow


@dataclass(frozen=True)
class FlowFacts:
    """What fields are like: of a video, those of both directions; of a data set, of all its videos."""

    mean_px: float  # mean length of the vectors, px per frame, before clipping
    clipped: float  # share of the vectors of which a component lies beyond the bound


class FlowSums:
    """Sums over fields as they are stored one after the other."""

    def __init__(self):
        self._length_px, self._clipped, self._vectors = 0.0, 0, 0

    def add(self, flow: np.ndarray, bound_px: float) -> None:
        """Take a float field [H, W, 2] px per frame, which `bound_px` is about to clip."""
        self._length_px += float(np.hypot(flow[..., 0], flow[..., 1]).sum(dtype=np.float64))
        self._clipped += int((np.abs(flow) > bound_px).any(axis=-1).sum())
        self._vectors += flow[..., 0].size

    def add_levels(self, levels: np.ndarray, bound_px: float) -> None:
        """Take a stored field, uint8 [2, H, W]: what stands at either end of the range counts as clipped."""
        x, y = dequantise_flow(levels, bound_px)
        self._length_px += float(np.hypot(x, y).sum(dtype=np.float64))
        self._clipped += int(((levels == 0) | (levels == 255)).any(axis=0).sum())
        self._vectors += x.size

    def facts(self) -> FlowFacts | None:
        """Return what the fields are like; None where there were none."""
        return _rounded(self._length_px, self._clipped, self._vectors) if self._vectors else None


def facts_of_all(weighted: Iterable[tuple[FlowFacts | None, int]]) -> FlowFacts | None:
    """Return the facts of all videos, each with its number of vectors; None where one lacks them, or none has vectors."""
    known = list(weighted)
    vectors = sum(count for _, count in known)
    if not vectors or any(facts is None for facts, count in known if count):
        return None
    length_px = sum(facts.mean_px * count for facts, count in known if count)
    return _rounded(length_px, sum(facts.clipped * count for facts, count in known if count), vectors)


def _rounded(length_px: float, clipped: float, vectors: int) -> FlowFacts:
    # As many digits as people read, and as many as survive the order of the sums.
    return FlowFacts(float(f"{length_px / vectors:.4g}"), float(f"{clipped / vectors:.4g}"))
