"""Checkpoints: which are kept, how one is chosen, and that damage of every file and kind is found and told in a line."""

import random
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import same_arrays, state_of

from input_pipeline.schema import UserError
from twostream_jax import checkpoint, cli
from twostream_jax import mesh as meshes
from twostream_jax.checkpoint import Checkpoints, Damaged, checksums, choose_step

CONFIG = {"tasks": {"t": ["jump", "walk"]}, "config": {"seed": 3}, "tuple": (1, 2)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with steps 1 and 2 of a small state, and that state of step 2."""
    workdir = tmp_path_factory.mktemp("saved")
    rng = np.random.default_rng(0)
    with Checkpoints(workdir) as checkpoints:
        for step in (1, 2):
            kernel = jnp.asarray(rng.standard_normal((40, 50)), jnp.float32)
            state = {"step": jnp.asarray(step), "params": {"a": kernel, "b": kernel[0]}, "opt_state": [kernel * 2]}
            checkpoints.save(step, state, CONFIG, 0.5 * step)
    return workdir, state


def read(workdir, state):
    """Return (config, state, best step) of step 2 in a workdir."""
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    mesh = meshes.make_mesh(jax.devices()[:1])
    with Checkpoints(workdir, read_only=True) as checkpoints:
        config = checkpoints.config(2)
        return config, checkpoints.restore(2, abstract, mesh), checkpoints.best_step()


def damage(path, how, rng):
    """Delete, cut or empty a file, or turn one of its bits."""
    data = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
        return
    if how == "turned":
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data if how == "turned" else data[: len(data) // 2] if how == "cut" else b"")


def files(workdir):
    return sorted(path.relative_to(workdir) for path in (workdir / "checkpoints" / "2").rglob("*") if path.is_file())


@pytest.mark.parametrize("how", ["deleted", "cut", "emptied", "turned"])
def test_what_is_read_is_what_was_saved_or_damaged_by_name(saved, tmp_path, how, capfd):
    """Of every file of a step: orbax does not need all of them, and what it does not read may be anything."""
    workdir, state = saved
    rng, found = random.Random(1), {}
    for name in files(workdir):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(workdir, copy)
        damage(copy / name, how, rng)
        try:
            config, arrays, best = read(copy, state)
        except Damaged as error:
            found[name.parts[2:]] = str(error)
        else:
            assert config == {**CONFIG, "tuple": [1, 2]} and same_arrays(arrays, state) and best == 2
    for message in found.values():
        assert str(tmp_path / "copy" / "checkpoints" / "2") + ": damaged (" in message and "\n" not in message
        assert "choose another step with --config.eval.checkpoint (there are: 1), or train again" in message
        assert "handler" not in message and len(message) < 500
    assert ("config", "data.json") in found and ("state", "manifest.ocdbt") in found
    # One bit of the metadata may be in a word that nobody reads.
    assert how == "turned" or ("state", "_METADATA") in found
    assert any(parts[:3] == ("state", "ocdbt.process_0", "d") for parts in found)
    # One line is ours to give: orbax's many tracebacks stay away.
    assert capfd.readouterr().err == ""


def test_every_bit_of_the_arrays_counts(saved, tmp_path):
    """Orbax and TensorStore read changed arrays without complaint; the checksum does not."""
    workdir, state = saved
    rng = random.Random(2)
    (name,) = (name for name in files(workdir) if name.parts[3:5] == ("ocdbt.process_0", "d"))
    unnoticed = 0
    for _ in range(30):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(workdir, copy)
        damage(copy / name, "turned", rng)
        try:
            _, arrays, _ = read(copy, state)
        except Damaged as error:
            unnoticed += "do not agree with their checksum" in error.reason
        else:
            assert same_arrays(arrays, state)
    assert unnoticed >= 10


def test_only_damaged_parameters_keep_parameters_from_being_read(saved, tmp_path):
    workdir, state = saved
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)
    mesh = meshes.make_mesh(jax.devices()[:1])
    with Checkpoints(workdir, read_only=True) as checkpoints:
        whole = checkpoints._document(2)
        for part, fails in (("params", True), ("opt_state", False)):
            wrong = whole["checksums"] | {part: 0}
            checkpoints._document = lambda step, wrong=wrong: {"checksums": wrong}
            if fails:
                with pytest.raises(Damaged, match="its params do not agree with their checksum"):
                    checkpoints.restore_params(2, abstract["params"], mesh)
            else:
                assert same_arrays(checkpoints.restore_params(2, abstract["params"], mesh), state["params"])
            with pytest.raises(Damaged, match=f"its {part} do not agree"):
                checkpoints.restore(2, abstract, mesh)


def test_a_checksum_is_the_crc_of_the_bytes_in_tree_order():
    state = {
        "b": {"y": jnp.arange(3, dtype=jnp.float32), "x": jnp.ones((2, 2), jnp.bfloat16)},
        "a": jnp.asarray(7, jnp.int32),
    }
    ones = bytes.fromhex("803f") * 4  # bfloat16 1.0, little-endian
    expected = zlib.crc32(ones + np.arange(3, dtype="<f4").tobytes())
    assert checksums(state) == {"a": zlib.crc32(b"\x07\0\0\0"), "b": expected}


def test_running_out_of_memory_is_no_damage(saved, monkeypatch):
    workdir, _ = saved

    def exhausted(*_, **__):
        raise ValueError("wrapped") from jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(checkpoint.ocp, "load_checkpointables", exhausted)
    with pytest.raises(ValueError, match="wrapped"), Checkpoints(workdir, read_only=True) as checkpoints:
        checkpoints.config(2)


def test_a_mistake_in_a_save_is_not_taken_for_a_full_disk(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TypeError):
        checkpoints.save(1, {"x": jnp.zeros(3)}, {"no": "JSON", "at": object()}, None)


def test_eval_and_inspect_of_a_damaged_step_are_one_line(finished, tmp_path, capfd, one_device):
    _, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints" / "6").rglob("d/*"):
        damage(path, "cut", None)
    arguments = [f"--workdir={tmp_path / 'run'}"]
    for mode in (["--mode=eval"], ["--mode=inspect", f"--filters={tmp_path}/a.png"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*mode, *arguments])
        err = capfd.readouterr().err
        assert stopped.value.code == 2 and err.count("\n") == 1, err
        assert "checkpoints/6: damaged (" in err and "(there are: 3)" in err
    cli.main(["--mode=eval", *arguments, "--config.eval.checkpoint=3"])


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


def test_a_step_is_removed_all_at_once(tmp_path, monkeypatch):
    """A crash in the middle of a removal leaves no step that looks damaged."""

    def crash(path):
        assert path.name == "1.orbax-checkpoint-tmp"
        next(path.rglob("data.json")).unlink()
        raise KeyboardInterrupt

    state = {"x": jnp.zeros(3)}
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, state, {}, None)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.wait()
    checkpoints.close()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["1.orbax-checkpoint-tmp", "2", "3"]
    with Checkpoints(tmp_path, read_only=True) as reading:
        assert reading.steps() == [2, 3]
    # Who only reads removes nothing; the next training does.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names
    with Checkpoints(tmp_path) as again:
        assert again.steps() == [2, 3]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


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


def test_a_save_that_fails_at_the_end_is_told_once(tmp_path, monkeypatch, capsys):
    def full():
        raise OSError(28, "No space left on device")

    def closed_during(error):
        with Checkpoints(tmp_path) as checkpoints:
            monkeypatch.setattr(checkpoints._checkpointer, "close", full)
            if error is not None:
                raise error

    line = f"{tmp_path}/checkpoints: cannot be written (No space left on device); make room there"
    # An ordered stop must not end as if all were saved.
    for stop in (None, SystemExit(0), KeyboardInterrupt()):
        with pytest.raises(UserError) as refused:
            closed_during(stop)
        assert str(refused.value).startswith(line)
    assert capsys.readouterr().err == ""
    with pytest.raises(ZeroDivisionError):
        closed_during(ZeroDivisionError())
    assert capsys.readouterr().err.startswith(f"warning: {line}")


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"/checkpoints: cannot be written \(.*\); make that place writable"):
        Checkpoints(tmp_path)


def test_a_checkpoint_of_the_first_versions_is_named_as_such(saved, tmp_path):
    workdir, state = saved
    shutil.copytree(workdir, tmp_path / "copy")
    (tmp_path / "copy" / "checkpoints" / "2" / "config" / "data.json").write_text('{"config": {}}')
    with pytest.raises(Damaged, match="its config has no checksum, as with the first versions of this program"):
        read(tmp_path / "copy", state)
