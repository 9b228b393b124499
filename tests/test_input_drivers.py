"""Every kind of input trains, is evaluated and predicts; what does not fit together is one line."""

from pathlib import Path

import jax
import numpy as np
import pytest

from input_pipeline import pipeline, synthetic
from input_pipeline.schema import UserError
from twostream_jax.drivers.evaluate import evaluate
from twostream_jax.drivers.predict import predict
from twostream_jax.drivers.prepare import prepare_records
from twostream_jax.drivers.setup import Setup, check_values
from twostream_jax.drivers.train import train
from twostream_jax.preprocess import train_inputs
from twostream_jax.scores import ScoreFile

# (stack, stacking, bidirectional, mean_subtraction)
EVERY = [
    (stack, stacking, bidirectional, mean)
    for stacking in ("flow", "trajectory")
    for bidirectional in (False, True)
    for mean in (True, False)
    for stack in ((4,) if bidirectional else (1, 3))
]
FEW = [(4, "trajectory", True, False)]


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", EVERY if metafunc.config.getoption("--all_inputs") else FEW)


@pytest.fixture(scope="module")
def both_ways(tiny_config, tmp_path_factory):
    """A config of records that hold flow in both directions: nine classes, 2 videos each, 10 frames."""
    folder = tmp_path_factory.mktemp("both_ways")
    config = tiny_config.copy_and_resolve_references()
    config.data.split_file = str(
        synthetic.render(folder / "videos", seed=4, videos_per_class=(1, 1), size=(48, 60), num_frames=10)
    )
    config.data.records = str(folder / "records")
    config.flow.backward = True
    config.train.batch_size, config.train.steps, config.train.checkpoint_every = 8, 2, 2
    config.eval.frames = 2
    prepare_records(config)
    return config


@pytest.fixture
def own(both_ways):
    """A copy of `both_ways` that a test may change."""
    return both_ways.copy_and_resolve_references()


def check_run(config, workdir):
    """Train two steps, score the test videos, and predict one of them, which must give the same scores."""
    last = train(config, workdir)
    assert last["step"] == 2 and np.isfinite(last["loss"])
    result = evaluate(config, workdir)
    assert result["protocol"] == "2x10" and result["videos"] == 9
    scores = ScoreFile.read(workdir / "scores_videos_split1_test.npz")
    video = Path(config.data.split_file).parent / f"{scores.names[0]}.avi"
    (predicted,) = predict([(config, workdir)], video)["streams"].values()
    for entry in predicted["top"]:
        wanted = scores.probs[0][scores.classes.index(entry["class"])]
        # Printed with six digits.
        assert entry["probability"] == pytest.approx(float(wanted), abs=2e-6)


@pytest.mark.slow
def test_each_kind_trains_evaluates_and_predicts(own, kind, tmp_path, one_device):
    section = own.input
    section.stack, section.stacking, section.bidirectional, section.mean_subtraction = kind
    check_run(own, tmp_path)
    # And is not continued or scored with another stacking.
    other = "flow" if section.stacking == "trajectory" else "trajectory"
    was, section.stacking = section.stacking, other
    with pytest.raises(UserError, match=rf"cannot continue, input\.stacking was '{was}', is '{other}'; restore"):
        train(own, tmp_path)
    with pytest.raises(UserError, match=rf"input\.stacking='{other}': the net in .* was trained with '{was}'"):
        evaluate(own, tmp_path)


@pytest.mark.slow
def test_slow_fusion_trains_evaluates_and_predicts(own, tmp_path, one_device):
    own.model.name, own.input.streams, own.input.clip_frames = "slow_fusion", ("rgb",), 8
    assert Setup.of(own).span == (0, 7)
    check_run(own, tmp_path)


def first_inputs(config):
    """Return the first training batch as the net sees it."""
    setup = Setup.of(config)
    section = config.input
    draw = pipeline.DrawBatch((setup.only.table("train"),), 8, *setup.span, section.crop, True, 0)
    (batch,) = pipeline.train_batches(
        [setup.only.records],
        draw,
        setup.window(section.crop),
        start_step=0,
        steps=1,
        reading=pipeline.Reading(num_threads=1),
    )
    prepare = jax.jit(lambda b: train_inputs(b, crop=section.crop, lighting_std=0.0, **setup.inputs.flow))
    return np.asarray(prepare(batch)["flow"])


def test_first_fields_of_trajectories_are_those_of_plain_stacks(own):
    """The same draws: both halves begin at the crop's own pixels, then part from what stands there."""
    own.input.stack, own.input.bidirectional = 4, True
    plain = first_inputs(own)
    own.input.stacking = "trajectory"
    followed = first_inputs(own)
    assert plain.shape == followed.shape == (8, 1, 41, 41, 8)
    np.testing.assert_allclose(followed[..., [0, 1, 4, 5]], plain[..., [0, 1, 4, 5]], atol=1e-5)
    assert np.abs(followed - plain)[..., [2, 3, 6, 7]].max() > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input.stacking": "path"}, r"input\.stacking='path': choose one of flow, trajectory"),
        ({"input.clip_frames": 0}, r"input\.clip_frames=0: must be at least 1"),
        ({"input.clip_frames": 11}, r"input\.clip_frames=11: cnn_m_temporal takes single frames; set it to 1"),
        (
            {"input.stack": 5},
            r"input\.stack=5: input\.bidirectional=True takes half of the fields each way; give an even",
        ),
        ({"input.flow_offset": -2}, r"input\.flow_offset=-2: input\.bidirectional=True reaches .*; set it to 0"),
        ({"flow.backward": False}, r"flow\.backward=False: input\.bidirectional=True needs .* set flow\.backward=True"),
    ],
)
def test_what_does_not_fit_is_one_line(own, changes, message):
    own.input.stack, own.input.bidirectional = 4, True
    check_values(own)
    for key, value in changes.items():
        section, name = key.split(".")
        own[section][name] = value
    with pytest.raises(UserError, match=message) as refused:
        check_values(own)
    assert "\n" not in str(refused.value)


def test_a_net_of_frames_does_not_mind_the_flow_keys(own):
    """mode=demo trains both nets with one config."""
    own.model.name, own.input.streams = "cnn_m_spatial", ("rgb",)
    own.input.stack, own.input.bidirectional, own.input.stacking, own.flow.backward = 5, True, "trajectory", False
    setup = Setup.of(own)
    assert setup.span == (0, 0)
    window = setup.window(41)
    assert (window.height, window.width, window.whole) == (41, 41, False)


def test_records_without_backward_flow_are_named(config):
    config.input.stack, config.input.bidirectional, config.flow.backward = 2, True, True
    message = r"data\.records=.*: holds forward flow only, .* prepare another folder with flow\.backward=True"
    with pytest.raises(UserError, match=message):
        Setup.of(config)


def test_windows_of_trajectories_have_the_largest_stored_size(own):
    own.input.stacking = "trajectory"
    setup = Setup.of(own)
    window = setup.window(41)
    assert (window.height, window.width, window.whole) == (48, 60, True)
