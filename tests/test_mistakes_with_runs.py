"""Mistakes with a trained run, its records and score files at hand; see test_mistakes.py for all others."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from command_line import forbid_devices, refused
from tiny_clips import sealed

from input_pipeline.schema import SCHEMA_VERSION
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers.train import train
from twostream_jax.scores import ScoreFile

COUNTING = ("devices", "local_devices")

# Each: the arguments, and what the one line must say. Words in {} are folders and files that `lab` makes.
WITH_A_RUN = [
    # Another net, other inputs, another division than the checkpoint's.
    (
        ["--mode=eval", "--workdir={run}", "--config.model.width=0.125"],
        "model.width=0.125: the net in {run} was trained",
    ),
    (
        ["--mode=eval", "--workdir={run}", "--config.input.stack=2"],
        "input.stack=2: the net in {run} was trained with 3",
    ),
    (["--mode=eval", "--workdir={run}", "--config.data.folds=3"], "data.folds=3: the net in {run} was trained with 0"),
    (["--mode=eval", "--workdir={run}", "--config.data.seed=7"], "data.seed=7: the net in {run} was trained with 0"),
    (["--mode=eval", "--workdir={run}", "--config.data.split=2"], "data.split=2 is not stored (the records hold: 1)"),
    (
        ["--mode=eval", "--workdir={run}", "--config.input.crop=44"],
        "input.crop=44: the net in {run} was trained with 41",
    ),
    (["--mode=eval", "--workdir={run}", "--config.input.crop=64"], "input.crop=64: larger than the stored frames"),
    (
        ["--mode=eval", "--workdir={run}", "--config.data.short_side=99", "--config.input.crop=64"],
        "smallest stored frame",
    ),
    # Checkpoints.
    (
        ["--mode=eval", "--workdir={run}", "--config.eval.checkpoint=7"],
        "eval.checkpoint=7: not among the saved steps 1",
    ),
    (["--mode=eval", "--workdir={run}", "--config.eval.checkpoint=best"], "eval.checkpoint=best: this run held out no"),
    (["--mode=eval", "--workdir={run}", "--config.eval.subset=validation"], "set data.validation_fraction above 0"),
    (["--mode=eval", "--workdir={damaged_run}"], "{damaged_run}/checkpoints/1: damaged ("),
    (["--mode=inspect", "--workdir={damaged_run}"], "{damaged_run}/checkpoints/1: damaged ("),
    (["--mode=predict", "--video={clip}", "--runs={damaged_run}"], "{damaged_run}/checkpoints/1: damaged ("),
    # Records of something else.
    (
        ["--mode=eval", "--workdir={run}", "--config.data.records={other}"],
        "unknown to the net juggling; use the records",
    ),
    (["--mode=eval", "--workdir={run}", "--config.data.records={rgb_only}"], "{rgb_only}: holds rgb but no flow"),
    (["--mode=eval", "--workdir={run}", "--config.data.records={newer}"], "newer/dataset.json: has schema version 99"),
    (["--mode=eval", "--workdir={run}", "--config.data.records={cut}"], "cut/dataset.json: cannot be read"),
    (["--mode=eval", "--workdir={run}", "--config.data.classes=red-bob,juggling"], "data.classes=red-bob,juggling:"),
    (
        ["--workdir={run}", "--config.data.records={other}", "--config.train.steps=9"],
        "{other}: not the records that the run in {run} began with",
    ),
    (
        ["--workdir={run}", "--config.train.batch_size=8", "--config.train.steps=9"],
        "train.batch_size was 16, is 8; restore",
    ),
    (["--workdir={run}", "--config.data.validation_fraction=0.999"], "data.validation_fraction"),
    (["--mode=demo", "--workdir={run}"], "--workdir={run}: is the run of one net"),
    # Predict.
    (["--mode=predict", "--video={clip}", "--runs={run},{run}/"], "--runs: {run} is given twice; give each run once"),
    (
        ["--mode=predict", "--video={clip}", "--runs={run},{jugglers}"],
        "trained on different classes (only in the first: ",
    ),
    (
        ["--mode=predict", "--video={clip}", "--runs={run},{center}"],
        "scores by 4x10 and {center} by center; set --config.ev",
    ),
    (["--mode=predict", "--video={clip}", "--runs={run},{here}/none"], "--workdir={here}/none: holds no config.json"),
    (
        ["--mode=predict", "--video={clip}", "--runs={run}", "--config.model.width=2"],
        "model.width=2.0: the net in {run}",
    ),
    (["--mode=predict", "--video={text}", "--runs={run}"], "--video={text}: cannot be opened as a video"),
    (["--mode=predict", "--video={clip}.gone", "--runs={run}"], "there is no such file"),
    (["--mode=predict", "--video={clip}", "--runs={run}", "--annotate=a.avi"], "--annotate=a.avi: must be a .mp4 in a"),
    (["--mode=predict", "--video={clip}", "--runs={run}", "--annotate={here}/no/a.mp4"], "must be a .mp4 in a folder"),
    (
        ["--mode=predict", "--video={clip}", "--runs={run}", "--annotate={run}", "--window=2"],
        "--annotate={run}: must be a .mp4",
    ),
    (["--mode=predict", "--video={text}", "--runs={run}", "--window=2"], "--video={text}: cannot be opened as a video"),
    (["--mode=predict", "--video={here}", "--runs={run}", "--window=2"], "--video={here}: is a folder; give one file"),
    (["--mode=predict", "--camera={here}/none", "--runs={run}"], "--camera={here}/none: there is no such camera, or"),
    (
        ["--mode=predict", "--camera={text}", "--runs={run}"],
        "--camera={text}: there is no such camera, or it is in use",
    ),
    (["--mode=predict", "--camera=0", "--runs={run}", "--annotate=a.gif"], "--annotate=a.gif: must be a .mp4"),
    # Inspect.
    (
        ["--mode=inspect", "--workdir={run}", "--config.eval.checkpoint=3"],
        "eval.checkpoint=3: not among the saved steps 1",
    ),
    (["--mode=inspect", "--workdir={run}", "--config.model.width=2"], "model.width=2.0: the net in {run}"),
]

# Each: how a second score file differs from the first, and the line. See `write_scores`.
OF_TWO_SCORE_FILES = [
    ({"subset": "train"}, "a.npz has subset 'test' and {b} 'train': evaluate both with the same settings"),
    ({"split": 2}, "a.npz has split 1 and {b} 2"),
    ({"folds": 5}, "a.npz has folds 0 and {b} 5"),
    ({"protocol": "center"}, "a.npz has protocol '25x10' and {b} 'center'"),
    ({"task": "hmdb51"}, "a.npz has task 'toy' and {b} 'hmdb51'"),
    (
        {"classes": ("bend", "jack", "skip")},
        "only in {here}/a.npz: wave; only in {b}: skip: evaluate both with the same",
    ),
    ({"names": ("v0", "v1", "v9")}, "only in {here}/a.npz: v2; only in {b}: v9: evaluate both on the same records"),
    ({"labels": np.int32([0, 1, 1])}, "disagree on the label of 1 of 3 videos, such as 'v2' ('wave' and 'jack')"),
]

WITH_SCORES = [
    (["--scores={here}/a.npz"], "--scores={here}/a.npz: fusion wants two score files or more"),
    (["--scores={here}/a.npz,{here}/a.npz"], "--scores: {here}/a.npz is given twice: give the scores of two runs"),
    (["--scores={here}/a.npz,{here}/copy.npz"], "copy.npz hold the same scores, those of one run"),
    (["--scores={here}/a.npz,{text}"], "{text}: not a score file (File is not a zip file)"),
    (["--scores={here}/a.npz,{here}/half.npz"], "half.npz: not a score file ("),
    (["--scores={here}/a.npz,{here}/other.npz"], "other.npz: not a score file, it has no names, groups"),
    (["--scores={here}/a.npz,{here}/none.npz"], "none.npz: no such score file"),
    (["--scores={both}", "--train_scores={both}"], "--train_scores={here}/a.npz: subset is 'test': make it with"),
    (["--scores={both}", "--train_scores={here}/a_train.npz"], "--train_scores has 1 files and --scores 2"),
    (["--scores={both}", "--train_scores={here}/b_train.npz,{here}/a_train.npz"], "streams is ['flow'], that of its"),
    (
        ["--scores={both}", "--train_scores={here}/a_train.npz,{here}/a_train.npz"],
        "--train_scores: {here}/a_train.npz is",
    ),
    (["--scores={both}", "--workdir={text}"], "--workdir={text}: cannot be written to (File exists)"),
    (
        ["--scores={both}", "--config=configs/demo.py", "--config.seed=1"],
        "mode fuse takes --scores, --train_scores and",
    ),
]


@pytest.fixture(scope="module")
def lab(tiny_config, tmp_path_factory):
    """A run of one step, records and runs that differ from it, and score files: {name: path}."""
    here = tmp_path_factory.mktemp("lab")
    config = tiny_config.copy_and_resolve_references()
    config.train.steps = config.train.checkpoint_every = 1
    everyone = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: everyone[:1])
        train(config, here / "run")
    places = {"here": here, "run": here / "run", "text": here / "text.avi"}
    places["text"].write_text("no video, no scores")
    places["clip"] = next(iter(sorted((here / config.data.split_file).parent.glob("*/*.avi"))))
    places |= other_records(here, config.data.records) | other_runs(here)
    write_scores(here)
    return {name: str(path) for name, path in places.items()} | {"both": f"{here}/a.npz,{here}/b.npz"}


def other_records(here, records) -> dict:
    changes = {
        "other": lambda text: sealed(
            text.replace('"red-bob"', '"juggling"', 1).replace('"checksum": "', '"checksum": "0')
        ),
        "rgb_only": lambda text: sealed(text.replace('"streams": ["rgb", "flow"]', '"streams": ["rgb"]')),
        "newer": lambda text: text.replace(f'"schema": {SCHEMA_VERSION}', '"schema": 99'),
        "cut": lambda text: text[: len(text) // 2],
    }
    for name, change in changes.items():
        shutil.copytree(records, here / name)
        path = here / name / "dataset.json"
        before = path.read_text()
        path.write_text(change(before))
        assert path.read_text() != before, name
    return {name: here / name for name in changes}


def other_runs(here) -> dict:
    """Return runs made from `run`: one whose arrays are gone, one of other classes, one with one crop."""
    for name in ("damaged_run", "center"):
        shutil.copytree(here / "run", here / name)
    shutil.rmtree(here / "damaged_run" / "checkpoints" / "1" / "config")
    with Checkpoints(here / "run", read_only=True) as checkpoints:
        document = json.loads(json.dumps(checkpoints.config(1)).replace("red-bob", "juggling"))
    with Checkpoints(here / "jugglers") as checkpoints:
        checkpoints.save(1, {"step": np.zeros(())}, document, None)
    path = here / "center" / "config.json"
    config = json.loads(path.read_text())
    config["eval"]["crops"] = 1
    path.write_text(json.dumps(config))
    for name in ("fresh", "jugglers"):
        (here / name).mkdir(exist_ok=True)
        shutil.copy(here / "run" / "config.json", here / name)
    return {name: here / name for name in ("damaged_run", "jugglers", "center", "fresh")}


def scores(stream: str, seed: int, **changes) -> ScoreFile:
    probs = np.random.default_rng(seed).dirichlet(np.ones(3), 3).astype(np.float32)
    names = ("v0", "v1", "v2")
    provenance = {"workdir": f"runs/{stream}", "step": 5, "model": "cnn_m", "streams": [stream]}
    made = ScoreFile(
        "toy", 1, "test", names, names, np.arange(3, dtype=np.int32), ("bend", "jack", "wave"), probs, probs, "25x10",
        provenance,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def write_scores(here) -> None:
    scores("rgb", 0).write(here / "a.npz")
    scores("rgb", 0).write(here / "copy.npz")
    scores("flow", 1).write(here / "b.npz")
    for name, stream in (("a_train", "rgb"), ("b_train", "flow")):
        scores(stream, 2, subset="train", names=("u0", "u1", "u2")).write(here / f"{name}.npz")
    (here / "half.npz").write_bytes((here / "a.npz").read_bytes()[:-300])
    np.savez(here / "other.npz", x=np.zeros(3))


def check(capsys, monkeypatch, tmp_path, lab, arguments, line, allowed=()) -> None:
    monkeypatch.chdir(tmp_path)
    forbid_devices(monkeypatch, allowed)
    *filled, line = (text.format(**lab) for text in (*arguments, line))
    refused(capsys, filled, line)


@pytest.mark.parametrize(("arguments", "line"), WITH_A_RUN, ids=[" ".join(a) for a, _ in WITH_A_RUN])
def test_a_mistake_with_a_run(arguments, line, capsys, tmp_path, lab, monkeypatch):
    """Nothing is computed or copied to a device; orbax counts the devices to read a checkpoint's JSON."""
    check(capsys, monkeypatch, tmp_path, lab, arguments, line, allowed=COUNTING)


@pytest.mark.parametrize(("arguments", "line"), WITH_SCORES, ids=[" ".join(a) for a, _ in WITH_SCORES])
def test_a_mistake_with_score_files(arguments, line, capsys, tmp_path, lab, monkeypatch):
    check(capsys, monkeypatch, tmp_path, lab, ["--mode=fuse", *arguments], line)
    assert not (tmp_path / "runs" / "fused" / "fuse.json").exists()


@pytest.mark.parametrize(("changes", "line"), OF_TWO_SCORE_FILES, ids=[next(iter(c)) for c, _ in OF_TWO_SCORE_FILES])
def test_score_files_that_cannot_be_fused(changes, line, capsys, tmp_path, lab, monkeypatch):
    scores("flow", 1, **changes).write(tmp_path / "b.npz")
    places = lab | {"b": str(tmp_path / "b.npz")}
    check(capsys, monkeypatch, tmp_path, places, ["--mode=fuse", "--scores={here}/a.npz,{b}"], line)


@pytest.mark.parametrize(("size", "use"), [(10, "8 or 16"), (7, "8")])
def test_a_batch_that_does_not_divide_over_the_devices(size, use, capsys, tmp_path, lab, monkeypatch):
    """Devices are counted for this, and nothing is computed."""
    arguments = ["--workdir={fresh}", f"--config.train.batch_size={size}"]
    line = f"train.batch_size={size}: must divide over the 8 devices present; use {use}"
    check(capsys, monkeypatch, tmp_path, lab, arguments, line, allowed=COUNTING)


def test_a_workdir_that_cannot_be_written_to_is_found_before_scoring(capsys, tmp_path, lab, monkeypatch):
    """Simulated, since tests may run as root, who may write anywhere."""

    def read_only(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("twostream_jax.scores.tempfile.TemporaryFile", read_only)
    for arguments, workdir in (
        (["--mode=eval", "--workdir={run}"], "{run}"),
        (["--mode=fuse", "--scores={both}", "--workdir={here}/fused"], "{here}/fused"),
    ):
        line = f"--workdir={workdir}: cannot be written to (Permission denied); mend its permissions, or name another"
        check(capsys, monkeypatch, tmp_path, lab, arguments, line, allowed=COUNTING)
    assert not list(tmp_path.glob("**/*.npz"))
