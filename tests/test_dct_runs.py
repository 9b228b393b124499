"""Nets trained, evaluated and used on DCT records, and beside JPEG records of the same videos."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import test_processes
from dct_sets import prepare_dct
from trained import numbers, same_arrays, state_of
from two_sets import prepare_other, together

from input_pipeline import pipeline
from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.drivers.demo import demo
from twostream_jax.drivers.evaluate import evaluate
from twostream_jax.drivers.inspect import inspect_run
from twostream_jax.drivers.predict import predict
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.table_runs import Places
from twostream_jax.drivers.train import train
from twostream_jax.optim import make_optimizer
from twostream_jax.run_log import read_metrics
from twostream_jax.scores import ScoreFile


@pytest.fixture(scope="module")
def stored(tiny_config, tmp_path_factory):
    return prepare_dct(tiny_config, tmp_path_factory.mktemp("dct"))


@pytest.fixture
def own(stored):
    """A copy of a config of DCT records that a test may change."""
    return stored.copy_and_resolve_references()


def scores_of(config, workdir):
    evaluate(config, workdir)
    return ScoreFile.read(workdir / "scores_videos_split1_test.npz")


def one_step(config):
    """Return the loss on the config's first batch, and by how much a step on it moves all parameters."""
    setup, mesh = Setup.of(config), meshes.make_mesh(jax.devices()[:1])
    crop = config.input.crop
    draw = pipeline.DrawBatch((setup.only.table("train"),), 16, *setup.span, crop, True, 5)
    reading = pipeline.Reading(2)
    window = setup.window(crop)
    (batch,) = pipeline.train_batches([setup.only.records], draw, window, start_step=0, steps=1, reading=reading)
    static = {"model": setup.model({"t": 9}), "optimizer": make_optimizer(config.optim), "inputs": setup.inputs}
    state = steps.jit_init(mesh, **static)(jax.random.key(0))
    before = all_parameters(state)
    step = steps.jit_train_step(mesh, tasks=("t",), **static)
    state, metrics = step(state, meshes.put_batch(batch, mesh), jax.random.key(1))
    return metrics.compute()["loss"], all_parameters(state) - before


def all_parameters(state):
    return np.concatenate([np.array(leaf).ravel() for leaf in jax.tree.leaves(state.params)])


@pytest.mark.slow
def test_a_training_step_is_that_on_jpegs_but_for_their_rounding(own, config):
    (ours, moved), (theirs, others) = one_step(own), one_step(config)
    assert ours == pytest.approx(theirs, rel=2e-3) and ours != theirs
    assert 0 < np.linalg.norm(moved - others) < 0.03 * np.linalg.norm(others)


def test_a_net_trained_on_jpegs_scores_dct_records_and_goes_on_with_its_own_only(finished, own, tmp_path, capsys):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    changed = config.copy_and_resolve_references()
    changed.data.records, changed.eval.frames, changed.eval.crops = own.data.records, 1, 1
    evaluate(changed, tmp_path / "run")
    assert f"warning: {own.data.records} was made with flow" in capsys.readouterr().err
    # Whatever the config says of how others would be stored; the records rule.
    changed.data.codec, changed.train.steps = "dct", 8
    with pytest.raises(
        UserError, match=r"began with: .*flow\.codec was jpeg, is dct; flow\.dct_planes was 0, is 64; flow\.backward"
    ):
        train(changed, tmp_path / "run")
    assert "continues with data.codec 'dct' instead of 'jpeg'" in capsys.readouterr().out


@pytest.mark.slow
def test_nets_trained_on_either_kind_score_both_alike(own, config, tmp_path, one_device, capsys):
    for each, name in ((own, "dct"), (config, "jpeg")):
        each.train.steps, each.train.log_every, each.eval.frames = 3, 1, 2
        train(each, tmp_path / name)
    losses = [[line["loss"] for line in read_metrics(tmp_path / name)] for name in ("dct", "jpeg")]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    for ours, theirs, name in ((own, config, "dct"), (config, own, "jpeg")):
        capsys.readouterr()
        one = scores_of(ours, tmp_path / name)
        assert "was made with" not in capsys.readouterr().err
        other = scores_of(theirs, tmp_path / name)
        (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert f"{theirs.data.records} was made with flow.backward " in warning and "flow.codec dct" in warning
        assert one.names == other.names and not np.array_equal(one.probs, other.probs)
        np.testing.assert_allclose(one.probs, other.probs, atol=2e-3)
    # A run goes on with its own records only.
    own.train.steps, own.data.records = 4, config.data.records
    with pytest.raises(UserError, match=r"flow\.codec was dct, is jpeg; flow\.dct_planes was 64, is 0; flow\.backward"):
        train(own, tmp_path / "dct")


@pytest.mark.slow
def test_a_resumed_run_is_the_undisturbed_one(own, tmp_path, one_device):
    own.model.dropout = 0.5
    train(own, tmp_path / "whole")
    own.train.steps = 3
    train(own, tmp_path / "parts")
    own.train.steps = 6
    train(own, tmp_path / "parts")
    assert same_arrays(state_of(own, tmp_path / "whole", 6), state_of(own, tmp_path / "parts", 6))
    assert numbers(tmp_path / "whole")[-1] == numbers(tmp_path / "parts")[-1]


# One of each is enough where time is short.
KINDS = [
    pytest.param(*kind, marks=pytest.mark.slow)
    for kind in ((3, "flow", False), (4, "flow", True), (3, "trajectory", False))
]


@pytest.mark.parametrize(
    ("stack", "stacking", "bidirectional"), [pytest.param(4, "trajectory", True, marks=pytest.mark.slow), *KINDS]
)
def test_a_prediction_is_what_eval_gives(own, stack, stacking, bidirectional, tmp_path, one_device):
    own.input.stack, own.input.stacking, own.input.bidirectional = stack, stacking, bidirectional
    own.train.steps, own.train.batch_size, own.eval.frames = 2, 8, 2
    # In two parts, as on a device too small for the whole batch.
    own.train.accumulate = 2
    last = train(own, tmp_path)
    assert last["step"] == 2 and np.isfinite(last["loss"])
    scores = scores_of(own, tmp_path)
    video = Path(own.data.split_file).parent / f"{scores.names[0]}.avi"
    (predicted,) = predict([(own, tmp_path)], video)["streams"].values()
    for entry in predicted["top"]:
        wanted = scores.probs[0][scores.classes.index(entry["class"])]
        assert entry["probability"] == pytest.approx(float(wanted), abs=2e-6)
    assert inspect_run(own, tmp_path)["total"] > 0


@pytest.mark.slow
def test_two_processes_equal_one(own, tmp_path):
    for processes in (1, 2):
        test_processes.run(own, tmp_path / str(processes), "train", processes)
        test_processes.run(own, tmp_path / str(processes), "eval", processes)
    one, two = ([line["loss"] for line in read_metrics(tmp_path / str(n))] for n in (1, 2))
    np.testing.assert_allclose(two, one, rtol=1e-6)
    scores = [ScoreFile.read(tmp_path / str(n) / "scores_videos_split1_test.npz").probs for n in (1, 2)]
    np.testing.assert_allclose(*scores, atol=1e-6)


@pytest.mark.slow
def test_slow_fusion_trains_on_the_frames(own, tmp_path, one_device):
    own.model.name, own.input.streams, own.input.clip_frames = "slow_fusion", ("rgb",), 8
    own.train.steps, own.train.batch_size, own.eval.frames = 2, 8, 2
    assert train(own, tmp_path)["step"] == 2 and len(scores_of(own, tmp_path).names) == 9


@pytest.mark.slow
def test_two_sets_of_dct_records_train_together(own, tmp_path, one_device):
    # Another bound for every video: each sample has its own steps.
    other = own.copy_and_resolve_references()
    with other.flow.ignore_type():
        other.flow.bound_px = "video"
    both = together(own, prepare_other(tmp_path, other))
    bounds = {video.bound_px for video in Records(both.tasks.second.records).videos}
    assert len(bounds) > 5
    both.train.steps = 2
    last = train(both, tmp_path / "both")
    assert np.isfinite([last["loss_first"], last["loss_second"]]).all()
    # The other set has no test videos.
    assert evaluate(both, tmp_path / "both")["tasks"].keys() == {"first"}


def test_jpegs_and_dct_records_do_not_train_together(own, config, tmp_path):
    both = together(own, prepare_other(tmp_path, config))
    first, second = both.tasks.first.records, both.tasks.second.records
    with pytest.raises(UserError) as refused:
        Setup.of(both)
    assert str(refused.value) == (
        f"tasks.first.records={first}: holds flow as DCT records, tasks.second.records={second} as JPEGs, and one run reads "
        "one of the two; prepare both with the same data.codec"
    )
    # Of frames there is but one kind.
    both.model.name, both.input.streams = "cnn_m_spatial", ("rgb",)
    assert Setup.of(both).planes == ()


def test_all_sets_of_a_table_are_stored_as_its_config_says(own, config, tmp_path):
    own.data.records, config.data.records, own.data.dct_planes = "", "", 28
    places = Places({"ucf101": own, "hmdb51": config}, tmp_path)
    for place in ("ucf101", "hmdb51"):
        data = places.config(place).data
        assert (data.codec, data.dct_planes) == ("dct", 28)
    # All coefficients of JPEGs are taken over.
    config.data.kind = "jpeg_folders"
    data = places.config("hmdb51").data
    assert (data.codec, data.dct_planes) == ("dct", 64)


def test_records_that_are_lost_are_named_before_any_work(own, tmp_path):
    lost = prepare_dct(own, tmp_path)
    file = Path(lost.data.records) / "flow" / Records(lost.data.records).dataset.files["flow"][0].file
    file.unlink()
    with pytest.raises(UserError, match=r"flow-all\.dct-00000-of-00001: no such file, but dataset\.json lists it"):
        train(lost, tmp_path / "run")


@pytest.mark.slow
def test_the_demo_runs_on_dct_records(own, tmp_path, one_device):
    own.data.records, own.train.steps, own.eval.frames, own.eval.crops = "", 2, 2, 1
    demo(own, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["temporal"]["videos"] == 9 and (tmp_path / "flow.png").stat().st_size > 1000
    assert Records(tmp_path / "records").dataset.flow.codec == "dct"
