"""mode=eval, predict and inspect on a small trained run."""

import json
import re
import shutil
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_clips import sealed

from input_pipeline import codecs, sampling
from input_pipeline.schema import UserError
from twostream_jax import cli
from twostream_jax import mesh as meshes
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers.evaluate import evaluate, load_params, summary_lines
from twostream_jax.drivers.predict import predict
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.train import train
from twostream_jax.preprocess import FLOW_SCALE_PX
from twostream_jax.scores import ScoreFile


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    """Both streams trained for a few steps: {stream: (config, workdir)} under one folder."""
    folder = tmp_path_factory.mktemp("two")
    runs = {}
    for stream, (name, streams) in {
        "spatial": ("cnn_m_spatial", ("rgb",)),
        "temporal": ("cnn_m_temporal", ("flow",)),
    }.items():
        config = tiny_config.copy_and_resolve_references()
        config.model.name, config.input.streams = name, streams
        train(config, folder / stream)
        runs[stream] = (config, folder / stream)
    return runs


def test_scores_are_means_over_frames_and_crops(trained):
    config, workdir = trained["temporal"]
    result = evaluate(config, workdir)
    scores = ScoreFile.read(workdir / "scores_videos_split1_test.npz")
    assert scores.protocol == "4x10" and scores.subset == "test" and len(scores.names) == 9
    setup = Setup.of(config)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        model, params = load_params(checkpoints, 6, setup, {"videos": 9}, meshes.make_mesh(jax.devices()[:1]))
    score = jax.jit(lambda flow: model.apply({"params": params}, {"flow": flow}, train=False)["videos"][:, 0])
    right_clips, right_centres = 0, 0
    for row, video in enumerate(setup.only.positions["test"]):
        stored = setup.only.records.videos[video]
        assert scores.names[row] == stored.name and scores.labels[row] == stored.label
        probs = by_hand(setup, video, stored, score)  # [stacks, crops, classes]
        # Float32 sums in another order.
        np.testing.assert_allclose(scores.probs[row], probs.mean(axis=(0, 1)), atol=1e-5)
        centre = probs[:, 8]
        right_clips += (centre.argmax(axis=1) == stored.label).sum()
        right_centres += centre.mean(axis=0).argmax() == stored.label
    assert result["clip"]["accuracy"] == pytest.approx(right_clips / 36)
    assert result["center"]["correct"] == right_centres
    assert result["4x10"]["videos"] == 9 and result["4x10"]["correct"] == round(9 * result["4x10"]["accuracy"])


def by_hand(setup, video, stored, score):
    """Return the softmax of every crop of every stack of a video, each read on its own and cut with NumPy."""
    probs = []
    for anchor in sampling.eval_positions(stored.frames, 0, 3, 4):
        levels, means, bound_px = setup.only.records.flow(int(video), int(anchor), 3)
        px = levels.astype(np.float32) * (2 * bound_px / 255) - bound_px - means[:, None, None]
        crops = []
        for y, x in [(0, 0), (0, 19), (7, 0), (7, 19), (3, 9)]:
            cut = px[:, y : y + 41, x : x + 41]
            crops += [cut, cut[:, :, ::-1] * np.asarray([-1, 1], np.float32)]
        stacked = np.stack([np.moveaxis(cut, 0, 2).reshape(41, 41, 6) for cut in crops])[:, None]
        logits = np.asarray(score(jnp.asarray(stacked / np.float32(FLOW_SCALE_PX))))
        probs.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    return np.stack(probs)


def test_eval_json_has_the_protocols_side_by_side(trained, capsys):
    _, workdir = trained["temporal"]
    cli.main(["--mode=eval", f"--workdir={workdir.parent}"])
    out = capsys.readouterr().out
    for stream in ("spatial", "temporal"):
        assert f"{stream}, checkpoint 6" in out
        result = json.loads((workdir.parent / stream / "eval.json").read_text())
        # Protocol, task, split, subset, share, counts and interval, in one line each.
        shown = r"videos split 1 test  \d+\.\d % \([0-9.]+/9\)  95 %: \[\d+\.\d, \d+\.\d\]"
        for protocol, line in zip(("clip", "center", "4x10"), summary_lines(result), strict=True):
            assert re.fullmatch(f" *{protocol}  {shown}", line) and line in out
        for protocol in ("clip", "center", "4x10"):
            entry = result[protocol]
            assert entry["protocol"] == protocol and entry["subset"] == "test" and entry["videos"] == 9
            low, high = entry["interval95"]
            assert 0 <= low <= entry["accuracy"] <= high <= 1
        assert 0 <= result["mean_class_accuracy"] <= 1 and result["top5"] >= result["4x10"]["accuracy"]
        assert all(protocol in "\n".join(summary_lines(result)) for protocol in ("clip", "center", "4x10"))


def test_other_subsets_checkpoints_and_batches(trained):
    config, workdir = trained["temporal"]
    config = config.copy_and_resolve_references()
    test = evaluate(config, workdir)
    scores = ScoreFile.read(workdir / "scores_videos_split1_test.npz")
    # Another batch size pads and orders otherwise; the scores of a video stay.
    config.eval.batch_size = 40
    evaluate(config, workdir)
    again = ScoreFile.read(workdir / "scores_videos_split1_test.npz")
    np.testing.assert_allclose(again.probs, scores.probs, atol=1e-6)
    config.eval.subset, config.eval.checkpoint = "train", "3"
    result = evaluate(config, workdir)
    assert result["videos"] == 18 and result["checkpoint"] == 3
    assert json.loads((workdir / "eval_train.json").read_text()) == json.loads(json.dumps(result))
    assert json.loads((workdir / "eval.json").read_text())["videos"] == test["videos"] == 9


def test_several_checkpoints_in_one_pass(trained, monkeypatch, capsys):
    """The same summaries and scores as one by one, each image decoded once for both, and a line each."""
    config, workdir = trained["temporal"]
    config, decoded, plain = config.copy_and_resolve_references(), [], codecs.decode_grey
    monkeypatch.setattr(codecs, "decode_grey", lambda jpeg: decoded.append(jpeg) or plain(jpeg))
    alone, counts = {}, []
    for step in ("3", "6"):
        config.eval.checkpoint = step
        decoded.clear()
        alone[step] = (evaluate(config, workdir), ScoreFile.read(workdir / "scores_videos_split1_test.npz"))
        counts.append(len(decoded))
    before = (workdir / "scores_videos_split1_test.npz").read_bytes()
    decoded.clear()
    capsys.readouterr()
    cli.main(["--mode=eval", f"--workdir={workdir}", "--config.eval.checkpoint=3,last"])
    assert counts == [len(decoded)] * 2
    result = json.loads((workdir / "eval.json").read_text())
    assert result == {"checkpoints": {step: json.loads(json.dumps(summary)) for step, (summary, _) in alone.items()}}
    for step, (_, scores) in alone.items():
        found = ScoreFile.read(workdir / f"scores_videos_split1_test_step{step}.npz")
        assert found.provenance["step"] == int(step) and found.names == scores.names
        np.testing.assert_allclose(found.probs, scores.probs, atol=1e-6)
    assert np.abs(alone["3"][1].probs - alone["6"][1].probs).max() > 1e-5
    assert (workdir / "scores_videos_split1_test.npz").read_bytes() == before
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[f"{workdir}, checkpoint {n}", "4x10"] for n in (3, 6)]
    assert all(re.search(r"  videos split 1 test  \d+\.\d % \([0-9.]+/9\)  95 %: ", line) for line in lines)


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ("3,5", "eval.checkpoint=5: not among the saved steps 3, 6, nor 'last' or 'best'"),
        ("3,", "eval.checkpoint=3,: has a comma without a checkpoint beside it; leave it out"),
        ("3,,6", "eval.checkpoint=3,,6: has a comma without a checkpoint beside it; leave it out"),
        ("last;3", "eval.checkpoint=last;3: not among the saved steps"),
        ("3,best", "eval.checkpoint=best: this run held out no validation groups"),
    ],
)
def test_lists_of_checkpoints_that_cannot_be(trained, wanted, line):
    config, workdir = trained["temporal"]
    config = config.copy_and_resolve_references()
    config.eval.checkpoint = wanted
    with pytest.raises(UserError) as error:
        evaluate(config, workdir)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_checkpoints_of_other_classes_are_not_scored_together(trained, monkeypatch):
    config, workdir = trained["temporal"]
    config, plain = config.copy_and_resolve_references(), Checkpoints.config
    config.eval.checkpoint = "3,6"
    turned = {"tasks": {"videos": ["a", "b"]}}
    monkeypatch.setattr(Checkpoints, "config", lambda self, step: plain(self, step) | (turned if step == 6 else {}))
    with pytest.raises(
        UserError, match=r"eval.checkpoint=3,6: step 6 tells other classes apart than the first of these"
    ):
        evaluate(config, workdir)


@pytest.mark.parametrize("mode", ["demo", "table"])
def test_other_modes_score_one_checkpoint(mode, capsys, tmp_path):
    extra = ["--table=2014-1b"] if mode == "table" else []
    with pytest.raises(SystemExit):
        cli.main([f"--mode={mode}", *extra, f"--workdir={tmp_path}", "--config.eval.checkpoint=3,6"])
    line = f"eval.checkpoint=3,6: mode {mode} scores one checkpoint, only mode eval takes several; name one"
    assert line in capsys.readouterr().err


def test_classes_are_matched_by_name(trained, tmp_path):
    """Records that list the same classes in another order give the same scores; other classes are refused."""
    config, workdir = trained["temporal"]
    config = config.copy_and_resolve_references()
    expected = evaluate(config, workdir)
    expected_scores = ScoreFile.read(workdir / "scores_videos_split1_test.npz")
    records = tmp_path / "records"
    shutil.copytree(config.data.records, records)
    dataset = json.loads((records / "dataset.json").read_text())
    dataset["classes"] = dataset["classes"][::-1]
    for video in dataset["videos"]:
        video["label"] = 8 - video["label"]
    (records / "dataset.json").write_text(sealed(json.dumps(dataset)))
    config.data.records = str(records)
    turned = evaluate(config, workdir)
    assert turned["4x10"] == expected["4x10"]
    scores = ScoreFile.read(workdir / "scores_videos_split1_test.npz")
    assert np.array_equal(scores.labels, expected_scores.labels) and scores.classes == expected_scores.classes
    np.testing.assert_allclose(scores.probs, expected_scores.probs, atol=1e-6)
    dataset["classes"][0] = "juggling"
    (records / "dataset.json").write_text(sealed(json.dumps(dataset)))
    with pytest.raises(UserError, match="unknown to the net juggling"):
        evaluate(config, workdir)


def test_videos_that_were_trained_on_are_no_test_set(trained, tmp_path):
    """As after prepare over a CSV whose train and test were swapped; records of another name are another data set."""
    config, workdir = trained["temporal"]
    config = config.copy_and_resolve_references()
    shutil.copytree(config.data.records, tmp_path / "records")
    path = tmp_path / "records" / "dataset.json"
    config.data.records, config.eval.frames, config.eval.crops = str(tmp_path / "records"), 1, 1
    text, swap = path.read_text(), {"train": "test", "test": "train"}
    path.write_text(sealed(re.sub('"(train|test)"', lambda found: f'"{swap[found[1]]}"', text)))
    records = Setup.of(config).only.records.videos
    first = next(video.name for video in records if video.subsets["1"] == "test")
    with pytest.raises(UserError, match=f"eval.subset=test: the net in .* was trained on {first}, which data.records="):
        evaluate(config, workdir)
    path.write_text(sealed(path.read_text().replace('"name": "videos"', '"name": "others"', 1)))
    assert evaluate(config, workdir)["videos"] == 18


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("data.split", 2, "data.split=2 is not stored"),
        ("data.folds", 3, "data.folds=3: the net in .* was trained with 0; leave it at that"),
        ("data.validation_fraction", 0.5, "data.validation_fraction=0.5: the net"),
        ("input.stack", 2, "input.stack=2: the net"),
        ("input.crop", 44, "input.crop=44: the net"),
        ("input.mean_subtraction", False, "input.mean_subtraction=False: the net"),
        ("model.width", 0.125, "model.width=0.125: the net"),
    ],
)
def test_eval_refuses_another_division_or_another_net(trained, key, value, line):
    """Another division would score videos that were trained on; other inputs give numbers that mean nothing."""
    config, workdir = trained["temporal"]
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=line):
        evaluate(config, workdir)


def test_records_made_otherwise_are_warned_of_and_named(trained, tmp_path, capsys):
    config, workdir = trained["temporal"]
    shutil.copytree(config.data.records, tmp_path / "records")
    path = tmp_path / "records" / "dataset.json"
    path.write_text(sealed(path.read_text().replace('"method": "dis"', '"method": "farneback"')))
    config = config.copy_and_resolve_references()
    config.data.records = str(tmp_path / "records")
    evaluate(config, workdir)
    assert "was made with flow.method farneback; the net was trained on flow.method dis\n" in capsys.readouterr().err
    provenance = ScoreFile.read(workdir / "scores_videos_split1_test.npz").provenance
    assert provenance["records"]["flow"]["method"] == "farneback"
    assert (
        provenance["trained_on"]["videos"]["flow"]["method"] == "dis"
        and provenance["versions"]["opencv"] == cv2.__version__
    )


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("input.crop", 44, "input.crop=44: the net"),
        ("eval.crops", 3, "eval.crops=3: choose one of 1, 10"),
        ("eval.frames", 0, "eval.frames=0: must be at least 1"),
        ("data.num_threads", -1, "data.num_threads=-1: must be"),
    ],
)
def test_predict_checks_as_eval_does(trained, tiny_config, key, value, line):
    config, workdir = trained["temporal"]
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({key: value})
    clip = next(Path(tiny_config.data.split_file).parent.glob("*/*.avi"))
    with pytest.raises(UserError, match=line):
        predict([(config, workdir)], clip)


def test_predict_gives_what_eval_gives(trained, tiny_config):
    runs = [trained["spatial"], trained["temporal"]]
    for config, workdir in runs:
        evaluate(config, workdir)
    files = [ScoreFile.read(workdir / "scores_videos_split1_test.npz") for _, workdir in runs]
    name = files[0].names[2]
    folder = Path(tiny_config.data.split_file).parent
    result = predict(runs, folder / f"{name}.avi")
    assert result["protocol"] == "4x10" and list(result["streams"]) == ["spatial", "temporal"]
    fused = np.mean([file.probs[2] for file in files], axis=0)
    for probs, top in [
        (files[0].probs[2], result["streams"]["spatial"]["top"]),
        (files[1].probs[2], result["streams"]["temporal"]["top"]),
        (fused, result["fused"]["top"]),
    ]:
        assert len(top) == 5
        for entry in top:
            # Written with six decimals.
            assert entry["probability"] == pytest.approx(probs[files[0].classes.index(entry["class"])], abs=2e-6)
        assert [entry["probability"] for entry in top] == sorted((e["probability"] for e in top), reverse=True)
        assert top[0]["class"] == files[0].classes[int(probs.argmax())]


def test_predict_prints_json_and_refuses_what_is_no_video(trained, tmp_path, capsys, tiny_config):
    _, workdir = trained["temporal"]
    bad = tmp_path / "bad.avi"
    bad.write_text("not a video")
    with pytest.raises(SystemExit):
        cli.main(["--mode=predict", f"--video={bad}", f"--runs={workdir}"])
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: --video={bad}: ")
    # A clip of another size, shorter than a stack, in an unusual container.
    short = tmp_path / "kürz 1.mkv"
    writer = cv2.VideoWriter(str(short), cv2.VideoWriter_fourcc(*"MJPG"), 25, (100, 70))
    for value in (10, 120, 240):
        writer.write(np.full((70, 100, 3), value, np.uint8))
    writer.release()
    cli.main(["--mode=predict", f"--video={short}", f"--runs={workdir}", "--config.eval.frames=2"])
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["protocol"] == "2x10" and len(result["streams"]["temporal"]["top"]) == 5 and "fused" not in result
    assert "3 frames and 2 flow fields to compute" in captured.err
    cli.main(["--mode=predict", f"--video={short}", f"--runs={workdir.parent}", "--config.eval.frames=2"])
    assert list(json.loads(capsys.readouterr().out)["streams"]) == ["spatial", "temporal"]


def test_inspect_shows_a_run_and_draws_its_filters(trained, tmp_path, capsys):
    _, workdir = trained["temporal"]
    png = tmp_path / "filters.png"
    cli.main(["--mode=inspect", f"--workdir={workdir}", "--json", f"--filters={png}"])
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == [3, 6] and result["best"] is None and result["checkpoint"] == 6
    assert result["tasks"] == {"videos": 9} and result["metrics"][0]["step"] == 6
    rows = {row["name"]: row for row in result["parameters"]}
    assert rows["conv1/kernel"]["shape"] == [7, 7, 6, 8] and rows["conv1/kernel"]["count"] == 7 * 7 * 6 * 8
    assert result["total"] == sum(row["count"] for row in result["parameters"])
    assert cv2.imread(str(png)).std() > 1 and result["filters"] == str(png)
    cli.main(["--mode=inspect", f"--workdir={workdir}", f"--filters={png}"])
    out = capsys.readouterr().out
    assert f"filters of the first layer drawn: {png}" in out
    assert "last line of metrics.jsonl, loss and clip accuracy on training batches: step 6, loss" in out
    cli.main(["--mode=inspect", f"--workdir={workdir.parent}"])
    out = capsys.readouterr().out
    assert "cnn_m_spatial" in out and "cnn_m_temporal" in out and "checkpoints at steps 3, 6" in out
    with pytest.raises(SystemExit):
        cli.main(["--mode=inspect", f"--workdir={workdir.parent}", f"--filters={png}"])
    assert "holds two streams" in capsys.readouterr().err
