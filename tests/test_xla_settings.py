"""What XLA is told before jax starts, seen in what XLA itself writes down and keeps."""

import os
import subprocess

import numpy as np
import pytest
from command_line import run
from conftest import REPOSITORY, cpu_environment
from test_interrupted_training import arrays, command
from trained import numbers

from configs import base
from input_pipeline.schema import UserError
from twostream_jax import cli, xla_settings

FLAG = "--xla_gpu_deterministic_ops=true"


def start(config, tmp_path, name, environment):
    """Train two steps on eight devices by the command line; return the names of the programs that were compiled."""
    dump = tmp_path / f"{name}_dump"
    flags = f"--xla_force_host_platform_device_count=8 --xla_gpu_deterministic_ops=false --xla_dump_to={dump}"
    arguments = [*command(config, tmp_path / name, 2), "--config.train.deterministic=True"]
    environment = cpu_environment() | {"XLA_FLAGS": flags} | environment
    ended = subprocess.run(arguments, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    options = [path.read_text() for path in dump.glob("*.jit_train_step.debug_options")]
    assert options and all("xla_gpu_deterministic_ops: true" in text for text in options)
    # XLA writes the code of what it compiles, and not of what it reads back.
    return {path.name.split(".")[1] for path in dump.glob("*.ir-no-opt.ll")}


@pytest.mark.slow
def test_deterministic_programs_are_kept_and_a_second_start_ends_with_the_same_bits(tiny_config, tmp_path, monkeypatch):
    # Named twice, it is not seen to be the CPU, for which nothing is kept.
    environment = {"JAX_PLATFORMS": "cpu,cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert {"jit_init", "jit_train_step"} <= start(tiny_config, tmp_path, "one", environment)
    kept = {path.name for path in (tmp_path / "cache" / "twostream-jax" / "xla").iterdir()}
    assert any(name.startswith("jit_train_step-") for name in kept)
    assert not {"jit_init", "jit_train_step"} & start(tiny_config, tmp_path, "two", environment)
    assert {path.name for path in (tmp_path / "cache" / "twostream-jax" / "xla").iterdir()} == kept
    one, two = (arrays(tmp_path / name, 2) for name in ("one", "two"))
    assert one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")


def test_the_flag_is_set_where_one_config_asks_and_added_to_the_users(monkeypatch):
    plain, asks = base.get_config(), base.get_config()
    asks.train.deterministic = True
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    xla_settings.heed_deterministic(plain, plain)
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"
    xla_settings.heed_deterministic(plain, asks)
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {FLAG}"
    monkeypatch.delenv("XLA_FLAGS")
    xla_settings.heed_deterministic(asks)
    assert os.environ["XLA_FLAGS"] == FLAG


def test_a_gpu_that_was_started_without_it_is_refused(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG} --xla_dump_to=x")
    xla_settings.require_deterministic("gpu")
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}s")
    for platform in ("cpu", "tpu"):
        xla_settings.require_deterministic(platform)
    with pytest.raises(UserError, match=f"train.deterministic=True: the GPU was .*; set XLA_FLAGS={FLAG} before jax"):
        xla_settings.require_deterministic("gpu")


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """An environment that says nothing of the cache but where the home folder is."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.mark.parametrize(("xdg", "place"), [(None, ".cache"), ("", ".cache"), ("a/b", ".cache"), ("{}/c", "c")])
def test_programs_are_kept_in_the_users_cache_folder(unset, tmp_path, capsys, xdg, place):
    if xdg is not None:
        unset.setenv("XDG_CACHE_HOME", xdg.format(tmp_path))
    xla_settings.keep_compiled_programs()
    folder = tmp_path / place / "twostream-jax" / "xla"
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder) and list(folder.iterdir()) == []
    # Who can write there can have programs of his own run.
    assert folder.stat().st_mode & 0o777 == 0o700
    assert capsys.readouterr() == ("", "")


def test_the_users_own_folder_or_none_is_left_alone(unset, tmp_path):
    unset.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    xla_settings.keep_compiled_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    unset.setenv("JAX_COMPILATION_CACHE_DIR", "")
    xla_settings.keep_compiled_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_one_line(unset, tmp_path, capsys):
    (tmp_path / ".cache").write_text("a file")
    xla_settings.keep_compiled_programs()
    out, err = capsys.readouterr()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ and out == ""
    assert err.startswith(f"note: {tmp_path}/.cache/twostream-jax/xla: compiled programs cannot be kept (")
    assert err.count("\n") == 1


def test_the_newest_programs_are_kept_up_to_a_size(unset, tmp_path):
    unset.setattr(xla_settings, "KEPT_BYTES", 100)
    folder = tmp_path / ".cache" / "twostream-jax" / "xla"
    (folder / "autotuned").mkdir(parents=True)
    for age, name, size in [(1, "a", 40), (2, "autotuned/b", 60), (3, "c", 1), (4, "d", 30)]:
        (folder / name).write_bytes(bytes(size))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    xla_settings.keep_compiled_programs()
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == ["a", "autotuned/b"]


def test_nothing_is_kept_for_a_cpu_unless_asked(monkeypatch, capsys):
    """By the command line, whose modes that compute alone keep programs; here each ends with a mistake."""
    called = []
    monkeypatch.setattr(cli, "keep_compiled_programs", lambda: called.append("programs"))
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append("memory"))
    for platforms, mode in [("cpu", "train"), ("cuda", "train"), ("cuda", "fuse")]:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
        assert run(capsys, f"--mode={mode}", "--nosuch=1")[0] == 2
    assert called == ["memory", "programs"]
