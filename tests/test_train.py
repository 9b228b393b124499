"""mode=train: what it leaves, exact continuation, refusals; kills are in test_interrupted_training.py."""

import json
import shutil
import signal

import numpy as np
import pytest
from tiny_clips import sealed
from trained import events, numbers, same_arrays, scalars, state_of

from input_pipeline import sampling
from input_pipeline.schema import UserError
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers import bad_batch
from twostream_jax.drivers.device_batches import DeviceBatches
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.step_lines import StepLines
from twostream_jax.drivers.train import train
from twostream_jax.run_log import Progress, read_metrics

pytestmark = pytest.mark.usefixtures("one_device")


def test_what_a_run_leaves(finished):
    config, workdir, last = finished
    assert json.loads((workdir / "config.json").read_text()) == json.loads(json.dumps(config.to_dict()))
    lines = read_metrics(workdir)
    training = [line for line in lines if "loss" in line]
    # Every log_every steps and at checkpoints, each once; the validation's accuracy stands in the checkpoint's line.
    assert [line["step"] for line in lines] == [line["step"] for line in training] == [2, 3, 4, 6]
    keys = {"step", "loss", "clip_accuracy", "learning_rate", "samples_per_second", "input_wait"}
    for line in training:
        assert set(line) == keys | ({"validation_accuracy"} if line["step"] in (3, 6) else set())
        assert 0 <= line["input_wait"] <= 1 and line["samples_per_second"] > 0
    assert last == training[-1]
    assert list((workdir / "tensorboard").iterdir())
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 6]
        stored = checkpoints.config(6)
        assert checkpoints.best_step() in (3, 6)
    assert stored["tasks"] == {"videos": list(Setup.of(config).only.classes)}
    assert stored["records"]["videos"]["checksum"] == Setup.of(config).only.records.dataset.checksum
    assert stored["config"]["model"]["width"] == 1 / 16 and "jax" in stored["versions"]


def test_a_continued_run_ends_bit_for_bit_as_an_undisturbed_one(finished, tmp_path):
    config, workdir, _ = finished
    half = config.copy_and_resolve_references()
    half.train.steps = 3
    train(half, tmp_path / "run")
    # As after a crash: lines of steps that the checkpoint does not have.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 9.0}\n{"step":')
    train(config, tmp_path / "run")
    assert same_arrays(state_of(config, tmp_path / "run", 6), state_of(config, workdir, 6))
    assert numbers(tmp_path / "run") == numbers(workdir)
    assert [line["step"] for line in numbers(workdir)] == [2, 3, 4, 6]
    # Literally once in the event files too: nothing is left to the viewer to hide.
    lines = read_metrics(tmp_path / "run")
    wanted = [(line["step"], tag, np.float32(value)) for line in lines for tag, value in line.items() if tag != "step"]
    assert sorted(scalars(tmp_path / "run")) == sorted(wanted)
    assert events(tmp_path / "run")[0].file_version == "brain.Event:2"


@pytest.mark.slow
def test_the_seed_decides_everything(finished, tmp_path):
    config, workdir, _ = finished
    # A CPU needs nothing for that, so the key changes nothing here.
    same = config.copy_and_resolve_references()
    same.train.deterministic = True
    train(same, tmp_path / "same")
    assert same_arrays(state_of(config, tmp_path / "same", 6), state_of(config, workdir, 6))
    other = config.copy_and_resolve_references()
    other.seed = 1
    train(other, tmp_path / "other")
    assert not same_arrays(state_of(other, tmp_path / "other", 6), state_of(config, workdir, 6))


def damage(workdir, step, item):
    """Cut every file of an item of a checkpoint in half."""
    for path in (workdir / "checkpoints" / str(step) / item).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_bit(workdir, step, _):
    """Turn one bit in the middle of the arrays."""
    (path,) = (workdir / "checkpoints" / str(step) / "state").glob("ocdbt.process_0/d/*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("how", "item"), [(damage, "state"), (damage, "config"), (turn_a_bit, "state")])
def test_a_damaged_checkpoint_is_passed_over_and_made_anew(finished, tmp_path, how, item, capfd):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    how(tmp_path / "run", 6, item)
    # Even a finished run is looked at: else eval would ask for a training that finds nothing to do.
    train(config, tmp_path / "run")
    out, err = capfd.readouterr()
    said = [line for line in out.splitlines() if "damaged" in line]
    assert len(said) == 1 and said[0].startswith("checkpoint 6 is damaged and passed over (")
    assert "eval" not in said[0] and "continues at step 3" in out
    assert all(line.startswith("train ") for line in err.splitlines())
    assert same_arrays(state_of(config, tmp_path / "run", 6), state_of(config, workdir, 6))
    assert numbers(tmp_path / "run") == numbers(workdir)


def test_a_run_of_damaged_checkpoints_only(finished, tmp_path, capsys):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    for item in ("state", "config"):
        for step in (3, 6):
            damage(tmp_path / "run", step, item)
        with pytest.raises(UserError, match="no checkpoint can be read; bring back a copy, or delete the folder"):
            train(config, tmp_path / "run")
        assert capsys.readouterr().out.count("is damaged and passed over") == 2


def test_records_with_other_class_names_are_refused(finished, tmp_path):
    config, workdir, _ = finished
    shutil.copytree(config.data.records, tmp_path / "records")
    path = tmp_path / "records" / "dataset.json"
    path.write_text(sealed(path.read_text().replace('"red-swing"', '"juggling"', 1)))
    changed = config.copy_and_resolve_references()
    changed.data.records, changed.train.steps = str(tmp_path / "records"), 7
    with pytest.raises(UserError, match="unknown to the net juggling"):
        train(changed, workdir)


def test_a_finished_run_does_nothing(finished, capsys):
    config, workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    assert train(config, workdir) == {"step": 6}
    assert "nothing to do" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_bytes() == before


def test_free_keys_may_change_and_are_said(finished, tmp_path, capsys):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    longer = config.copy_and_resolve_references()
    longer.train.steps, longer.data.num_threads = 8, 1
    train(longer, tmp_path / "run")
    out = capsys.readouterr().out
    assert "continues with train.steps 8 instead of 6" in out and "data.num_threads 1 instead of 2" in out
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        # The latest two, and the best of the validation groups.
        assert {6, 8} <= set(checkpoints.steps()) and len(checkpoints.steps()) <= 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.learning_rate", 0.5),
        ("model.width", 1 / 8),
        ("input.stack", 2),
        ("seed", 7),
        ("train.batch_size", 8),
        ("data.validation_fraction", 0.0),
    ],
)
def test_other_keys_may_not(finished, key, value):
    config, workdir, _ = finished
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"cannot continue, {key} was"):
        train(changed, workdir)


def test_other_records_are_refused(finished, tmp_path):
    config, workdir, _ = finished
    shutil.copytree(config.data.records, tmp_path / "records")
    path = tmp_path / "records" / "dataset.json"
    path.write_text(sealed(path.read_text().replace('"checksum": "', '"checksum": "0')))
    changed = config.copy_and_resolve_references()
    changed.data.records = str(tmp_path / "records")
    with pytest.raises(UserError, match=r"not the records that the run in .*: checksum was .*, is 0"):
        train(changed, workdir)
    # What can be told in words is: the checksum says only that something differs.
    text = (
        path.read_text().replace('"short_side": 48', '"short_side": 64').replace('"method": "dis"', '"method": "tvl1"')
    )
    path.write_text(sealed(text.replace('"name": "videos"', '"name": "others"', 1)))
    with pytest.raises(UserError) as refused:
        train(changed, workdir)
    told = "name was videos, is others; short_side was 48, is 64; flow.method was dis, is tvl1; use those"
    assert told in str(refused.value) and "checksum" not in str(refused.value)


def test_a_batch_that_does_not_divide_over_the_devices(config, tmp_path, monkeypatch):
    monkeypatch.undo()
    config.train.batch_size = 12
    with pytest.raises(UserError, match=r"train.batch_size=12: must divide over the 8 devices present; use 8 or 16"):
        train(config, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(config, tmp_path):
    config.optim.learning_rate = 1e9
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d \(its batch: ") as stopped:
        train(config, tmp_path)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == []
    assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path))
    # The batch, against draws made here from the formulas of the order: step s is drawn from (seed, s - 1).
    found = json.loads((tmp_path / "bad_batch.json").read_text())
    setup = Setup.of(config)
    table = setup.only.table("train")
    rng = np.random.default_rng([config.seed, found["step"] - 1])
    drawn = sampling.train_indices(rng, table, 16, before=0, after=3, crop=41, flip=True)
    names = [setup.only.records.videos[i].name for i in drawn["video"]]
    assert [sample["video"] for sample in found["samples"]] == names and found["seed"] == 0
    assert [sample["anchor"] for sample in found["samples"]] == drawn["anchor"].tolist()
    crops = [[int(y), int(x)] for y, x in zip(drawn["y"], drawn["x"], strict=True)]
    assert [sample["crop"] for sample in found["samples"]] == crops
    assert [sample["flip"] for sample in found["samples"]] == drawn["flip"].tolist()
    assert f"(its batch: {', '.join(dict.fromkeys(names))[:20]}" in str(stopped.value)
    assert f"at step {found['step']} " in str(stopped.value) and str(tmp_path / "bad_batch.json") in str(stopped.value)


def test_parameters_that_are_no_numbers_are_not_saved(config, tmp_path):
    """The loss of a step is of the parameters before it; what the step did to them must be looked at by itself."""
    # The update overflows: 3e38 * 1e9 * a weight of some hundredths.
    config.optim.learning_rate, config.optim.weight_decay, config.train.steps = 3e38, 1e9, 1
    with pytest.raises(UserError, match=r"a parameter is no number after the update at step 1 \(its batch"):
        train(config, tmp_path)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == []


def test_the_second_process_of_a_run_writes_no_batch(tmp_path):
    batch = {"step": 2, "seed": 0, "samples": [{"video": "a"}] * 3}
    line = str(bad_batch.refusal(bad_batch.NotFinite("the loss is nan", 2), batch, tmp_path, write=False))
    assert line.startswith("the loss is nan at step 2 (its batch: a; all in ") and not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_run_continues_exactly(finished, tmp_path, monkeypatch, capsys, number):
    config, *_ = finished

    class Signalled(StepLines):
        def add(self, step, metrics):
            if step == 4:
                signal.raise_signal(number)
            super().add(step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr("twostream_jax.drivers.train.StepLines", Signalled)
        config = config.copy_and_resolve_references()
        config.train.checkpoint_every, config.data.validation_fraction = 5, 0.0
        with pytest.raises(SystemExit) as stopped:
            train(config, tmp_path / "run")
    assert stopped.value.code == (0 if number == signal.SIGTERM else 130)
    assert "saved at step 4 and stopped" in capsys.readouterr().out
    train(config, tmp_path / "run")
    assert "continues at step 4" in capsys.readouterr().out
    train(config, tmp_path / "calm")
    assert same_arrays(state_of(config, tmp_path / "run", 6), state_of(config, tmp_path / "calm", 6))


@pytest.mark.parametrize("waited", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_signal_that_ends_the_worker_processes_too_saves(finished, tmp_path, monkeypatch, capsys, waited):
    """Schedulers signal the whole process group: training then finds no batch, and saves what it has."""
    config, *_ = finished

    class Ended(DeviceBatches):
        count = 0

        def wait(self, seconds):
            return not waited and super().wait(seconds)

        def __next__(self):
            self.count += 1
            if self.count == 5:
                signal.raise_signal(signal.SIGTERM)
            if self.count >= 5:
                raise UserError("data.num_workers=2: a worker process has died")
            return super().__next__()

    config = config.copy_and_resolve_references()
    config.train.checkpoint_every, config.data.validation_fraction = 5, 0.0
    with monkeypatch.context() as patch:
        patch.setattr("twostream_jax.drivers.train.DeviceBatches", Ended)
        with pytest.raises(SystemExit) as stopped:
            train(config, tmp_path / "run")
    assert stopped.value.code == 0 and "saved at step 4 and stopped" in capsys.readouterr().out
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [2, 4]
    train(config, tmp_path / "run")
    assert "continues at step 4" in capsys.readouterr().out
    # Without a signal the same is the end of the run.
    with monkeypatch.context() as patch:
        patch.setattr("twostream_jax.drivers.train.DeviceBatches", Ended)
        patch.setattr(signal, "raise_signal", lambda number: None)
        with pytest.raises(UserError, match="a worker process has died"):
            train(config, tmp_path / "dead")


@pytest.mark.parametrize(("at", "saved"), [(2, 3), (6, 6)])
def test_a_signal_between_save_and_progress_loses_nothing(config, tmp_path, monkeypatch, capsys, at, saved):
    """It comes too late for its own step, which is not saved, and ends the run after the next; the last is saved."""

    class Signalled(Progress):
        def update(self, done, total, note=""):
            if done == at:
                signal.raise_signal(signal.SIGTERM)
            super().update(done, total, note)

    monkeypatch.setattr("twostream_jax.drivers.train.Progress", Signalled)
    config.train.checkpoint_every = 5
    with pytest.raises(SystemExit) as stopped:
        train(config, tmp_path / "run")
    assert stopped.value.code == 0 and f"saved at step {saved} and stopped" in capsys.readouterr().out
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == saved


def test_a_config_that_would_prepare_otherwise_is_warned_of(finished, tmp_path, capsys):
    config, _, _ = finished
    config = config.copy_and_resolve_references()
    config.flow.method, config.flow.bound_px, config.train.steps = "farneback", 20.0, 1
    train(config, tmp_path / "run")
    err = capsys.readouterr().err
    assert "warning: flow.method is farneback in the config and dis in" in err and "flow.bound_px is 20.0" in err
    assert "short_side" not in err
