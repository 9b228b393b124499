"""The command line: how flags, files and stored configs meet, and one line for every mistake."""

import json
import os
import subprocess
import sys

import pytest
from command_line import run
from conftest import REPOSITORY, cpu_environment

from configs import base
from input_pipeline.schema import UserError
from twostream_jax import cli, cli_config, validate
from twostream_jax.models import STREAMS


@pytest.mark.parametrize(
    ("argument", "section", "key", "value"),
    [
        ("--config.flow.bound_px=video", "flow", "bound_px", "video"),
        ("--config.flow.bound_px=8", "flow", "bound_px", 8.0),
        ("--config.data.classes=a,b", "data", "classes", ("a", "b")),
        ("--config.data.classes=('a', 'b')", "data", "classes", ("a", "b")),
        ("--config.optim.drops=10,20", "optim", "drops", (10, 20)),
        ("--config.optim.drops=()", "optim", "drops", ()),
        ("--config.input.streams=rgb", "input", "streams", ("rgb",)),
        ("--config.input.flip=false", "input", "flip", False),
        ("--config.optim.learning_rate=1", "optim", "learning_rate", 1.0),
        ("--config.train.steps=12", "train", "steps", 12),
        ("--config.eval.checkpoint=100", "eval", "checkpoint", "100"),
        ("--config.data.records=a=b", "data", "records", "a=b"),
        ("--config.data.classes=1,2", "data", "classes", ("1", "2")),
        ("--config.data.classes=(1, 2)", "data", "classes", ("1", "2")),
    ],
)
def test_overrides_are_read_as_the_keys_own_type(argument, section, key, value):
    config, name = cli_config.load("configs/temporal.py", [argument])
    assert config[section][key] == value and type(config[section][key]) is type(value)
    assert name == "temporal"


def test_a_stored_config_comes_back_as_it_was(tmp_path):
    config, _ = cli_config.load("configs/mini6.py", ["--config.flow.bound_px=video"])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    stored = cli_config.load_stored(tmp_path, ["--config.train.steps=5"])
    assert stored.train.steps == 5
    config.train.steps = 5
    assert stored.to_dict() == config.to_dict()


def test_every_config_loads_and_passes_its_checks():
    from twostream_jax.drivers.setup import check_values

    for path in sorted((REPOSITORY / "configs").glob("*.py")):
        if path.stem != "__init__":
            config, _ = cli_config.load(f"configs/{path.name}", [])
            check_values(config)
            opening = path.read_text()
            assert path.stem == "base" or ("Expected:" in opening and "Cost:" in opening and "Command:" in opening)


def test_the_newest_run_is_taken_and_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "--mode=eval")[0] == 2
    with pytest.raises(UserError, match=r"there is no run under .*/runs/; train one first"):
        cli_config.newest_run(tmp_path / "runs")
    folds = "runs/folds/split1/spatial"
    for age, folder in enumerate(["runs/new/spatial", "runs/new/temporal", "runs/old", folds]):
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / "config.json"
        path.write_text(json.dumps(base.get_config().to_dict()))
        os.utime(path, (1e9 - age, 1e9 - age))
    assert cli_config.newest_run(tmp_path / "runs") == tmp_path / "runs" / "new"
    os.utime(tmp_path / folds / "config.json", (2e9, 2e9))
    assert cli_config.newest_run(tmp_path / "runs") == tmp_path / "runs" / "folds" / "split1"
    both = cli_config.stream_workdirs(tmp_path / "runs" / "new")
    assert [path.name for path in both] == ["spatial", "temporal"]
    assert cli_config.stream_workdirs(tmp_path / "runs" / "old") == [tmp_path / "runs" / "old"]


def test_a_full_disk_is_one_line_too(capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "runs/demo/x")

    monkeypatch.setattr(cli, "_demo", full)
    assert run(capsys)[::2] == (2, "error: [Errno 28] No space left on device: 'runs/demo/x'\n")


@pytest.mark.parametrize("mode", cli.MODES)
def test_a_stop_says_what_goes_on(capsys, monkeypatch, mode):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, f"_{mode}", stop)
    goes_on = "; the same command continues" if mode in ("train", "prepare", "demo", "table") else ""
    assert run(capsys, f"--mode={mode}")[::2] == (130, f"stopped{goes_on}\n")


@pytest.mark.parametrize(("arguments", "status"), [("--config=configs/demo.py", 141), ("--mode=inspect", 0)])
def test_work_that_a_closed_pipe_cut_short_has_not_ended_well(arguments, status):
    """In a process of its own, since the standard output is given up; 0 where only a reader had seen enough."""
    code = (
        "import sys; from twostream_jax import cli\n"
        "def broken(*_): raise BrokenPipeError(32, 'Broken pipe')\n"
        "cli._train = cli._inspect = broken\n"
        f"cli.main([{arguments!r}])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=cpu_environment(), capture_output=True)
    said = b"error: nothing reads the output any more; the same command continues\n" if status else b""
    assert (ended.returncode, ended.stderr) == (status, said)


@pytest.mark.parametrize("text", [f"({'-' * 100_000}1)", "(" * 100_000, f"{'-' * 100_000}1"])
def test_literals_too_deep_to_read_are_one_line(text):
    for key in ("optim.drops", "optim.learning_rate", "flow.bound_px"):
        try:
            config, _ = cli_config.load("configs/demo.py", [f"--config.{key}={text}"])
        except UserError as error:
            assert f"--config.{key}=" in str(error)
        else:
            with pytest.raises(UserError, match=key):
                validate.check_config(config, STREAMS)


def test_names_of_any_letters_stay_on_one_line(capsys, monkeypatch):
    def fail(*_):
        raise UserError("a\nb\rc\u2028d\x00\udce9 é漢: " + "x" * 2000)

    monkeypatch.setattr(cli, "_demo", fail)
    status, _, err = run(capsys)
    assert status == 2 and err.splitlines() == [err[:-1]]
    assert err.startswith(r"error: a b\rc\u2028d\x00\udce9 é漢: xxx") and err.endswith("x ...\n") and len(err) == 1012


def test_help_names_every_mode(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0 and all(mode in out for mode in cli.MODES)


def test_a_mistake_costs_no_import_of_jax():
    """In a process of its own: jax takes seconds, and workers of prepare re-import run.py."""
    code = (
        "import sys; from twostream_jax import cli\n"
        "try: cli.main(['--mode=nosuch'])\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'jax' not in sys.modules and 'grain' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=cpu_environment(), check=True)


@pytest.mark.parametrize(("config", "total"), [("temporal", 90_707_781), ("spatial", 90_627_813)])
def test_inspect_counts_the_papers_parameters(capsys, config, total):
    status, out, _ = run(capsys, "--mode=inspect", f"--config=configs/{config}.py", "--json")
    assert status == 0
    result = json.loads(out)
    assert result["total"] == total and result["tasks"] == {"ucf101": 101}
    assert sum(row["count"] for row in result["parameters"]) == total
    status, out, _ = run(capsys, "--mode=inspect", f"--config=configs/{config}.py")
    assert f"{total:,}" in out and "conv1/kernel" in out
