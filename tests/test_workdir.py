"""The folder of a run: who may use it, from where, and with how many devices its run goes on."""

import json

import jax
import pytest
from trained import numbers

from input_pipeline.folder_lock import folder_lock
from input_pipeline.schema import UserError
from twostream_jax import cli_config, steps
from twostream_jax.drivers.train import train

pytestmark = pytest.mark.usefixtures("one_device")


def test_a_folder_of_both_streams_is_no_place_for_one_net(config, tmp_path):
    (tmp_path / "spatial").mkdir()
    (tmp_path / "spatial" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run of both streams; name another folder"):
        train(config, tmp_path)


def test_a_folder_is_used_by_one_training_at_a_time(config, tmp_path):
    with (
        folder_lock(tmp_path, "a training"),
        pytest.raises(UserError, match=r"a training is at work there already \(process \d+ on .*\); wait for its end"),
    ):
        train(config, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("below", ["", "run/a"])
def test_a_workdir_that_is_a_file(config, tmp_path, below, monkeypatch):
    monkeypatch.setattr(steps, "jit_keys", None)  # no device work
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir=.*file.*: .*/file is a file; name a folder"):
        train(config, tmp_path / "file" / below)


def test_a_workdir_that_cannot_be_written(config, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(type(tmp_path), "mkdir", refuse)
    with pytest.raises(UserError, match=r"--workdir=.*/run: cannot be written \(Permission denied\); make that place"):
        train(config, tmp_path / "run")


def test_a_run_trained_with_relative_paths_is_found_from_anywhere(finished, tmp_path, monkeypatch):
    config, workdir, _ = finished
    assert json.loads((workdir / "config.json").read_text())["data"]["records"] == config.data.records
    monkeypatch.chdir(tmp_path)
    assert train(cli_config.load_stored(workdir, []), workdir) == {"step": 6}


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_and_with_more_devices(finished, tmp_path, monkeypatch):
    config, workdir, _ = finished
    monkeypatch.undo()
    everyone = jax.devices()
    for count, steps_ in ((8, 2), (1, 4), (2, 6)):
        monkeypatch.setattr(jax, "devices", lambda *_, count=count: everyone[:count])
        config = config.copy_and_resolve_references()
        config.train.steps = steps_
        train(config, tmp_path / "run")
    ours, theirs = numbers(tmp_path / "run"), numbers(workdir)
    assert [line["step"] for line in ours] == [2, 3, 4, 6]
    for a, b in zip(ours, theirs, strict=True):
        # The bound of test_steps.py: the same sums in another order. Other samples would differ in the first digits.
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        # Where a run of fewer steps ended, a validation stands too.
        assert {key: a[key] for key in b if key != "loss"} == {key: b[key] for key in b if key != "loss"}
