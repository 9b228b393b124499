"""Which stored videos train, validate and test: an official split or group-wise folds, less the held-out groups."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from input_pipeline.schema import UserError

# Costs are compared after rounding to this many decimals, so that ties do not hang on a machine's order of summation.
_COST_DECIMALS = 9


def select(
    videos: Sequence, *, split: int, folds: int, validation_fraction: float, seed: int, section: str = "data"
) -> dict[str, tuple[int, ...]]:
    """Return the positions in `videos`, ascending, of each of "train", "validation" and "test".

    `videos` have `.name`, `.label`, `.group` and `.subsets` ({"1": "train", ...}). With `folds` = 0 the stored split
    `split` is taken; with `folds` = K > 1 the videos that are in any split are divided into K folds of whole groups and
    fold `split` (1..K) is the test set; `split` = 0 trains on all of these videos together and tests on none (2014 paper,
    Table 2: "all splits combined"). `validation_fraction` of the training groups is held out for validation. The
    choice depends on the groups, their labels and `seed`, not on the order of `videos`.

    Raises UserError for a split, fold or fraction that cannot be had, naming its key in the config's `section`.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"data.validation_fraction={validation_fraction} is outside [0, 1): give a share such as 0.1")
    if split == 0:
        train, test = [i for i, video in enumerate(videos) if video.subsets], []
    elif folds == 0:
        train, test = _stored_split(videos, split, section)
    else:
        train, test = _fold(videos, split, folds, seed, section)
    validation: list[int] = []
    if validation_fraction > 0:
        validation = _held_out(videos, train, validation_fraction, seed)
        train = sorted(set(train) - set(validation))
    return {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}


def _stored_split(videos: Sequence, split: int, section: str) -> tuple[list[int], list[int]]:
    stored = sorted({key for video in videos for key in video.subsets}, key=lambda key: (len(key), key))
    if str(split) not in stored:
        have = ", ".join(stored) or "none"
        raise UserError(
            f"{section}.split={split} is not stored (the records hold: {have}): take one of these or {section}.folds"
        )
    positions = {
        subset: [i for i, video in enumerate(videos) if video.subsets.get(str(split)) == subset]
        for subset in ("train", "test")
    }
    for subset, chosen in positions.items():
        if not chosen:
            raise UserError(
                f"{section}.split={split} has no {subset} videos: list some under that split, or set {section}.folds=K "
                "to divide the videos into K folds"
            )
    return positions["train"], positions["test"]


def _fold(videos: Sequence, split: int, folds: int, seed: int, section: str) -> tuple[list[int], list[int]]:
    if folds < 2:
        raise UserError(f"{section}.folds={folds} is not a number of folds: give 2 or more, or 0 for the stored splits")
    if not 1 <= split <= folds:
        raise UserError(f"{section}.split={split} is outside 1..{folds}, the folds that {section}.folds={folds} makes")
    listed = [i for i, video in enumerate(videos) if video.subsets]
    groups, counts, members = _group_counts(videos, listed, seed)
    if len(groups) < folds:
        raise UserError(f"{section}.folds={folds} is more than the {len(groups)} groups of the videos: lower it")
    fold_of = _assign_folds(counts, folds)
    test = sorted(i for row in np.flatnonzero(fold_of == split - 1) for i in members[groups[row]])
    return sorted(set(listed) - set(test)), test


def _group_counts(
    videos: Sequence, positions: Sequence[int], seed: int
) -> tuple[list[str], np.ndarray, dict[str, list[int]]]:
    """Return the groups in the seed's order, their videos of each class [groups, classes], and their positions."""
    members: dict[str, list[int]] = defaultdict(list)
    for i in positions:
        members[videos[i].group].append(i)
    groups = sorted(members, key=lambda group: _rank(group, seed))
    labels = sorted({videos[i].label for i in positions})
    column = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(groups), len(labels)), np.int64)
    for row, group in enumerate(groups):
        for i in members[group]:
            counts[row, column[videos[i].label]] += 1
    return groups, counts, members


def _rank(group: str, seed: int) -> bytes:
    # Not hash(), which differs from one Python process to the next.
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _assign_folds(counts: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold (from 0) of each group: the largest first, each to the fold whose balance it worsens least.

    The cost of a fold is the growth of its squared counts, each class divided by its total so that rare classes weigh
    as much as common ones, plus the same for the count of all videos. An empty fold always costs least, so none stays
    empty while there are as many groups as folds.
    """
    # The last column counts all videos.
    columns = np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)
    weights = 1.0 / columns.sum(axis=0)
    filled = np.zeros((folds, columns.shape[1]), np.int64)
    fold_of = np.zeros(len(counts), np.int64)
    for row in np.argsort(-columns[:, -1], kind="stable"):
        growth = (filled + columns[row]) ** 2 - filled**2
        fold = int(np.argmin(np.round((growth * weights).sum(axis=1), _COST_DECIMALS)))
        filled[fold] += columns[row]
        fold_of[row] = fold
    return fold_of


def _held_out(videos: Sequence, train: Sequence[int], fraction: float, seed: int) -> list[int]:
    """Return the positions of the validation groups: round(fraction x groups) of them, at least one, never all.

    Groups are taken one by one: after the k-th of n, the held-out videos of each class should be k/n of that class, and
    the group that comes nearest is taken, unless a class would be left without a training video.
    """
    number = len({videos[i].group for i in train})
    if number < 2:
        raise UserError(
            f"data.validation_fraction={fraction} needs at least 2 training groups, there is {number}: "
            "set it to 0 or give the clips groups (data.group_column)"
        )
    wanted = min(max(1, round(fraction * number)), number - 1)
    chosen = (_choose_videos if number == len(train) else _choose_groups)(videos, train, wanted, seed)
    if not chosen:
        raise UserError(
            f"data.validation_fraction={fraction}: every training group holds all videos of some class, so none can "
            "be held out: set it to 0 or give the classes more groups"
        )
    return sorted(chosen)


def _choose_groups(videos: Sequence, train: Sequence[int], wanted: int, seed: int) -> list[int]:
    """Return the positions of `wanted` groups, or fewer, chosen as `_held_out` says."""
    groups, counts, members = _group_counts(videos, train, seed)
    totals = counts.sum(axis=0)
    held = np.zeros_like(totals)
    free = np.ones(len(groups), bool)
    chosen: list[str] = []
    constant = (counts**2) @ (1.0 / totals)
    while len(chosen) < wanted and free.any():
        target = totals * ((len(chosen) + 1) / len(groups))
        # Squared distance to the target over the class totals, less what is the same for every group.
        cost = np.round(constant + counts @ (2.0 * (held - target) / totals), _COST_DECIMALS)
        row = int(np.argmin(np.where(free, cost, np.inf)))
        free[row] = False  # a group refused once is refused for good: `held` only grows
        if np.all((totals - held - counts[row] > 0) | (counts[row] == 0)):
            held += counts[row]
            chosen.append(groups[row])
    return [i for group in chosen for i in members[group]]


def _choose_videos(videos: Sequence, train: Sequence[int], wanted: int, seed: int) -> list[int]:
    """Return what `_choose_groups` does where each video is a group of its own, a million of them in seconds.

    All videos of a class then cost the same, so that one cost a class is enough.
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    order = sorted(train, key=lambda i: _rank(videos[i].group, seed))
    for row, i in enumerate(order):
        waiting[videos[i].label].append(row)
    rows = list(waiting.values())
    totals = np.asarray([len(own) for own in rows])
    held = np.zeros_like(totals)
    following = np.asarray([own[0] for own in rows])
    chosen: list[int] = []
    while len(chosen) < wanted and np.any(held < totals - 1):
        target = totals * ((len(chosen) + 1) / len(order))
        cost = np.round(1.0 / totals + 2.0 * (held - target) / totals, _COST_DECIMALS)
        cost[held == totals - 1] = np.inf  # the last video of a class stays in training
        tied = np.flatnonzero(cost == cost.min())
        label = tied[np.argmin(following[tied])]
        chosen.append(order[following[label]])
        held[label] += 1
        following[label] = rows[label][held[label]]
    return chosen
