"""mode=train: what it leaves, exact continuation, refusals; kills are in test_interrupted_training.py."""

import json
import shutil
import signal

import jax
import numpy as np
import pytest

from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.checkpoint import Checkpoints, choose_step
from twostream_jax.drivers.setup import Setup
from twostream_jax.drivers.train import train
from twostream_jax.optim import make_optimizer
from twostream_jax.run_log import read_metrics


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Train on one of the eight simulated devices: sharding is the point of test_steps.py."""
    everyone = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda *_: everyone[:1])


def state_of(config, workdir, step):
    """Return the arrays of a checkpoint."""
    setup = Setup.of(config)
    mesh = meshes.make_mesh()
    create = steps.jit_init(
        mesh,
        model=setup.model({setup.task: len(setup.classes)}),
        optimizer=make_optimizer(config.optim),
        inputs=setup.inputs,
    )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore(step, jax.eval_shape(create, jax.random.key(0)), mesh)


def same_arrays(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """A run of six steps, never disturbed, with dropout on and a validation group held out."""
    config = tiny_config.copy_and_resolve_references()
    config.model.dropout, config.data.validation_fraction = 0.5, 0.5
    config.eval.validation_frames = 2
    workdir = tmp_path_factory.mktemp("finished") / "run"
    everyone = jax.devices()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: everyone[:1])
        last = train(config, workdir)
    return config, workdir, last


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
    assert stored["tasks"] == {"videos": list(Setup.of(config).classes)}
    assert stored["records"]["checksum"] == Setup.of(config).records.dataset.checksum
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
    losses, undisturbed = (
        [(line["step"], line["loss"], line.get("validation_accuracy")) for line in read_metrics(folder)]
        for folder in (tmp_path / "run", workdir)
    )
    assert losses == undisturbed and [step for step, *_ in losses] == [2, 3, 4, 6]


def test_the_seed_decides_everything(finished, tmp_path):
    config, workdir, _ = finished
    train(config, tmp_path / "same")
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


@pytest.mark.parametrize("item", ["state", "config"])
def test_a_damaged_checkpoint_is_passed_over_and_made_anew(finished, tmp_path, item, capsys):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    damage(tmp_path / "run", 6, item)
    if item == "state":
        # A finished run is not read at all; one that is to go on is.
        config = config.copy_and_resolve_references()
        config.train.steps = 7
    train(config, tmp_path / "run")
    out = capsys.readouterr().out
    assert "checkpoint 6 is damaged and passed over" in out and "continues at step 3" in out
    assert same_arrays(state_of(config, tmp_path / "run", 6), state_of(config, workdir, 6))


def test_a_run_of_damaged_checkpoints_only(finished, tmp_path):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    config = config.copy_and_resolve_references()
    config.train.steps = 7
    for step in (3, 6):
        damage(tmp_path / "run", step, "state")
    with pytest.raises(UserError, match="no checkpoint can be read; delete the folder to start afresh"):
        train(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"damaged|absent"):
        state_of(config, tmp_path / "run", 6)
    damage(tmp_path / "run", 6, "config")
    with (
        Checkpoints(tmp_path / "run", read_only=True) as checkpoints,
        pytest.raises(UserError, match=r"6: damaged .* choose another step .*there are: 3"),
    ):
        checkpoints.config(6)


def test_records_with_other_class_names_are_refused(finished, tmp_path):
    config, workdir, _ = finished
    shutil.copytree(config.data.records, tmp_path / "records")
    path = tmp_path / "records" / "dataset.json"
    path.write_text(path.read_text().replace('"red-swing"', '"juggling"', 1))
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
    path.write_text(path.read_text().replace('"checksum": "', '"checksum": "0'))
    changed = config.copy_and_resolve_references()
    changed.data.records = str(tmp_path / "records")
    with pytest.raises(UserError, match="its run used records videos with checksum"):
        train(changed, workdir)


def test_a_step_can_be_chosen(finished):
    _, workdir, _ = finished
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert choose_step(checkpoints, "last") == 6
        assert choose_step(checkpoints, "3") == 3
        assert choose_step(checkpoints, "best") == checkpoints.best_step()
        for wrong in ("4", "newest"):
            with pytest.raises(UserError, match=f"eval.checkpoint={wrong}: not among the saved steps 3, 6"):
                choose_step(checkpoints, wrong)


def test_a_net_of_another_shape_is_refused_by_name(finished):
    config, workdir, _ = finished
    changed = config.copy_and_resolve_references()
    changed.model.width = 1 / 8
    with pytest.raises(UserError, match=r"params/conv1/bias is float32\[8\], this config's net has float32\[12\]"):
        state_of(changed, workdir, 6)


def test_the_best_is_kept_beside_the_latest_two(tmp_path):
    accuracies = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.4, 5: 0.3}
    with Checkpoints(tmp_path) as checkpoints:
        for step, accuracy in accuracies.items():
            checkpoints.save(step, {"x": jax.numpy.zeros(3)}, {"step": step}, accuracy)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]
        assert checkpoints.best_step() == 2 and checkpoints.config(4) == {"step": 4}


def test_without_validation_the_latest_two_are_kept_and_best_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"x": jax.numpy.zeros(3)}, {}, None)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        with pytest.raises(UserError, match=r"eval.checkpoint=best: this run held out no validation groups"):
            choose_step(checkpoints, "best")


def test_no_checkpoints(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints"):
        Checkpoints(tmp_path, read_only=True)
    (tmp_path / "checkpoints").mkdir()
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match="holds no finished checkpoint"),
    ):
        choose_step(checkpoints, "last")


def test_a_batch_that_does_not_divide_over_the_devices(config, tmp_path, monkeypatch):
    monkeypatch.undo()
    config.train.batch_size = 12
    with pytest.raises(UserError, match=r"train.batch_size=12: must divide over the 8 devices present; use 8 or 16"):
        train(config, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(config, tmp_path):
    config.optim.learning_rate = 1e9
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d: lower optim.learning_rate"):
        train(config, tmp_path)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == []
    assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_continues_exactly(finished, tmp_path, monkeypatch, capsys, number):
    config, *_ = finished
    put_batch, count = meshes.put_batch, iter(range(100))

    def signalled(batch, mesh):
        if next(count) == 3:  # the fourth step
            signal.raise_signal(number)
        return put_batch(batch, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(meshes, "put_batch", signalled)
        config = config.copy_and_resolve_references()
        config.train.checkpoint_every = 5
        # Validation, too, puts batches on the device; without it the count is of steps.
        config.data.validation_fraction = 0.0
        with pytest.raises(SystemExit) as stopped:
            train(config, tmp_path / "run")
    assert stopped.value.code == (0 if number == signal.SIGTERM else 130)
    assert "saved at step 4 and stopped" in capsys.readouterr().out
    train(config, tmp_path / "run")
    assert "continues at step 4" in capsys.readouterr().out
    train(config, tmp_path / "calm")
    assert same_arrays(state_of(config, tmp_path / "run", 6), state_of(config, tmp_path / "calm", 6))


def test_a_config_that_would_prepare_otherwise_is_warned_of(finished, tmp_path, capsys):
    config, _, _ = finished
    config = config.copy_and_resolve_references()
    config.flow.method, config.flow.bound_px, config.train.steps = "farneback", 20.0, 1
    train(config, tmp_path / "run")
    err = capsys.readouterr().err
    assert "warning: flow.method is farneback in the config and dis in" in err and "flow.bound_px is 20.0" in err
    assert "short_side" not in err


def test_a_folder_of_both_streams_is_no_place_for_one_net(config, tmp_path):
    (tmp_path / "spatial").mkdir()
    (tmp_path / "spatial" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run of both streams; name another folder"):
        train(config, tmp_path)
