"""Nets trained, evaluated and used on DCT records, and beside JPEG records of the same videos."""

import json
from pathlib import Path

import numpy as np
import pytest
from dct_sets import prepare_dct
from trained import numbers, same_arrays, state_of
from two_sets import prepare_other, together

from input_pipeline.schema import UserError
from input_pipeline.store import Records
from twostream_jax.drivers.demo import demo
from twostream_jax.drivers.evaluate import evaluate
from twostream_jax.drivers.inspect import inspect_run
from twostream_jax.drivers.predict import predict
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.train import train
from twostream_jax.run_log import read_metrics
from twostream_jax.scores import ScoreFile
from twostream_jax.validate_run import check_same_records


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


def test_training_is_that_on_jpegs_but_for_their_rounding(own, config, tmp_path, one_device, capsys):
    for each in (own, config):
        each.train.steps, each.train.log_every, each.eval.frames, each.eval.crops = 3, 1, 2, 1
    train(own, tmp_path / "dct")
    train(config, tmp_path / "jpeg")
    losses = {name: np.array([line["loss"] for line in read_metrics(tmp_path / name)]) for name in ("dct", "jpeg")}
    assert len(losses["dct"]) == 3
    np.testing.assert_allclose(losses["dct"], losses["jpeg"], rtol=2e-3)
    assert (losses["dct"] != losses["jpeg"]).all()
    # The net scores either kind of records of the same videos, and says so where it was trained on the other.
    for ours, theirs, name in ((own, config, "dct"), (config, own, "jpeg")):
        capsys.readouterr()
        one = scores_of(ours, tmp_path / name)
        assert "was made with" not in capsys.readouterr().err
        other = scores_of(theirs, tmp_path / name)
        (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert f"{theirs.data.records} was made with flow" in warning and "'codec': 'dct'" in warning
        assert one.names == other.names and not np.array_equal(one.probs, other.probs)
        np.testing.assert_allclose(one.probs, other.probs, atol=2e-3)


def test_training_goes_on_with_its_own_records_only(own, config, tmp_path, one_device, capsys):
    """Whatever the config says of how others would be stored."""
    own.train.steps = 1
    train(own, tmp_path / "run")
    own.data.codec, own.data.dct_planes, own.train.steps = "jpeg", 28, 2
    assert train(own, tmp_path / "run")["step"] == 2
    assert "continues with data.codec 'jpeg' instead of 'dct'" in capsys.readouterr().out
    records, own.data.records = own.data.records, config.data.records
    words = (
        r"not the records that the run in .* began with: .*flow\.codec was dct, is jpeg; flow\.dct_planes was 64, is 0"
    )
    with pytest.raises(UserError, match=words):
        train(own, tmp_path / "run")
    dct, jpeg = (Setup.of(own), own.data.update(records=records), Setup.of(own))[::2]
    with pytest.raises(UserError, match=r"flow\.codec was jpeg, is dct; flow\.dct_planes was 0, is 64"):
        check_same_records(dct.only.facts, jpeg.only.facts, "run", "data", records)


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


@pytest.mark.parametrize(("stack", "stacking", "bidirectional"), [(4, "trajectory", True), *KINDS])
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
def test_slow_fusion_trains_on_the_frames(own, tmp_path, one_device):
    own.model.name, own.input.streams, own.input.clip_frames = "slow_fusion", ("rgb",), 8
    own.train.steps, own.train.batch_size, own.eval.frames = 2, 8, 2
    assert train(own, tmp_path)["step"] == 2 and len(scores_of(own, tmp_path).names) == 9


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
