"""mode=fuse: the scores of several streams become one, by average and by linear SVM (2014 paper, Sect. 2)."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupKFold
from sklearn.svm import LinearSVC

from input_pipeline.schema import UserError
from twostream_jax.files import write_json
from twostream_jax.report import pictures
from twostream_jax.report.tables import accuracy_entry, percent, setting
from twostream_jax.run_log import Progress
from twostream_jax.scores import ScoreFile, align, align_classes, check_writable

# The paper does not state C. Ties go to the smallest, the strongest regularisation.
C_GRID = tuple(2.0**power for power in range(-4, 9, 2))
C_WITHOUT_GROUPS = 1.0
MAX_FOLDS = 5
# Liblinear's own limit for this objective, whatever it is told; scikit-learn only compares with what it was told.
MAX_ITER = 100_000
SVM_SEED = 0
# Two scorings of one run differ by float32 sums in another order, two runs by far more.
SAME_SCORES = 1e-4
# How far a class without training videos lies below the lowest decision value: its probability rounds to 0 in float32.
UNSEEN_MARGIN = 200.0


def fuse(score_paths: Sequence[Path], train_score_paths: Sequence[Path], workdir: Path) -> dict[str, Any]:
    """Return what stands in `fuse.json`: inputs, `average` and, with training scores, `svm`, each with its accuracy.

    Writes `fused_average.npz` and `fuse.json` into `workdir`, and `fused_svm.npz` when `train_score_paths` gives the
    training scores of the same networks in the same order. `confusion.png` and `recall.png` are of the SVM (2014 paper,
    Fig. 5 and 6) or, where there is none, of the average. Videos and classes are matched by name, never by position.

    The paper trains the SVM on the scores of the very videos that trained the networks. A network that overfits gives
    those near one-hot scores, much sharper than on test videos; on simulated scores of that kind (101 classes) the SVM
    stays 0.5 to 4 points below the average. It can pay when one stream is weaker for some classes than for others.

    Raises UserError when fewer than two files are given, one is given twice, or files do not belong together.
    """
    tests, trains = _read_all(score_paths, train_score_paths)
    check_writable(workdir)
    average = average_scores(tests)
    average.write(workdir / "fused_average.npz")
    result = {
        "inputs": [_input_entry(path, scores) for path, scores in zip(score_paths, tests, strict=True)],
        "average": accuracy_entry(average) | {"file": "fused_average.npz"},
    }
    shown = ("average", average)
    # One of an earlier run would stand beside a fuse.json that does not know it.
    (workdir / "fused_svm.npz").unlink(missing_ok=True)
    if trains:
        svm, details = svm_scores(tests, trains)
        svm.write(workdir / "fused_svm.npz")
        result["train_inputs"] = [_input_entry(path, s) for path, s in zip(train_score_paths, trains, strict=True)]
        result["svm"] = accuracy_entry(svm) | {"file": "fused_svm.npz"} | details
        shown = ("SVM", svm)
    pictures.confusion_matrix(workdir / "confusion.png", shown[1])
    # Two nets of one stream have one name: the later has the number of its place.
    streams: dict[str, ScoreFile] = {}
    for place, (entry, scores) in enumerate(zip(result["inputs"], tests, strict=True), start=1):
        name = entry["streams"] or Path(entry["path"]).stem
        streams[f"{name} {place}" if name in streams else name] = scores
    pictures.per_class_recall(workdir / "recall.png", streams | {f"fused by {shown[0]}": shown[1]})
    write_json(workdir / "fuse.json", result)
    return result


def summary_lines(result: dict[str, Any]) -> list[str]:
    """Return one line an accuracy, such as `fused by average  25x10  demo split 1 test  96.3 % (52/54)  95 %: [87.5, 99.0]`.

    Single streams are called by their inputs, `rgb alone`, or by their file where the scores do not tell.
    """
    entries = [(f"{entry['streams'] or Path(entry['path']).stem} alone", entry) for entry in result["inputs"]]
    entries.append(("fused by average", result["average"]))
    if "svm" in result:
        entries.append(("fused by SVM", result["svm"]))
    width = max(len(name) for name, _ in entries)
    return [f"{name:<{width}}  {entry['protocol']}  {setting(entry)}  {percent(entry)}" for name, entry in entries]


def average_scores(streams: Sequence[ScoreFile]) -> ScoreFile:
    """Return the mean of the streams' probabilities (2014 paper, Sect. 2) and, as logits, the mean of their logits.

    The streams hold the same videos and classes in the same order, as `align` leaves them.
    """
    return dataclasses.replace(
        streams[0],
        probs=np.mean([scores.probs for scores in streams], axis=0, dtype=np.float64).astype(np.float32),
        logits=np.mean([scores.logits for scores in streams], axis=0, dtype=np.float64).astype(np.float32),
        provenance={"fusion": "average", "inputs": [scores.provenance for scores in streams]},
    )


def svm_scores(tests: Sequence[ScoreFile], trains: Sequence[ScoreFile]) -> tuple[ScoreFile, dict[str, Any]]:
    """Return the SVM's scores of the test videos, and how it was made: C, how C was chosen, classes not seen.

    "Multi-class linear SVM [6] on stacked L2-normalised softmax scores" (2014 paper, Sect. 2). Its reference [6] is
    Crammer and Singer, so one joint objective over all classes; on 9537 simulated videos of 101 classes one-vs-rest was
    within 3 points of it either way and two to eight times slower. Logits are the decision values and probs their
    softmax, of which only the order is meant. A class that no training video has comes last, with probability 0.
    """
    features, labels = stacked_features(trains), trains[0].labels
    seen = np.unique(labels)
    classes = trains[0].classes
    if len(seen) < 2:
        raise UserError(
            f"--train_scores: every training video is of the class {classes[seen[0]]!r}, an SVM wants two: "
            "leave --train_scores out for the average alone"
        )
    with Progress("fuse: SVM", "fits") as progress:
        chosen, details = choose_c(features, labels, np.array(trains[0].groups), progress.update)
        svm = _fit(features, labels, chosen)
    decision = decision_values(svm, stacked_features(tests), len(classes))
    details |= {
        "C": chosen,
        "kind": "Crammer-Singer",
        "converged": bool(svm.n_iter_ < MAX_ITER),
        "training_videos": len(labels),
        "training_protocol": trains[0].protocol,
        "classes_without_training_videos": [classes[i] for i in sorted(set(range(len(classes))) - set(seen))],
    }
    exponent = np.exp(decision - decision.max(axis=1, keepdims=True))
    scores = dataclasses.replace(
        tests[0],
        probs=(exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32),
        logits=decision.astype(np.float32),
        provenance={"fusion": "svm", "C": chosen, "inputs": [scores.provenance for scores in tests]},
    )
    return scores, details


def stacked_features(streams: Sequence[ScoreFile]) -> np.ndarray:
    """Return float64 [N, streams * C]: each stream's probabilities with Euclidean norm 1, side by side."""
    probs = [scores.probs.astype(np.float64) for scores in streams]
    return np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in probs], axis=1)


def choose_c(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, on_progress: Callable[[int, int, str], None]
) -> tuple[float, dict[str, Any]]:
    """Return the C of `C_GRID` that classifies most videos right over folds of whole groups, and how that was found.

    `on_progress(fits done, fits, text)` is called as it goes: about five minutes at UCF-101's size.

    Clips of one group share scene and actor, so a group is never on both sides. Where there are fewer than two groups,
    or no fold leaves two classes to train on, the result is `C_WITHOUT_GROUPS` and `C_from` says why.
    """
    count = len(set(groups))
    if count < 2:
        return C_WITHOUT_GROUPS, {"C_from": f"default, the training videos have {count} group and folds want two"}
    folds = list(GroupKFold(min(MAX_FOLDS, count)).split(features, labels, groups))
    folds = [(fit, held) for fit, held in folds if len(np.unique(labels[fit])) > 1]
    if not folds:
        return C_WITHOUT_GROUPS, {"C_from": "default, no fold of whole groups leaves two classes to train on"}
    right, fits = [0] * len(C_GRID), len(C_GRID) * len(folds)
    for done, ((k, c), (fit, held)) in enumerate(itertools.product(enumerate(C_GRID), folds)):
        on_progress(done, fits, f"C = {c:g}")
        right[k] += int(np.sum(_fit(features[fit], labels[fit], c).predict(features[held]) == labels[held]))
    on_progress(fits, fits, "")
    held_videos = sum(len(held) for _, held in folds)
    details = {
        "C_from": f"{len(folds)} folds over {count} groups of training videos",
        "C_videos": held_videos,
        "C_accuracy": {f"{c:g}": n / held_videos for c, n in zip(C_GRID, right, strict=True)},
    }
    return C_GRID[int(np.argmax(right))], details


def decision_values(svm: LinearSVC, features: np.ndarray, num_classes: int) -> np.ndarray:
    """Return float64 [N, num_classes] decision values; those of classes the SVM has not seen lie below all others."""
    seen = svm.decision_function(features)
    if seen.ndim == 1:
        # Of two classes, scikit-learn gives one value: positive for the second.
        seen = np.stack([-seen / 2, seen / 2], axis=1)
    decision = np.full((len(features), num_classes), seen.min() - UNSEEN_MARGIN)
    decision[:, svm.classes_] = seen
    return decision


def _fit(features: np.ndarray, labels: np.ndarray, c: float) -> LinearSVC:
    svm = LinearSVC(C=c, multi_class="crammer_singer", random_state=SVM_SEED, max_iter=MAX_ITER)
    with warnings.catch_warnings():
        # fuse.json says `converged` of the SVM that is used; the folds' need not be exact.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return svm.fit(features, labels)


def _read_all(test_paths: Sequence[Path], train_paths: Sequence[Path]) -> tuple[list[ScoreFile], list[ScoreFile]]:
    """Return test and training scores, all with the videos of the first of their kind and the classes of the first."""
    if len(test_paths) < 2:
        given = ", ".join(str(path) for path in test_paths) or "nothing"
        raise UserError(f"--scores={given}: fusion wants two score files or more, with commas between")
    if train_paths and len(train_paths) != len(test_paths):
        raise UserError(
            f"--train_scores has {len(train_paths)} files and --scores {len(test_paths)}: "
            "give the training scores of the same networks in the same order"
        )
    tests = _aligned("--scores", test_paths)
    trains = _aligned("--train_scores", train_paths)
    if trains:
        trains = [
            align_classes(tests[0], t, str(test_paths[0]), str(p)) for t, p in zip(trains, train_paths, strict=True)
        ]
        for test, train, path in zip(tests, trains, train_paths, strict=True):
            _refuse_foreign_training(test, train, path)
        _refuse_other_order(tests, trains, train_paths)
    return tests, trains


def _aligned(flag: str, paths: Sequence[Path]) -> list[ScoreFile]:
    files = [ScoreFile.read(path) for path in paths]
    aligned = files[:1] + [
        align(files[0], other, str(paths[0]), str(path)) for other, path in zip(files[1:], paths[1:], strict=True)
    ]
    for (one, a), (other, b) in itertools.combinations(zip(paths, aligned, strict=True), 2):
        if one.resolve() == other.resolve():
            raise UserError(f"{flag}: {one} is given twice: give the scores of two runs")
        # Both are asked for: collapsed nets may agree on every video, and another lab's run may bear the same name.
        same_run = all(a.provenance.get(key) == b.provenance.get(key) for key in ("workdir", "step", "streams"))
        if same_run and np.allclose(a.probs, b.probs, rtol=0, atol=SAME_SCORES):
            raise UserError(f"{flag}: {one} and {other} hold the same scores, those of one run: give those of two runs")
    return aligned


def _refuse_foreign_training(test: ScoreFile, train: ScoreFile, path: Path) -> None:
    """Raise UserError unless `train` holds training videos of the same network, task and split as `test`."""
    if train.subset != "train":
        raise UserError(f"--train_scores={path}: subset is {train.subset!r}: make it with --config.eval.subset=train")
    for key in ("task", "split", "folds"):
        ours, theirs = getattr(test, key), getattr(train, key)
        if ours != theirs:
            raise UserError(f"--train_scores={path}: {key} is {theirs!r}, that of --scores {ours!r}: they must agree")
    for key in ("model", "streams", "step"):
        ours, theirs = test.provenance.get(key), train.provenance.get(key)
        if ours != theirs:
            raise UserError(
                f"--train_scores={path}: {key} is {theirs!r}, that of its --scores file {ours!r}: "
                "give the training scores of the same networks in the same order"
            )
    shared = sorted(set(test.names) & set(train.names))
    if shared:
        raise UserError(
            f"--train_scores={path}: {len(shared)} of its videos are test videos too, such as {', '.join(shared[:3])}: "
            "an SVM must not be trained on what it is tested on"
        )


def _refuse_other_order(tests: Sequence[ScoreFile], trains: Sequence[ScoreFile], paths: Sequence[Path]) -> None:
    """Raise UserError where training scores stand at the place of another run's; runs that moved cannot be told apart."""
    runs = [scores.provenance.get("workdir") for scores in tests]
    for place, (train, path) in enumerate(zip(trains, paths, strict=True)):
        own = train.provenance.get("workdir")
        if own in runs and runs[place] != own:
            raise UserError(
                f"--train_scores={path}: is of the run {own}, its place is that of {runs[place]}: "
                "give the training scores of the same networks in the same order"
            )


def _input_entry(path: Path, scores: ScoreFile) -> dict[str, Any]:
    streams = scores.provenance.get("streams", ())
    words = "+".join(map(str, streams)) if isinstance(streams, list | tuple) else str(streams)
    return {"path": str(path), "streams": words} | accuracy_entry(scores)
