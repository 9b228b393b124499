from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from input_pipeline.schema import UserError
from twostream_jax.drivers import fuse as driver
from twostream_jax.scores import ScoreFile

CLASSES = ("bend", "jack", "wave")


def make_scores(probs, labels, *, subset="test", prefix="t", groups=None, classes=CLASSES, streams="rgb") -> ScoreFile:
    probs = np.asarray(probs, np.float32)
    names = tuple(f"{prefix}{i}" for i in range(len(probs)))
    return ScoreFile(
        task="toy",
        split=1,
        subset=subset,
        names=names,
        groups=names if groups is None else tuple(groups),
        labels=np.asarray(labels, np.int32),
        classes=classes,
        probs=probs,
        logits=np.log(probs),
        protocol="25x10",
        provenance={"workdir": streams, "step": 5, "model": "cnn_m", "streams": [streams]},
    )


def toy_streams(count: int, *, subset: str, prefix: str, seed: int) -> tuple[ScoreFile, ScoreFile]:
    """Return two streams: rgb tells only bend from the rest, flow only jack from the rest; together they tell all."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    rgb = np.array([[0.8, 0.1, 0.1], [0.1, 0.45, 0.45], [0.1, 0.45, 0.45]])[labels]
    flow = np.array([[0.45, 0.1, 0.45], [0.1, 0.8, 0.1], [0.45, 0.1, 0.45]])[labels]
    streams = []
    for name, probs in (("rgb", rgb), ("flow", flow)):
        probs = probs + rng.uniform(0, 0.02, probs.shape)
        groups = [f"g{i // 3}" for i in range(count)]
        probs = probs / probs.sum(axis=1, keepdims=True)
        streams.append(make_scores(probs, labels, subset=subset, prefix=prefix, groups=groups, streams=name))
    return streams[0], streams[1]


def write(folder, *scores: ScoreFile) -> list:
    paths = [folder / f"{s.provenance['streams'][0]}_{s.subset}.npz" for s in scores]
    for path, score in zip(paths, scores, strict=True):
        score.write(path)
    return paths


def two_hand_made() -> tuple[ScoreFile, ScoreFile]:
    labels = [0, 1, 2]
    a = make_scores([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.2, 0.5, 0.3]], labels)
    b = make_scores([[0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]], labels, streams="flow")
    return a, b


def test_average_of_hand_made_scores(tmp_path):
    result = driver.fuse(write(tmp_path, *two_hand_made()), [], tmp_path / "fused")
    fused = ScoreFile.read(tmp_path / "fused" / "fused_average.npz")
    expected = [[0.4, 0.45, 0.15], [0.3, 0.6, 0.1], [0.25, 0.45, 0.3]]
    # Halves of float32 sums: off by one rounding of the inputs, 2^-24 relative.
    np.testing.assert_allclose(fused.probs, expected, rtol=1e-6)
    # sqrt(p q) is what the mean of logs stands for.
    np.testing.assert_allclose(np.exp(fused.logits[0]), np.sqrt([0.12, 0.18, 0.02]), rtol=1e-6)
    # Right per stream: video 0 of a; video 1 of b; fused: video 1 alone.
    assert [entry["correct"] for entry in result["inputs"]] == [1, 1]
    entry = result["average"]
    assert (entry["correct"], entry["videos"], entry["accuracy"]) == (1, 3, 1 / 3)
    assert (entry["protocol"], entry["task"], entry["split"], entry["subset"]) == ("25x10", "toy", 1, "test")
    # Wilson for 1 of 3, by hand: (1/3 + z^2/6 +- z sqrt(2/27 + z^2/36)) / (1 + z^2/3), z = 1.959964.
    np.testing.assert_allclose(entry["interval95"], [0.0614919, 0.7923404], atol=1e-6)
    assert "svm" not in result
    assert result == json.loads((tmp_path / "fused" / "fuse.json").read_text())
    assert fused.provenance["fusion"] == "average"
    assert [p["streams"] for p in fused.provenance["inputs"]] == [["rgb"], ["flow"]]


def test_the_pictures_are_of_the_svm_where_there_is_one(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(driver.pictures, "confusion_matrix", lambda path, scores: drawn.append((path.name, scores)))
    monkeypatch.setattr(driver.pictures, "per_class_recall", lambda path, streams: drawn.append((path.name, streams)))
    tests = write(tmp_path, *toy_streams(12, subset="test", prefix="t", seed=0))
    trains = write(tmp_path, *toy_streams(24, subset="train", prefix="r", seed=1))
    driver.fuse(tests, [], tmp_path / "a")
    driver.fuse(tests, trains, tmp_path / "b")
    (_, average), (_, by_class), (_, svm), (_, by_svm) = drawn
    assert [name for name, _ in drawn] == ["confusion.png", "recall.png"] * 2
    assert average.provenance["fusion"] == "average" and svm.provenance["fusion"] == "svm"
    assert list(by_class) == ["rgb", "flow", "fused by average"] and list(by_svm) == ["rgb", "flow", "fused by SVM"]
    np.testing.assert_array_equal(by_svm["fused by SVM"].probs, svm.probs)


def test_two_nets_of_one_stream_have_two_names_in_the_picture(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(driver.pictures, "per_class_recall", lambda path, streams: names.extend(streams))
    a, b = two_hand_made()
    b = dataclasses.replace(b, provenance=b.provenance | {"streams": ["rgb"]})
    a.write(tmp_path / "a.npz")
    b.write(tmp_path / "b.npz")
    driver.fuse([tmp_path / "a.npz", tmp_path / "b.npz"], [], tmp_path / "fused")
    assert (
        names == ["rgb", "rgb 2", "fused by average"] and (tmp_path / "fused" / "confusion.png").stat().st_size > 1000
    )


def test_order_of_videos_and_classes_does_not_matter(tmp_path):
    a, b = two_hand_made()
    permuted = dataclasses.replace(
        b.take([2, 0, 1]),
        classes=("wave", "bend", "jack"),
        labels=((b.labels + 1) % 3)[[2, 0, 1]],
        probs=b.probs[[2, 0, 1]][:, [2, 0, 1]],
        logits=b.logits[[2, 0, 1]][:, [2, 0, 1]],
    )
    plain, other = tmp_path / "plain", tmp_path / "permuted"
    driver.fuse(write(tmp_path / "p", a, b), [], plain)
    driver.fuse(write(tmp_path / "q", a, permuted), [], other)
    first, second = (ScoreFile.read(folder / "fused_average.npz") for folder in (plain, other))
    assert first.names == second.names and first.classes == second.classes
    np.testing.assert_array_equal(first.probs, second.probs)


def test_svm_joins_what_each_stream_knows(tmp_path):
    tests = write(tmp_path, *toy_streams(30, subset="test", prefix="t", seed=0))
    train_streams = toy_streams(60, subset="train", prefix="u", seed=1)
    trains = write(tmp_path, *train_streams)
    result = driver.fuse(tests, trains, tmp_path / "fused")
    assert all(entry["correct"] < 30 for entry in result["inputs"])
    assert result["svm"]["correct"] == 30
    assert result["svm"]["converged"] and result["svm"]["training_videos"] == 60
    assert result["svm"]["classes_without_training_videos"] == []
    # Separable: every C is right on every fold, and ties go to the smallest.
    assert set(result["svm"]["C_accuracy"].values()) == {1.0}
    assert result["svm"]["C"] == 2**-4
    assert result["svm"]["C_from"] == "5 folds over 20 groups of training videos"
    assert [entry["subset"] for entry in result["train_inputs"]] == ["train", "train"]
    svm = ScoreFile.read(tmp_path / "fused" / "fused_svm.npz")
    np.testing.assert_array_equal(svm.logits.argmax(1), svm.labels)
    exponent = np.exp(svm.logits.astype(np.float64))
    np.testing.assert_allclose(svm.probs, exponent / exponent.sum(1, keepdims=True), rtol=1e-5)

    shuffled = [s.take(np.random.default_rng(i).permutation(60)) for i, s in enumerate(train_streams)]
    again = driver.fuse(tests, write(tmp_path / "shuffled", *shuffled), tmp_path / "again")
    assert again["svm"]["accuracy"] == result["svm"]["accuracy"]
    driver.fuse(tests, trains, tmp_path / "repeat")
    np.testing.assert_array_equal(ScoreFile.read(tmp_path / "repeat" / "fused_svm.npz").logits, svm.logits)

    driver.fuse(tests, [], tmp_path / "fused")
    assert not (tmp_path / "fused" / "fused_svm.npz").exists(), "an SVM of an earlier run must not stay behind"


def test_features_have_unit_norm_per_stream():
    probs = [[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]]
    with np.errstate(divide="ignore"):
        scores = make_scores(probs, [0, 0])
    features = driver.stacked_features([scores, scores])
    # 0.6 and 0.8 are float32 here, so a relative 2^-24.
    np.testing.assert_allclose(features, [[0.6, 0.8, 0, 0.6, 0.8, 0], [1, 0, 0, 1, 0, 0]], rtol=1e-7)


def binary(count: int, subset: str, prefix: str, seed: int) -> list[ScoreFile]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    streams = []
    for name in ("rgb", "flow"):
        second = np.where(labels == 1, 0.7, 0.4) + rng.uniform(-0.1, 0.1, count)
        probs = np.stack([1 - second, second], axis=1)
        streams.append(
            make_scores(probs, labels, subset=subset, prefix=prefix, classes=("noFight", "fight"), streams=name)
        )
    return streams


def test_two_classes_keep_their_order(tmp_path):
    tests, trains = binary(20, "test", "t", 0), binary(40, "train", "u", 1)
    scores, _ = driver.svm_scores(tests, trains)
    assert scores.probs.shape == (20, 2)
    np.testing.assert_array_equal(scores.probs.argmax(1), scores.labels)
    np.testing.assert_allclose(scores.logits.sum(1), 0, atol=1e-6)


def test_a_class_without_training_videos_comes_last():
    tests = toy_streams(30, subset="test", prefix="t", seed=0)
    trains = [s.take(np.flatnonzero(s.labels != 1)) for s in toy_streams(60, subset="train", prefix="u", seed=1)]
    scores, details = driver.svm_scores(tests, trains)
    assert details["classes_without_training_videos"] == ["jack"]
    assert np.isfinite(scores.logits).all()
    assert (scores.probs[:, 1] == 0).all()
    assert (scores.logits[:, 1] < scores.logits[:, [0, 2]].min(axis=1)).all()
    seen = scores.labels != 1
    np.testing.assert_array_equal(scores.probs.argmax(1)[seen], scores.labels[seen])


def no_progress(*_):
    """Take what is told of progress."""


def test_c_is_the_default_where_groups_allow_no_choice():
    features, labels = np.eye(4), np.array([0, 0, 1, 1])
    chosen, details = driver.choose_c(features, labels, np.array(["g"] * 4), no_progress)
    assert (chosen, details) == (1.0, {"C_from": "default, the training videos have 1 group and folds want two"})
    # Each class is one group: to hold one out leaves a single class.
    chosen, details = driver.choose_c(features, labels, np.array(["g", "g", "h", "h"]), no_progress)
    assert (chosen, details) == (1.0, {"C_from": "default, no fold of whole groups leaves two classes to train on"})


def test_c_rises_where_a_larger_one_is_needed():
    # One video in six is of class 1, a hair (0.1) away: under strong regularisation the majority swallows it.
    labels = (np.arange(60) % 6 == 0).astype(int)
    features = np.stack([np.ones(60), 0.1 * labels], axis=1)
    told = []
    groups = np.array([f"g{i // 6}" for i in range(60)])
    chosen, details = driver.choose_c(features, labels, groups, lambda *progress: told.append(progress))
    # Five folds for each of seven values, and the end.
    assert [done for done, *_ in told] == list(range(36)) and {total for _, total, _ in told} == {35}
    assert told[0][2] == "C = 0.0625" and told[34][2] == "C = 256" and details["C_videos"] == 60
    accuracies = list(details["C_accuracy"].values())
    assert accuracies[0] == pytest.approx(50 / 60)
    assert max(accuracies) == 1.0
    assert chosen == driver.C_GRID[accuracies.index(max(accuracies))]


def test_summary_lines(tmp_path):
    entry = {
        "accuracy": 52 / 54,
        "correct": 52,
        "videos": 54,
        "interval95": [0.8747, 0.98977],
        "protocol": "25x10",
        "task": "demo",
        "split": 1,
        "folds": 0,
        "subset": "test",
    }
    result = {"inputs": [entry | {"path": "x/a.npz", "streams": ""}], "average": entry, "svm": entry}
    assert driver.summary_lines(result) == [
        "a alone           25x10  demo split 1 test  96.3 % (52/54)  95 %: [87.5, 99.0]",
        "fused by average  25x10  demo split 1 test  96.3 % (52/54)  95 %: [87.5, 99.0]",
        "fused by SVM      25x10  demo split 1 test  96.3 % (52/54)  95 %: [87.5, 99.0]",
    ]


def test_one_file_is_refused(tmp_path):
    paths = write(tmp_path, two_hand_made()[0])
    with pytest.raises(UserError, match=r"--scores=.*rgb_test.npz: fusion wants two score files or more"):
        driver.fuse(paths, [], tmp_path)
    with pytest.raises(UserError, match="--scores=nothing"):
        driver.fuse([], [], tmp_path)


def test_one_run_given_twice_is_refused(tmp_path):
    a, b = two_hand_made()
    path, other = write(tmp_path, a, b)
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=r"--scores: .*rgb_test\.npz is given twice"):
        driver.fuse([path, tmp_path / "x" / ".." / path.name], [], tmp_path / "fused")
    # A second scoring of the same run, on another device: other last digits.
    again = dataclasses.replace(a, probs=(a.probs + np.float32([1e-6, -1e-6, 0])).take([0, 1, 2], axis=1))
    again.write(tmp_path / "again.npz")
    with pytest.raises(UserError, match=r"again\.npz hold the same scores, those of one run"):
        driver.fuse([other, path, tmp_path / "again.npz"], [], tmp_path / "fused")
    trains = write(tmp_path, *toy_streams(6, subset="train", prefix="u", seed=1))
    with pytest.raises(UserError, match=r"--train_scores: .*rgb_train\.npz is given twice"):
        driver.fuse([path, other], trains[:1] * 2, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
    # Two nets that collapsed to the same class are still two.
    collapsed = [dataclasses.replace(s, probs=np.float32([[1, 0, 0]] * 3)) for s in (a, b)]
    assert driver.fuse(write(tmp_path / "two", *collapsed), [], tmp_path / "fused")["average"]["correct"] == 1


def test_training_scores_of_two_runs_of_one_net_may_not_change_places(tmp_path):
    """Two seeds of the same net differ in nothing but their run."""
    tests, trains = (
        [
            dataclasses.replace(s, provenance=s.provenance | {"workdir": f"runs/{i}", "streams": ["rgb"]})
            for i, s in enumerate(toy_streams(6, subset=subset, prefix=subset, seed=0))
        ]
        for subset in ("test", "train")
    )
    paths = []
    for number, scores in enumerate([*tests, *trains]):
        paths.append(tmp_path / f"{number}.npz")
        scores.write(paths[-1])
    with pytest.raises(UserError, match=r"3\.npz: is of the run runs/1, its place is that of runs/0: .*same order"):
        driver.fuse(paths[:2], paths[:1:-1], tmp_path / "fused")
    driver.fuse(paths[:2], paths[2:], tmp_path / "fused")


def test_a_folder_that_cannot_be_written_to_is_found_before_the_svm(tmp_path, monkeypatch):
    tests = write(tmp_path, *toy_streams(6, subset="test", prefix="t", seed=0))
    trains = write(tmp_path, *toy_streams(6, subset="train", prefix="u", seed=1))
    monkeypatch.setattr(driver, "svm_scores", lambda *_: pytest.fail("an SVM was trained"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--workdir=.*file: cannot be written to \(File exists\)"):
        driver.fuse(tests, trains, tmp_path / "file")


def test_the_svm_leaves_no_warning_and_shows_its_progress(tmp_path, capfd, recwarn):
    tests = write(tmp_path, *toy_streams(30, subset="test", prefix="t", seed=0))
    trains = write(tmp_path, *toy_streams(60, subset="train", prefix="u", seed=1))
    driver.fuse(tests, trains, tmp_path / "fused")
    captured = capfd.readouterr()
    assert not recwarn.list and captured.out == ""
    assert captured.err.startswith("fuse: SVM: 35/35 fits, ") and captured.err.count("\n") == 1


def test_files_that_do_not_belong_together_are_named(tmp_path):
    a, b = two_hand_made()
    paths = write(tmp_path, a, dataclasses.replace(b, split=3))
    with pytest.raises(UserError, match=r"rgb_test\.npz has split 1 and .*flow_test\.npz 3"):
        driver.fuse(paths, [], tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subset": "validation"}, "subset is 'validation': make it with --config.eval.subset=train"),
        ({"task": "other"}, "task is 'other', that of --scores 'toy'"),
        ({"split": 2}, "split is 2, that of --scores 1"),
        ({"classes": ("bend", "jack", "skip")}, "only in"),
        ({"names": ("t0", "u1", "t2")}, "2 of its videos are test videos too, such as t0, t2"),
        ({"labels": np.array([2, 2, 2], np.int32)}, "every training video is of the class 'wave', an SVM wants two"),
    ],
)
def test_foreign_training_scores_are_refused(tmp_path, changes, message):
    tests = two_hand_made()
    trains = [
        dataclasses.replace(s, **{"subset": "train", "names": ("u0", "u1", "u2")} | changes) for s in two_hand_made()
    ]
    train_paths = write(tmp_path / "train", *trains)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        driver.fuse(write(tmp_path, *tests), train_paths, tmp_path / "fused")
    assert "\n" not in str(error.value)


def test_training_scores_of_other_networks_are_refused(tmp_path):
    tests = write(tmp_path, *toy_streams(6, subset="test", prefix="t", seed=0))
    trains = write(tmp_path, *toy_streams(6, subset="train", prefix="u", seed=1))
    with pytest.raises(UserError, match=r"streams is \['flow'\], that of its --scores file \['rgb'\]: .*same order"):
        driver.fuse(tests, trains[::-1], tmp_path)
    with pytest.raises(UserError, match="--train_scores has 1 files and --scores 2"):
        driver.fuse(tests, trains[:1], tmp_path)
