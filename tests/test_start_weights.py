"""init.from: a run's checkpoint or Oxford's net becomes the start of another run, layer by layer, or is refused by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import oxford_files as files
import pytest
from command_line import forbid_devices, refused
from conftest import REPOSITORY, cpu_environment
from test_processes import free_port
from tiny_clips import sealed
from trained import same_arrays

from configs import base
from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.start_weights import plan_start

HIDDEN = ("conv1", "conv2", "conv3", "conv4", "conv5", "full6", "full7")
COUNTING = ("devices", "local_devices")


def plan(config, frozen=()):
    """Return what a fresh run of the config takes from init.from."""
    setup = Setup.of(config)
    params = steps.abstract_params(setup.model(setup.heads), setup.inputs)
    return plan_start(setup, params, frozen)


def mesh():
    return meshes.make_mesh(jax.devices()[:1])


def checkpoint(config, workdir, step):
    """Return the parameters of a step of a run."""
    setup = Setup.of(config)
    params = steps.abstract_params(setup.model(setup.heads), setup.inputs)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_params(step, params, mesh())


def other_records(config, folder, **changes) -> str:
    """Return a copy of the records whose dataset.json says otherwise: name, or classes."""
    shutil.copytree(config.data.records, folder, dirs_exist_ok=True)
    path = Path(folder) / "dataset.json"
    path.write_text(sealed(json.dumps(json.loads(path.read_text()) | changes)))
    return str(folder)


@pytest.fixture
def second(config, finished):
    """A config that begins with the last checkpoint of `finished`."""
    config.init["from"] = str(finished[1])
    return config


def test_every_layer_of_the_same_task_is_loaded(second, finished):
    start = plan(second)
    params, stored = start.params(mesh()), checkpoint(finished[0], finished[1], 6)
    assert set(params) == {*HIDDEN, "full8_videos"} and same_arrays(params, stored)
    assert start.lines() == [
        f"begins with step 6 of {finished[1]}",
        f"  loaded: {', '.join(HIDDEN)}, full8_videos",
    ]


def test_a_step_is_named_by_its_folder(second, finished):
    second.init["from"] = str(finished[1] / "checkpoints" / "3")
    start = plan(second)
    assert start.lines()[0] == f"begins with step 3 of {finished[1]}"
    assert same_arrays(start.params(mesh()), checkpoint(finished[0], finished[1], 3))


def test_another_data_sets_head_is_taken_where_its_classes_are_the_same(second, finished, tmp_path):
    second.data.records = other_records(second, tmp_path / "hmdb", name="hmdb51")
    start = plan(second)
    assert start.lines()[1:] == [
        f"  loaded: {', '.join(HIDDEN)}",
        "  adapted: full8_hmdb51 (full8_videos's, which has the same classes)",
    ]
    ours, theirs = start.params(mesh())["full8_hmdb51"], checkpoint(finished[0], finished[1], 6)["full8_videos"]
    np.testing.assert_array_equal(ours["kernel"], theirs["kernel"])


def test_another_data_sets_head_of_other_classes_is_dropped(second, tmp_path):
    classes = list(Setup.of(second).only.classes)
    second.data.records = other_records(second, tmp_path / "hmdb", name="hmdb51", classes=[*classes[:-1], "juggling"])
    start = plan(second)
    assert set(start.params(mesh())) == set(HIDDEN)
    assert start.lines()[1:] == [
        f"  loaded: {', '.join(HIDDEN)}",
        "  left fresh: full8_hmdb51",
        f"  not taken: full8_videos (9 classes, {classes[0]} ...)",
    ]


def test_classes_in_another_order_are_matched_by_name(second, finished, tmp_path):
    classes = list(Setup.of(second).only.classes)
    turned = [*classes[3:], *classes[:3]]
    second.data.records = other_records(second, tmp_path / "turned", classes=turned)
    start = plan(second)
    assert start.lines()[1:] == [
        f"  loaded: {', '.join(HIDDEN)}",
        "  adapted: full8_videos (its classes put into the records' order)",
    ]
    ours, theirs = start.params(mesh())["full8_videos"], checkpoint(finished[0], finished[1], 6)["full8_videos"]
    for k, name in enumerate(turned):
        np.testing.assert_array_equal(ours["kernel"][:, k], theirs["kernel"][:, classes.index(name)])
        np.testing.assert_array_equal(ours["bias"][k], theirs["bias"][classes.index(name)])


def test_other_classes_of_the_same_task_begin_afresh(second, tmp_path):
    classes = list(Setup.of(second).only.classes)
    second.data.records = other_records(second, tmp_path / "other", classes=[*classes[:-1], "juggling"])
    start = plan(second)
    assert "full8_videos" not in start.params(mesh())
    assert start.lines()[2:] == [
        "  left fresh: full8_videos",
        f"  not taken: full8_videos (9 classes, {classes[0]} ...)",
    ]
    with pytest.raises(
        UserError,
        match=r"^init\.freeze covers full8_videos, and init\.from=step 6 of .* has no full8 of these 9 classes",
    ):
        plan(second, ("conv1", "full8_videos"))


def test_of_a_two_stream_run_the_own_stream_is_taken(second, finished, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "temporal").symlink_to(finished[1])
    second.init["from"] = str(tmp_path / "both")
    assert plan(second).lines()[0] == f"begins with step 6 of {tmp_path / 'both' / 'temporal'}"


def test_records_of_another_make_are_warned_of(second, tmp_path, capsys):
    flow = json.loads((Path(second.data.records) / "dataset.json").read_text())["flow"]
    second.data.records = other_records(second, tmp_path / "made", flow=flow | {"method": "tvl1"})
    plan(second)
    assert "was made with flow.method tvl1; the net was trained on flow.method dis\n" in capsys.readouterr().out


def test_nothing_is_planned_without_init_from(config):
    assert plan(config) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.width": 1 / 8}, "{run}: its net has model.width=0.0625, this config's 0.125; set the same, or choose"),
        (
            {"model.name": "cnn_m_spatial", "input.streams": ("rgb",)},
            "its net has model.name='cnn_m_temporal', this con",
        ),
        (
            {"input.stack": 2},
            "step 6 of {run}: its conv1/kernel is 7 x 7 x 6 x 8, this net's 7 x 7 x 4 x 8; set input.s",
        ),
        ({"input.stack": 2}, "set input.stack as there, or choose other weights"),
        (
            {"init.from": "{run}/checkpoints/4"},
            "{run}/checkpoints/4: it has the steps 3, 6; name one of them, or a run",
        ),
        ({"init.from": "{here}/none"}, "{here}/none: is not there; give the workdir of a trained run, DIR/checkpoints"),
        ({"init.from": "{here}"}, "{here}: holds no checkpoints; give the workdir of a trained run"),
        ({"init.from": "{here}/net.pth"}, "{here}/net.pth: is no weights; give the workdir of a trained run"),
        (
            {"init.from": "{here}/fresh"},
            "{here}/fresh: it has no finished checkpoint; name one of them, or a run that has",
        ),
        ({"init.from": "{damaged}"}, "{damaged}: step 6 is damaged (its config"),
        ({"init.from": "{damaged}"}, "name another one (there are: 3)"),
    ],
)
def test_runs_that_are_refused(change, said, second, finished, tmp_path):
    places = {"run": str(finished[1]), "here": str(tmp_path), "damaged": str(tmp_path / "damaged")}
    (tmp_path / "net.pth").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "fresh" / "checkpoints").mkdir(parents=True)
    shutil.copytree(finished[1], tmp_path / "damaged")
    shutil.rmtree(tmp_path / "damaged" / "checkpoints" / "6" / "config")
    for key, value in change.items():
        section, name = key.split(".")
        second[section][name] = value.format(**places) if isinstance(value, str) else value
    with pytest.raises(UserError) as error:
        plan(second)
    line = str(error.value)
    assert line.startswith("init.from=") and said.format(**places) in line and "\n" not in line, line


def test_damaged_arrays_are_named(second, finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "run")
    for data in (tmp_path / "run" / "checkpoints" / "6" / "state").glob("**/d/*"):
        data.write_bytes(data.read_bytes()[:-100])
    second.init["from"] = str(tmp_path / "run")
    start = plan(second)
    with pytest.raises(
        UserError, match=r"^init\.from=.*/run: step 6 is damaged \(.*\); name another one \(there are: 3\)$"
    ):
        start.params(mesh())


def test_another_crop_may_have_the_same_map(second):
    """48 px make a map of 1x1 before full6, as 41 px do."""
    second.input.crop = 48
    assert "full6" in plan(second).loaded


# --- Oxford's files --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_begin_alike(finished, config, tmp_path):
    """Each of two processes reads the weights, and the state they save has them."""
    workdir, port = tmp_path / "run", free_port()
    started = [
        subprocess.Popen(
            [
                sys.executable, "run.py", "--config=configs/demo.py", f"--workdir={workdir}", "--mode=train",
                "--config.data.kind=csv", f"--config.data.records={config.data.records}", "--config.data.short_side=48",
                "--config.input.crop=41", "--config.input.stack=3", "--config.model.width=0.0625",
                "--config.train.batch_size=16", "--config.train.steps=1", "--config.optim.drops=()",
                f"--config.init.from={finished[1]}", "--config.init.freeze=conv*,full6,full7",
                f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={process}",
            ],
            cwd=REPOSITORY,
            env=cpu_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for process in range(2)
    ]  # fmt: skip
    for process in started:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output.decode()
    source, found = checkpoint(finished[0], finished[1], 6), checkpoint(finished[0], workdir, 1)
    assert same_arrays({name: found[name] for name in HIDDEN}, {name: source[name] for name in HIDDEN})
    assert not same_arrays(found["full8_videos"], source["full8_videos"])


# --- the command line ------------------------------------------------------------------------------------------------

T, S = "--config=configs/temporal.py", "--config=configs/spatial_last_layer.py"
MISTAKES = [
    (
        [T, "--config.init.from=x.caffemodel"],
        "init.from=x.caffemodel: weights of CNN-M on RGB images, which fit cnn_m_sp",
    ),
    (["--config.init.from=x.mat"], "init.from=x.mat: weights of CNN-M on RGB images"),
    ([T, "--config.init.form=x"], "init has no key 'form'; did you mean from?"),
    (
        ["--workdir={run}", "--config.init.freeze=conv9"],
        "init.freeze='conv9': covers no layer of the net; it has conv1",
    ),
    (["--workdir={run}", "--config.init.freeze=*"], "init.freeze=*: covers every layer, so nothing would train"),
    (["--workdir={run}", "--config.init.freeze=(1,)"], "init.freeze='1': covers no layer"),
    (["--workdir={run}", "--config.init.from={run}"], "init.from={run}: it has no finished checkpoint"),
    (["--workdir={run}", "--config.init.from={run}/none"], "init.from={run}/none: is not there"),
    (["--workdir={run}", "--config.init.from={run}/config.json"], "init.from={run}/config.json: is no weights"),
    (
        ["--workdir={rgb}", "--config.init.from={rgb}/x.mat"],
        "init.from={rgb}/x.mat: there is no such file; name the file",
    ),
    (["--workdir={rgb}", "--config.init.from={rgb}/dir.mat"], "init.from={rgb}/dir.mat: is a folder; name the file"),
    (["--workdir={rgb}", "--config.init.from={rgb}/text.mat"], "{rgb}/text.mat: not a whole MatConvNet file ("),
    (["--workdir={rgb}", "--config.init.from={rgb}/cut.caffemodel"], "{rgb}/cut.caffemodel: not a whole .caffemodel ("),
    (
        ["--workdir={rgb}", "--config.init.from={rgb}/empty.caffemodel"],
        "no layer 'conv1' with weights (there are: none)",
    ),
    (
        [S, "--config.data.records={records}"],
        "init.from={cwd}/weights/VGG_CNN_M_2048.caffemodel: there is no such file",
    ),
    (["--mode=inspect", T, "--config.init.freeze=conv9"], "init.freeze='conv9': covers no layer of the net"),
]


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_before_any_device_work(arguments, line, capsys, tmp_path, config, monkeypatch):
    places = {"run": tmp_path / "run", "rgb": tmp_path / "rgb", "records": config.data.records, "cwd": tmp_path}
    for name in ("run", "rgb"):
        places[name].mkdir()
        (places[name] / "config.json").write_text(json.dumps(config.to_dict()))
        config.model.name, config.input.streams = "cnn_m_spatial", ("rgb",)
    (places["rgb"] / "dir.mat").mkdir()
    (places["rgb"] / "text.mat").write_text("no weights " * 30)
    (places["rgb"] / "empty.caffemodel").write_bytes(b"")
    (places["rgb"] / "cut.caffemodel").write_bytes(files.caffemodel(files.random_net(1 / 16, 1, 11))[:99_999])
    if "{records}" in arguments[-1]:
        arguments = [*arguments, "--config.input.crop=41", "--config.model.width=0.0625"]
    monkeypatch.chdir(tmp_path)
    forbid_devices(monkeypatch, COUNTING)
    *filled, line = (text.format(**places) for text in (*arguments, line))
    refused(capsys, filled, line)


def test_a_list_of_layers_holds_words():
    from twostream_jax.models import STREAMS
    from twostream_jax.validate import check_config

    config = base.get_config()
    config.init.freeze = (1, 2)
    with pytest.raises(UserError, match=r"^init\.freeze=\(1, 2\): must be words, such as \('a', 'b'\)$"):
        check_config(config, STREAMS)
