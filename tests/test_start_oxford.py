"""init.from with Oxford's CNN-M-2048: what a run takes of a .caffemodel or a .mat, and what it makes of it."""

import json

import numpy as np
import oxford_files as files
import pytest
from test_start_weights import HIDDEN, checkpoint, mesh, plan
from trained import same_arrays

from input_pipeline.schema import UserError
from twostream_jax.drivers import inspect
from twostream_jax.drivers.evaluate import evaluate
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.train import train
from twostream_jax.pretrained import read_oxford, to_params


@pytest.fixture
def spatial(config):
    config.model.name, config.input.streams = "cnn_m_spatial", ("rgb",)
    return config


def test_a_caffemodel_is_loaded_but_for_its_head(spatial, tmp_path):
    file = tmp_path / "net.caffemodel"
    file.write_bytes(files.caffemodel(files.random_net(1 / 16, 1, 11), old=True))
    spatial.init["from"] = str(file)
    start = plan(spatial)
    wanted = to_params(read_oxford(file))
    assert same_arrays(start.params(mesh()), {name: wanted[name] for name in HIDDEN})
    assert start.lines() == [
        f"begins with {file}",
        f"  loaded: {', '.join(HIDDEN[1:])}",
        "  adapted: conv1 (from 0..255 less the mean colour RGB 123.680, 116.779, 103.939 to our input scale)",
        "  left fresh: full8_videos",
        "  not taken: full8 (11 classes without names)",
    ]


def test_the_head_of_a_mat_is_matched_by_class_name(spatial, tmp_path):
    ours = Setup.of(spatial).only.classes
    net = files.random_net(1 / 16, 1, len(ours))
    for classes, fits in ((tuple(reversed(ours)), True), (tuple(f"n{k}" for k in range(len(ours))), False)):
        spatial.init["from"] = str(files.write_mat(tmp_path / "net.mat", net, classes=classes))
        start = plan(spatial)
        params = start.params(mesh())
        assert ("full8_videos" in params) == fits
        if fits:
            np.testing.assert_array_equal(params["full8_videos"]["kernel"], net["fc8"][0].T[:, ::-1])
            np.testing.assert_array_equal(params["full8_videos"]["bias"], net["fc8"][1][::-1])
            assert "  adapted: full8_videos (its classes put into the records' order)" in start.lines()
        else:
            assert start.lines()[-2:] == ["  left fresh: full8_videos", "  not taken: full8 (9 classes, n0 ...)"]


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (
            (1 / 8, 1),
            "its conv1/kernel is 7 x 7 x 3 x 12, this net's 7 x 7 x 3 x 8; set model.width as there",
        ),
        (
            (1 / 16, 2),
            "its full6/kernel is 2 x 2 x 32 x 256, this net's 1 x 1 x 32 x 256; set input.crop as there",
        ),
    ],
)
def test_another_size_of_oxfords_net(shape, said, spatial, tmp_path):
    file = tmp_path / "net.caffemodel"
    file.write_bytes(files.caffemodel(files.random_net(*shape, 11)))
    spatial.init["from"] = str(file)
    with pytest.raises(UserError) as error:
        plan(spatial)
    assert str(error.value).startswith(f"init.from={file}: ") and said in str(error.value)


def test_fine_tuning_from_a_caffemodel(spatial, tmp_path, capsys, one_device):
    """The head alone trains on top of it, is scored and inspected; a resume does without the file."""
    file = tmp_path / "net.caffemodel"
    file.write_bytes(files.caffemodel(files.random_net(1 / 16, 1, 11), old=True))
    spatial.init["from"], spatial.init.freeze = str(file), ("conv*", "full6", "full7")
    spatial.train.steps, spatial.train.checkpoint_every, workdir = 2, 1, tmp_path / "run"
    train(spatial, workdir)
    printed = capsys.readouterr().out
    assert f"{workdir}:   left fresh: full8_videos\n" in printed and f"{workdir}: frozen: conv1, " in printed
    assert "note: init.from is empty" not in printed
    wanted, found = to_params(read_oxford(file)), checkpoint(spatial, workdir, 2)
    assert same_arrays({name: found[name] for name in HIDDEN}, {name: wanted[name] for name in HIDDEN})

    file.rename(tmp_path / "moved.caffemodel")
    result = evaluate(spatial, workdir)
    assert result["protocol"] == "4x10" and result["checkpoint"] == 2
    shown = inspect.inspect_run(spatial, workdir)
    assert shown["config"]["init"] == {"from": str(file), "freeze": ["conv*", "full6", "full7"]}
    assert f"began with the weights of {file}" in inspect.report_lines(shown)
    assert json.loads((workdir / "config.json").read_text())["init"]["from"] == str(file)
    spatial.train.steps = 3
    train(spatial, workdir)
    printed = capsys.readouterr().out
    assert "continues at step 2 of 3" in printed and "begins with" not in printed
    spatial.init["from"] = str(tmp_path / "moved.caffemodel")
    with pytest.raises(
        UserError, match=r"cannot continue, init\.from was '.*net.caffemodel', is '.*moved.caffemodel'; rest"
    ):
        train(spatial, workdir)
