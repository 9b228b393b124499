from __future__ import annotations

import dataclasses
import json
import re
import zipfile

import numpy as np
import pytest

from input_pipeline.schema import UserError
from twostream_jax.scores import ScoreFile, align, align_classes


def make_scores(**changes) -> ScoreFile:
    """Return three videos of three classes, with `changes`."""
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]], np.float32)
    scores = ScoreFile(
        task="toy",
        split=1,
        subset="test",
        names=("v_a", "v_b", "v_c"),
        groups=("g1", "g2", "g2"),
        labels=np.array([0, 1, 2], np.int32),
        classes=("bend", "jack", "wave"),
        probs=probs,
        logits=np.log(probs),
        protocol="25x10",
        provenance={"workdir": "runs/toy", "step": 12, "streams": ["flow"]},
    )
    return dataclasses.replace(scores, **changes)


def assert_same(a: ScoreFile, b: ScoreFile) -> None:
    for field in dataclasses.fields(ScoreFile):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


def rewrite(path, **arrays) -> None:
    """Write the toy score file with some of its arrays replaced, or left out when None."""
    make_scores().write(path)
    with np.load(path) as stored:
        content = {key: stored[key] for key in stored.files} | arrays
    np.savez(path, **{key: value for key, value in content.items() if value is not None})


def test_what_is_written_is_read_back_with_its_dtypes(tmp_path):
    path = tmp_path / "new" / "scores.npz"
    make_scores(names=("v_a", "v_é", "v_c")).write(path)
    read = ScoreFile.read(path)
    assert_same(read, make_scores(names=("v_a", "v_é", "v_c")))
    assert (read.labels.dtype, read.probs.dtype, read.logits.dtype) == (np.int32, np.float32, np.float32)
    assert [file.name for file in path.parent.iterdir()] == ["scores.npz"]
    with np.load(path, allow_pickle=False) as stored:
        assert set(stored.files) == {"names", "groups", "labels", "classes", "probs", "logits", "meta"}
        assert json.loads(str(stored["meta"]))["protocol"] == "25x10"


def test_a_refused_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.npz"
    make_scores().write(path)
    with pytest.raises(UserError, match="logits is NaN or infinite, first for 'v_a'"):
        make_scores(logits=np.full((3, 3), np.nan, np.float32)).write(path)
    assert_same(ScoreFile.read(path), make_scores())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"probs": None}, "not a score file, it has no probs: give"),
        ({"meta": None}, "not a score file, it has no meta: give"),
        ({"meta": np.array("3")}, "not a score file ('int' object"),
        ({"meta": np.array("{")}, "not a score file (Expecting"),
        ({"meta": np.array("{}")}, "its meta lacks task, split, folds, subset, protocol, provenance"),
        ({"names": np.arange(3)}, "names is no list of words: run --mode=eval again"),
        ({"classes": np.array([["a", "b", "c"]])}, "classes is no list of words"),
        ({"probs": np.ones((3, 2), np.float32)}, "probs has shape (3, 2), 3 videos of 3 classes want (3, 3)"),
        ({"labels": np.zeros(4, np.int32)}, "labels has shape (4,), 3 videos of 3 classes want (3,)"),
        ({"groups": np.array(["g1"])}, "groups has 1 entries for 3 videos"),
        ({"names": np.array(["v_a", "v_b", "v_a"])}, "names lists 'v_a' twice"),
        ({"labels": np.array([0, 1, 3])}, "labels are not integers from 0 to 2"),
        ({"labels": np.array([0.0, 1.0, 2.0])}, "labels are not integers from 0 to 2"),
        ({"probs": np.eye(3, dtype=np.int32)}, "probs is int32, not float"),
        ({"probs": np.full((3, 3), np.nan)}, "probs is NaN or infinite, first for 'v_a'"),
        ({"probs": np.full((3, 3), 0.5)}, "probs are no probabilities, rows sum to 1.5 .. 1.5"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, arrays, message):
    path = tmp_path / "broken.npz"
    rewrite(path, **arrays)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        ScoreFile.read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_the_file_that_was_there_and_no_half(tmp_path, monkeypatch):
    path = tmp_path / "scores.npz"
    make_scores().write(path)

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match=r"scores\.npz: cannot be written \(No space left on device\); make room"):
        make_scores(split=2).write(path)
    assert_same(ScoreFile.read(path), make_scores())
    assert [file.name for file in tmp_path.iterdir()] == ["scores.npz"]
    with pytest.raises(UserError, match=r"scores\.npz/b\.npz: cannot be written \(File exists\); make room"):
        make_scores().write(path / "b.npz")


def test_a_header_that_claims_terabytes_is_refused_before_memory_is_taken(tmp_path):
    path, damaged = tmp_path / "scores.npz", tmp_path / "damaged.npz"
    make_scores().write(path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(damaged, "w") as changed:
        for name in stored.namelist():
            content = stored.read(name)
            if name == "probs.npy":
                assert b"(3, 3), }" + 11 * b" " in content
                content = content.replace(b"(3, 3), }" + 11 * b" ", b"(300000000000, 3), }")
            changed.writestr(name, content)
    with pytest.raises(
        UserError, match=r"damaged\.npz: not a score file \(probs claims 3600000000000 bytes where 36 can"
    ):
        ScoreFile.read(damaged)


def test_an_empty_set_and_a_foreign_subset_are_refused(tmp_path):
    empty = make_scores().take([])
    with pytest.raises(UserError, match="no video in it"):
        empty.write(tmp_path / "empty.npz")
    with pytest.raises(UserError, match="subset 'dev' is none of train, validation, test"):
        make_scores(subset="dev").write(tmp_path / "dev.npz")


def test_missing_files_and_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.npz: no such score file"):
        ScoreFile.read(tmp_path / "absent.npz")
    for name, content in [("text.npz", b"not a zip"), ("empty.npz", b""), ("cut.npz", b"PK\x03\x04 cut")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: not a score file"):
            ScoreFile.read(tmp_path / name)
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"one\.npz: not a score file"):
        ScoreFile.read(tmp_path / "one.npz")


class Marker:
    """Leaves a trace when unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_a_pickled_object_is_refused_and_never_runs(tmp_path):
    path = tmp_path / "pickled.npz"
    rewrite(path, names=np.array([Marker(), Marker(), Marker()], dtype=object))
    with pytest.raises(UserError, match="not a score file"):
        ScoreFile.read(path)


def test_align_matches_videos_and_classes_by_name():
    a = make_scores()
    # The same scores, videos reversed and classes listed as wave, bend, jack.
    b = dataclasses.replace(
        a,
        names=("v_c", "v_b", "v_a"),
        groups=("g2", "g2", "g1"),
        classes=("wave", "bend", "jack"),
        labels=np.array([0, 2, 1], np.int32),
        probs=np.array([[0.5, 0.2, 0.3], [0.3, 0.1, 0.6], [0.1, 0.7, 0.2]], np.float32),
    )
    b = dataclasses.replace(b, logits=np.log(b.probs))
    assert_same(align(a, b), a)
    assert align(a, b).labels.dtype == np.int32


def test_align_undoes_any_permutation():
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(5), size=7).astype(np.float32)
    a = make_scores(
        names=tuple(f"v{i}" for i in range(7)),
        groups=tuple("abcdefg"),
        classes=tuple("pqrst"),
        labels=rng.integers(0, 5, 7).astype(np.int32),
        probs=probs,
        logits=np.log(probs),
    )
    for _ in range(10):
        columns, videos = rng.permutation(5), rng.permutation(7)
        shuffled = align_classes(make_scores(classes=tuple(a.classes[i] for i in columns)), a).take(videos)
        assert shuffled.classes == tuple(a.classes[i] for i in columns)
        assert_same(align(a, shuffled), a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "hmdb"}, "one.npz has task 'toy' and two.npz 'hmdb'"),
        ({"split": 2}, "one.npz has split 1 and two.npz 2"),
        ({"subset": "train"}, "one.npz has subset 'test' and two.npz 'train'"),
        ({"protocol": "center"}, "one.npz has protocol '25x10' and two.npz 'center'"),
        (
            {"names": ("v_a", "v_x", "v_y")},
            "one.npz (3 videos) and two.npz (3) hold different videos: "
            "only in one.npz: v_b, v_c; only in two.npz: v_x, v_y",
        ),
        (
            {"classes": ("bend", "jack", "skip")},
            "one.npz (3 classes) and two.npz (3) hold different classes: only in one.npz: wave; only in two.npz: skip",
        ),
        (
            {"labels": np.array([0, 2, 1], np.int32)},
            "one.npz and two.npz disagree on the label of 2 of 3 videos, such as 'v_b' ('jack' and 'wave')",
        ),
    ],
)
def test_align_refuses_what_is_not_comparable(changes, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        align(make_scores(), make_scores(**changes), "one.npz", "two.npz")
    assert "\n" not in str(error.value)


def test_align_names_three_videos_and_counts_the_rest():
    a = make_scores()
    ids = tuple(f"w{i}" for i in range(5))
    labels = np.array([0, 1, 2, 0, 1], np.int32)
    rows = [0, 1, 2, 0, 1]
    b = make_scores(names=ids, groups=ids, labels=labels, probs=a.probs[rows], logits=a.logits[rows])
    with pytest.raises(UserError, match=r"\(3 videos\) .* \(5\) .*only in the second: w0, w1, w2 and 2 more"):
        align(a, b)
    superset = make_scores(
        names=a.names + ids[:1],
        groups=a.groups + ids[:1],
        labels=np.array([0, 1, 2, 0], np.int32),
        probs=a.probs[[0, 1, 2, 0]],
        logits=a.logits[[0, 1, 2, 0]],
    )
    with pytest.raises(UserError, match="none only in the first score file; only in the second: w0"):
        align(a, superset)
