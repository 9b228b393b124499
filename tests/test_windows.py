"""Sliding windows over long videos and cameras: the scores, their times, what is printed, drawn and left behind."""

import json
import os
import shlex
import shutil
import signal
import tempfile

import cv2
import numpy as np
import pytest
from command_line import run
from conftest import REPOSITORY
from dct_sets import prepare_dct
from tiny_clips import write_clip

from input_pipeline import camera
from input_pipeline.schema import UserError
from twostream_jax.drivers import predict as whole
from twostream_jax.drivers import windows
from twostream_jax.drivers.loaded_run import LoadedRun
from twostream_jax.drivers.train import train

FRAMES = 24  # of the clip, at 25 per second: of L = 3 it has 21 anchors


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.avi", frames=FRAMES, size=(48, 60))


@pytest.fixture(scope="module")
def spatial(tiny_config, tmp_path_factory):
    """A spatial run of one step: (config, workdir)."""
    config = tiny_config.copy_and_resolve_references()
    config.model.name, config.input.streams = "cnn_m_spatial", ("rgb",)
    return one_step(config, tmp_path_factory.mktemp("spatial") / "run")


@pytest.fixture
def both(finished, spatial, one_device):
    """The runs of both streams, one crop: [(config, workdir)], copies that a test may change."""
    runs = [(config.copy_and_resolve_references(), workdir) for config, workdir in (spatial, finished[:2])]
    for config, _ in runs:
        config.eval.crops = 1
    return runs


def one_step(config, workdir):
    config.train.steps = config.train.checkpoint_every = 1
    import jax

    everyone = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: everyone[:1])
        train(config, workdir)
    return config, workdir


def answers(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def probabilities(shown: dict) -> dict[str, float]:
    return {entry["class"]: entry["probability"] for entry in shown["top"]}


def every_anchor_is_scored_once(config, workdir, lead, tmp_path, capsys, monkeypatch):
    """Hops of six frames have six anchors, all of which are scored: as over the whole video with all of its.

    The last hop has one, so that it is padded. (Of two or more the protocol would not count each as often.)
    """
    anchors = 3 * 6 + 1
    clip = write_clip(tmp_path / "clip.avi", frames=lead + anchors, size=(48, 60))
    loaded = keep_loaded(monkeypatch)
    config.eval.frames = 24
    windows.predict_video([(config, workdir)], clip, 24 / 25)
    found = answers(capsys)
    ends = [lead + 6, lead + 12, lead + 18, lead + 19]
    assert [(answer["start_s"], answer["end_s"]) for answer in found] == [(0, end / 25) for end in ends]
    (kept,) = loaded
    assert kept.lead == lead
    assert kept._scorer._step._cache_size() == 1, "a hop of another length was compiled anew"
    config.eval.frames = anchors
    once = whole.predict([(config, workdir)], clip)
    capsys.readouterr()
    (one,), (other,) = found[-1]["streams"].values(), once["streams"].values()
    assert list(probabilities(one)) == list(probabilities(other))
    np.testing.assert_allclose(list(probabilities(one).values()), list(probabilities(other).values()), atol=3e-6)


def keep_loaded(monkeypatch) -> list[LoadedRun]:
    kept, load = [], windows.load_runs
    monkeypatch.setattr(windows, "load_runs", lambda *of, **how: kept.extend(load(*of, **how)) or kept)
    return kept


@pytest.mark.parametrize(("stream", "lead", "batch_size"), [(0, 0, 8), (1, 3, 4)], ids=["rgb", "flow"])
def test_hops_together_are_the_whole_video(both, stream, lead, batch_size, tmp_path, capsys, monkeypatch):
    # The six positions of a hop are one batch of 8, or two of 3.
    both[stream][0].eval.batch_size = batch_size
    every_anchor_is_scored_once(*both[stream], lead, tmp_path, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dct", "trajectory", "bidirectional"])
def test_hops_of_other_inputs_are_the_whole_video(kind, tiny_config, capsys, monkeypatch, tmp_path, one_device):
    config = tiny_config.copy_and_resolve_references()
    if kind == "dct":
        config = prepare_dct(tiny_config, tmp_path).copy_and_resolve_references()
        config.input.bidirectional = False
    if kind == "trajectory":
        config.input.stacking = "trajectory"
    if kind == "bidirectional":
        from twostream_jax.drivers.prepare import prepare_records

        config.input.bidirectional, config.input.stack, config.flow.backward = True, 4, True
        config.data.records = str(tmp_path / "both_ways")
        prepare_records(config)
    config.eval.crops = 1
    workdir = tmp_path / "run"
    one_step(config, workdir)
    capsys.readouterr()
    lead = 4 if kind == "bidirectional" else 3
    every_anchor_is_scored_once(config, workdir, lead, tmp_path, capsys, monkeypatch)


def test_an_answer_is_the_mean_of_the_last_four_hops(both, clip, capsys, monkeypatch, tmp_path):
    """Scores that a script gives, of hops of two frames: [k, 1 - k] / 100 of hop k."""
    seen = []

    def score(run, records, frames, *_):
        (found,) = records.values()
        share = len(seen) / 100
        seen.append((found, frames))
        return {"videos": (["a", "b"], np.array([share, 1 - share]))}

    config, workdir = both[1]
    config.eval.frames = 10
    hops = []
    monkeypatch.setattr(LoadedRun, "score", score)
    monkeypatch.setattr(windows, "one_video", lambda video, *_: hops.append(video.source) or len(hops))
    windows.predict_video([(config, workdir)], clip, 8 / 25)
    found = answers(capsys)
    # Five frames, of which three lead in, then two each, and one at the end.
    assert [hop.count_frames() for hop in hops] == 10 * [5] + [4]
    assert [hop.new for hop in hops] == [5, *(9 * [2]), 1]
    assert {frames for _, frames in seen} == {3}  # a quarter of ten positions, rounded up
    assert [answer["end_s"] for answer in found[:6]] == [0.2, 0.28, 0.36, 0.44, 0.52, 0.6]
    assert [answer["start_s"] for answer in found[:6]] == [0, 0, 0, 0, 0.2, 0.28]
    means = [probabilities(answer["streams"]["temporal"])["a"] for answer in found]
    assert means[:6] == pytest.approx([0, 0.005, 0.01, 0.015, 0.025, 0.035])
    # The last hop has one anchor, those before it two each; the window is that of the last .32 s.
    assert means[10] == pytest.approx((2 * 0.07 + 2 * 0.08 + 2 * 0.09 + 0.10) / 7, abs=1e-6)
    assert found[10]["start_s"] == 0.68 and "fused" not in found[10]


def test_nothing_of_past_hops_is_kept(both, clip, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plain, most = windows.one_video, []

    def looking(*of):
        most.append(len([path for path in tmp_path.iterdir() if path.name.startswith("hop")]))
        return plain(*of)

    monkeypatch.setattr(windows, "one_video", looking)
    windows.predict_video(both, clip, 24 / 25)
    # Both runs' records of a hop lie in one folder.
    assert most == 2 * 4 * [1]
    assert not list(tmp_path.iterdir())
    assert list(answers(capsys)[0]["streams"]) == ["spatial", "temporal"]


def test_the_command_prints_a_line_a_hop_and_draws_every_frame(both, clip, capsys, tmp_path):
    runs = ",".join(str(workdir) for _, workdir in both)
    out = tmp_path / "out.mp4"
    arguments = ["--mode=predict", f"--video={clip}", f"--runs={runs}", "--config.eval.crops=1"]
    status, printed, err = run(capsys, *arguments, "--window=0.96", f"--annotate={out}")
    assert status == 0, err
    found = [json.loads(line) for line in printed.splitlines()]
    assert len(found) == 4 and all(set(answer) == {"start_s", "end_s", "streams", "fused"} for answer in found)
    assert err.splitlines()[-1].startswith(f"{FRAMES} frames in ") and "times real time" in err.splitlines()[-1]
    assert f"{FRAMES}/{FRAMES} frames, " in err and "dropped" not in err
    assert count_frames(out) == FRAMES and [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    # Without a window it is one answer, and the same number of pictures.
    status, printed, err = run(capsys, *arguments, f"--annotate={out}")
    assert status == 0 and json.loads(printed)["protocol"] == "center" and count_frames(out) == FRAMES
    assert f"drawing {out}: {FRAMES}/{FRAMES} frames" in err


def count_frames(path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    return count


def test_a_video_of_one_frame_or_none_is_one_line(both, tmp_path, capsys):
    path = write_clip(tmp_path / "one.avi", frames=1, size=(48, 60))
    with pytest.raises(UserError, match=r"^--video=.*one\.avi: one frame; at least 2 are needed for flow"):
        windows.predict_video(both, path, 1.0)
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(UserError, match=r"^--video=.*text\.avi: cannot be opened as a video"):
        windows.predict_video(both, tmp_path / "text.avi", 1.0)


def test_a_file_that_breaks_off_while_it_is_read_is_named(both, clip, monkeypatch):
    def broken(self):
        raise UserError(f"{clip}: cannot be decoded (x)")
        yield

    monkeypatch.setattr(windows.VideoFile, "moments", broken)
    with pytest.raises(UserError, match=r"^--video=.*clip\.avi: cannot be decoded"):
        windows.predict_video(both, clip, 1.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_drawn(number, both, clip, capsys, monkeypatch, tmp_path):
    """Also one that comes while a hop is prepared, which stops at SIGTERM by itself where nobody else answers it."""
    plain, made = windows.one_video, []

    def interrupting(*of):
        made.append(1)
        if len(made) == 4:
            signal.raise_signal(number)
        return plain(*of)

    monkeypatch.setattr(windows, "one_video", interrupting)
    before = signal.getsignal(number)
    runs = ",".join(str(workdir) for _, workdir in both)
    status, out, err = run(
        capsys, "--mode=predict", f"--video={clip}", f"--runs={runs}", "--window=0.96", f"--annotate={tmp_path}/out.mp4",
        "--config.eval.crops=1",
    )  # fmt: skip
    assert status == 128 + number and (err.splitlines()[-1] == "stopped") == (number == signal.SIGINT)
    assert len(out.splitlines()) == 2 and count_frames(tmp_path / "out.mp4") == 15  # two hops: 3 + 6 and 6
    assert signal.getsignal(number) is before


class Endless:
    """A capture that shows a clip over and over, 25 frames a second, and interrupts this process at a frame."""

    def __init__(self, clip, interrupt_at=None, end_at=None):
        self.frames = list(read_all(clip))
        self.number, self.interrupt_at, self.end_at, self.released = 0, interrupt_at, end_at, False

    def isOpened(self):
        return True

    def get(self, what):
        return 25.0

    def read(self):
        import time

        time.sleep(0.04)
        self.number += 1
        if self.number == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return (False, None) if self.number == self.end_at else (True, self.frames[self.number % len(self.frames)])

    def release(self):
        self.released = True


def read_all(path):
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        yield read[1]


def test_ctrl_c_ends_a_camera_well(both, clip, capsys, monkeypatch, tmp_path):
    script = Endless(clip, interrupt_at=60)
    monkeypatch.setattr(camera, "open_capture", lambda source: script)
    runs = ",".join(str(workdir) for _, workdir in both)
    out = tmp_path / "out.mp4"
    status, printed, err = run(
        capsys, "--mode=predict", "--camera=0", f"--runs={runs}", "--window=1", f"--annotate={out}",
        "--config.eval.crops=1",
    )  # fmt: skip
    assert status == 0, err
    found = [json.loads(line) for line in printed.splitlines()]
    ends = [answer["end_s"] for answer in found]
    assert found and ends == sorted(ends) and all(a["end_s"] > a["start_s"] for a in found)
    assert " frames dropped" in err.splitlines()[-1] and "times real time" in err
    assert script.released
    # The video keeps the times, whatever was dropped.
    assert abs(count_frames(out) - 25 * ends[-1]) <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_slow_computation_drops_frames_and_says_how_many(both, clip, capsys, monkeypatch):
    """Each hop takes .3 s at least and covers .1 s: every frame is scored or counted, but for an end without a stack."""
    import time

    plain, script = windows.one_video, Endless(clip)
    monkeypatch.setattr(windows, "one_video", lambda *of: time.sleep(0.3) or plain(*of))
    monkeypatch.setattr(camera, "open_capture", lambda source: script)
    config, workdir = both[1]
    windows.predict_camera([(config, workdir)], "0", 0.4, seconds=1.6)
    last = capsys.readouterr().err.splitlines()[-1]
    scored, dropped = int(last.split()[0]), int(last.split(" frames dropped")[0].split()[-1])
    # Neither the one seen at opening nor the one that came after the end.
    arrived = script.number - 2
    assert dropped >= 3 and 0 <= arrived - scored - dropped <= 3


def readme_commands() -> list[list[str]]:
    """Return the arguments of README.md's lines of mode=predict."""
    text = (REPOSITORY / "README.md").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("python run.py --mode=predict")]
    return [shlex.split(line, comments=True)[2:] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", readme_commands(), ids=" ".join)
def test_readmes_commands(arguments, both, clip, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, (_, workdir) in zip(("spatial", "temporal"), both, strict=True):
        shutil.copytree(workdir, tmp_path / "runs" / name)
    for name in ("clip.avi", "long.mp4"):
        shutil.copy(clip, name)
    monkeypatch.setattr(camera, "open_capture", lambda source: Endless(clip, end_at=30))
    status, out, err = run(capsys, *arguments)
    assert status == 0 and out, err
    for argument in arguments:
        if argument.startswith("--annotate="):
            assert count_frames(argument.partition("=")[2]) >= 20


def test_readme_shows_each_way():
    flags = {argument.partition("=")[0] for arguments in readme_commands() for argument in arguments}
    assert flags >= {"--video", "--camera", "--window", "--annotate", "--runs"}
