"""Score files: what a network says about every video of a subset, in one `.npz` without anything executable.

N videos, C classes. On disk stand the arrays `names`, `groups`, `classes` (unicode), `labels` (int32 [N]), `probs` and
`logits` (float32 [N, C]), and `meta`: JSON text of task, split, subset, protocol and provenance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from input_pipeline.schema import SUBSETS, UserError, first_line

ARRAYS = ("names", "groups", "labels", "classes", "probs", "logits")
META = {"task": str, "split": int, "folds": int, "subset": str, "protocol": str, "provenance": dict}

# A million videos of 256 classes in float32; what claims more is damaged.
MAX_ARRAY_BYTES = 2**30

# A mean of float32 softmax values sums to 1 within 1e-6; bfloat16 ones within 2^-8.
SUM_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class ScoreFile:
    """The scores of one network, or of one fusion of networks, for the videos of one subset.

    `probs` is the mean softmax over a video's frames and crops, `logits` the mean of what went into the softmax. Labels
    index `classes`. `protocol` is `center`, `25x10` or the like. `provenance` is JSON-able: of a network `workdir`,
    `step`, `model`, `streams`, `records` (checksum) and `versions`; of a fusion, its method and its inputs.
    """

    task: str
    split: int
    subset: str
    names: tuple[str, ...]
    groups: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    probs: np.ndarray
    logits: np.ndarray
    protocol: str
    provenance: dict[str, Any]
    folds: int = 0  # K where `split` is one of K folds, 0 where it is a stored split

    def write(self, path: Path) -> None:
        """Write the file; it appears under its name only when whole.

        Raises UserError when the scores are not finite or not probabilities, as after a training that diverged, and when
        the disk refuses; a file of that name stays as it was.
        """
        _refuse_faults(self, path)
        aside = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                self._save(file)
            os.replace(aside, path)
        except OSError as error:
            # What is half written would only keep a full disk full.
            with contextlib.suppress(OSError):
                aside.unlink()
            raise UserError(
                f"{path}: cannot be written ({error.strerror or first_line(error)}); make room, and run again"
            ) from error

    def _save(self, file: BinaryIO) -> None:
        np.savez_compressed(
            file,
            names=np.array(self.names, dtype=np.str_),
            groups=np.array(self.groups, dtype=np.str_),
            labels=self.labels.astype(np.int32),
            classes=np.array(self.classes, dtype=np.str_),
            probs=self.probs.astype(np.float32),
            logits=self.logits.astype(np.float32),
            meta=np.array(json.dumps({key: getattr(self, key) for key in META})),
        )

    @classmethod
    def read(cls, path: Path) -> ScoreFile:
        """Return the scores in a file.

        Raises UserError, naming the file, when it is missing, is no score file, or its arrays do not fit together.
        """
        arrays, meta = _load(Path(path))
        scores = cls(
            task=meta["task"],
            split=meta["split"],
            subset=meta["subset"],
            names=_strings(arrays["names"]),
            groups=_strings(arrays["groups"]),
            labels=arrays["labels"],
            classes=_strings(arrays["classes"]),
            probs=arrays["probs"],
            logits=arrays["logits"],
            protocol=meta["protocol"],
            provenance=meta["provenance"],
            folds=meta["folds"],
        )
        _refuse_faults(scores, path)
        return dataclasses.replace(
            scores,
            labels=scores.labels.astype(np.int32),
            probs=scores.probs.astype(np.float32),
            logits=scores.logits.astype(np.float32),
        )

    def take(self, videos: Sequence[int]) -> ScoreFile:
        """Return the scores of the videos at these positions, in this order."""
        order = np.asarray(videos, dtype=np.intp)
        return dataclasses.replace(
            self,
            names=tuple(self.names[i] for i in order),
            groups=tuple(self.groups[i] for i in order),
            labels=self.labels[order],
            probs=self.probs[order],
            logits=self.logits[order],
        )


def check_writable(workdir: Path) -> None:
    """Make the folder that scores are to be written to; UserError, before any work, where it cannot be written to."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be written to ({error.strerror or first_line(error)}); "
            "mend its permissions, or name another folder"
        ) from error


def file_name(task: str, split: int, folds: int, subset: str, step: int | None = None) -> str:
    """Return how the score file of these videos is called: scores_ucf101_split1_test.npz, scores_fight_fold2of5_test.npz.

    With a `step`, where several of a run are scored: scores_ucf101_split1_test_step1000.npz.
    """
    division = f"fold{split}of{folds}" if folds else f"split{split}"
    return f"scores_{task}_{division}_{subset}" + ("" if step is None else f"_step{step}") + ".npz"


def align(a: ScoreFile, b: ScoreFile, name_a: str = "the first score file", name_b: str = "the second") -> ScoreFile:
    """Return `b` with the videos in the order of `a`'s and the classes in the order of `a`'s, both matched by name.

    `name_a` and `name_b` are how the messages call the two. Raises UserError when task, split, subset, protocol,
    classes, videos or labels differ.
    """
    for key in ("task", "split", "folds", "subset", "protocol"):
        ours, theirs = getattr(a, key), getattr(b, key)
        if ours != theirs:
            raise UserError(
                f"{name_a} has {key} {ours!r} and {name_b} {theirs!r}: evaluate both with the same settings"
            )
    b = align_classes(a, b, name_a, name_b)
    if set(a.names) != set(b.names):
        raise UserError(
            f"{name_a} ({len(a.names)} videos) and {name_b} ({len(b.names)}) hold different videos: "
            f"{_only(a.names, b.names, name_a)}; {_only(b.names, a.names, name_b)}: evaluate both on the same records"
        )
    position = {name: i for i, name in enumerate(b.names)}
    b = b.take([position[name] for name in a.names])
    differing = np.flatnonzero(a.labels != b.labels)
    if differing.size:
        i = int(differing[0])
        raise UserError(
            f"{name_a} and {name_b} disagree on the label of {differing.size} of {len(a.names)} videos, "
            f"such as {a.names[i]!r} ({a.classes[a.labels[i]]!r} and {b.classes[b.labels[i]]!r}): "
            "evaluate both on the same records"
        )
    return b


def align_classes(
    a: ScoreFile, b: ScoreFile, name_a: str = "the first score file", name_b: str = "the second"
) -> ScoreFile:
    """Return `b` with its classes (columns and labels) in the order of `a`'s, matched by name.

    Raises UserError, naming up to three classes of each side, when the two sets differ.
    """
    if set(a.classes) != set(b.classes):
        raise UserError(
            f"{name_a} ({len(a.classes)} classes) and {name_b} ({len(b.classes)}) hold different classes: "
            f"{_only(a.classes, b.classes, name_a)}; {_only(b.classes, a.classes, name_b)}: "
            "evaluate both with the same data.classes"
        )
    column = {name: i for i, name in enumerate(b.classes)}
    order = np.array([column[name] for name in a.classes], dtype=np.intp)
    new_index = np.argsort(order).astype(np.int32)
    return dataclasses.replace(
        b,
        classes=a.classes,
        labels=new_index[b.labels],
        probs=b.probs[:, order],
        logits=b.logits[:, order],
    )


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the meta data of a file that has every key; UserError otherwise."""
    if not path.is_file():
        raise UserError(f"{path}: no such score file: --mode=eval writes scores_<task>_split<k>_<subset>.npz")
    try:
        with zipfile.ZipFile(path) as stored:
            missing = [key for key in (*ARRAYS, "meta") if f"{key}.npy" not in stored.namelist()]
            arrays = {key: _array(stored, key) for key in ARRAYS if key not in missing}
            meta = {} if missing else dict(json.loads(str(_array(stored, "meta"))))
    # zipfile, zlib, NumPy's parser of headers and json fail in a dozen ways on a damaged file.
    except Exception as error:
        raise UserError(f"{path}: not a score file ({first_line(error)}): give one that --mode=eval wrote") from None
    if missing:
        raise UserError(f"{path}: not a score file, it has no {', '.join(missing)}: give one that --mode=eval wrote")
    wrong = [key for key, kind in META.items() if not isinstance(meta.get(key), kind)]
    if wrong:
        raise UserError(f"{path}: not a score file, its meta lacks {', '.join(wrong)}: run --mode=eval again")
    numbers = [key for key in ("names", "groups", "classes") if arrays[key].dtype.kind != "U" or arrays[key].ndim != 1]
    if numbers:
        raise UserError(f"{path}: {', '.join(numbers)} is no list of words: run --mode=eval again")
    return arrays, meta


def _array(stored: zipfile.ZipFile, key: str) -> np.ndarray:
    """Return one array of an .npz file, whose header is not believed where it claims more than there is."""
    info = stored.getinfo(f"{key}.npy")
    with stored.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        claimed, held = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
    if claimed != held or held > MAX_ARRAY_BYTES:
        raise ValueError(f"{key} claims {claimed} bytes where {held} can be")
    with stored.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _refuse_faults(scores: ScoreFile, path: Path) -> None:
    fault = _shape_fault(scores) or _value_fault(scores)
    if fault:
        raise UserError(f"{path}: {fault}: run --mode=eval again")


def _shape_fault(scores: ScoreFile) -> str:
    """Return what does not fit together among names, classes and arrays; empty when all does."""
    videos, classes = len(scores.names), len(scores.classes)
    expected = {"labels": (videos,), "probs": (videos, classes), "logits": (videos, classes)}
    for key, shape in expected.items():
        if getattr(scores, key).shape != shape:
            return f"{key} has shape {getattr(scores, key).shape}, {videos} videos of {classes} classes want {shape}"
    if len(scores.groups) != videos:
        return f"groups has {len(scores.groups)} entries for {videos} videos"
    if not videos:
        return "no video in it"
    for key in ("names", "classes"):
        values = getattr(scores, key)
        if len(set(values)) != len(values):
            return f"{key} lists {next(v for v in values if values.count(v) > 1)!r} twice"
    return ""


def _value_fault(scores: ScoreFile) -> str:
    """Return which value cannot be; empty when all can. Shapes have been checked."""
    if scores.subset not in SUBSETS:
        return f"subset {scores.subset!r} is none of {', '.join(SUBSETS)}"
    if scores.labels.dtype.kind not in "iu" or scores.labels.min() < 0 or scores.labels.max() >= len(scores.classes):
        return f"labels are not integers from 0 to {len(scores.classes) - 1}"
    for key in ("probs", "logits"):
        values = getattr(scores, key)
        if values.dtype.kind != "f":
            return f"{key} is {values.dtype}, not float"
        if not np.isfinite(values).all():
            video = scores.names[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
            return f"{key} is NaN or infinite, first for {video!r}; did the training diverge?"
    sums = scores.probs.sum(axis=1)
    if scores.probs.min() < 0 or np.abs(sums - 1).max() > SUM_TOLERANCE:
        return f"probs are no probabilities, rows sum to {sums.min():.3g} .. {sums.max():.3g}"
    return ""


def _strings(values: np.ndarray) -> tuple[str, ...]:
    return tuple(str(value) for value in values.ravel())


def _only(ours: Sequence[str], theirs: Sequence[str], name: str) -> str:
    """Return a phrase with up to three entries that only `ours` has."""
    known = set(theirs)
    only = [value for value in ours if value not in known]
    if not only:
        return f"none only in {name}"
    return f"only in {name}: {', '.join(only[:3])}" + (f" and {len(only) - 3} more" if len(only) > 3 else "")
