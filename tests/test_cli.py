"""The command line: how flags, files and stored configs meet, and one line for every mistake."""

import json
import os
import subprocess
import sys

import jax
import pytest
from conftest import REPOSITORY, cpu_environment

from configs import base
from input_pipeline.schema import UserError
from twostream_jax import cli, cli_config


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Return (exit status, stdout, stderr) of a command line."""
    status = 0
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def no_device(monkeypatch):
    """Fail the test if a device is looked for."""

    def touched(*_, **__):
        raise AssertionError("a device was touched")

    for name in ("devices", "local_devices", "device_put", "jit"):
        monkeypatch.setattr(jax, name, touched)


@pytest.fixture
def run_dir(tmp_path, config):
    """A workdir that holds a stored config and nothing else."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


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


# Each: the arguments, and what its one line must say. {run} is a workdir with a stored config, {here} an empty folder.
MISTAKES = [
    (["--mode=trian"], "--mode=trian: choose one of demo, prepare, train"),
    (["--stesp=3"], "--stesp=3: not a flag"),
    (["spatial"], "spatial: not a flag"),
    (["--config=configs/nosuch.py"], "--config=configs/nosuch.py: no such file"),
    (["--config=README.md"], "--config=README.md: not a Python file"),
    (["--config={here}/broken.py"], "broken.py: NameError: name 'nosuch' is not defined"),
    (["--config={here}/none.py"], "none.py: get_config() returned NoneType"),
    (["--config=configs/temporal.py", "--config.train.stesp=3"], "train has no key 'stesp'; did you mean steps?"),
    (["--config=configs/temporal.py", "--config.nosuch.x=3"], "the config has no key 'nosuch'"),
    (["--config=configs/temporal.py", "--config.seed.x=3"], "seed has no key 'x'; it has no keys"),
    (["--config=configs/temporal.py", "--config.train=3"], "train is a section; set one of its keys: batch_size"),
    (["--config=configs/temporal.py", "--config.train.steps"], "write --config.train.steps=VALUE"),
    (["--config=configs/temporal.py", "--config.train.steps=x"], "--config.train.steps=x: must be a whole number"),
    (["--config=configs/temporal.py", "--config.train.steps=1.5"], "must be a whole number"),
    (["--config=configs/temporal.py", "--config.optim.momentum=x"], "--config.optim.momentum=x: must be a number"),
    (["--config=configs/temporal.py", "--config.input.flip=1"], "--config.input.flip=1: write true or false"),
    (["--config=configs/temporal.py", "--config.optim.drops=(3)"], "not a list; write a,b"),
    (["--config=configs/temporal.py", "--config.optim.drops=a,b"], "optim.drops=('a', 'b'): must be steps"),
    (["--config=configs/temporal.py", "--config.optim.drops=5,3"], "optim.drops=(5, 3): steps must ascend"),
    (["--config=configs/temporal.py", "--config.data.kind=movies"], "data.kind='movies': choose one of ucf101"),
    (["--config=configs/temporal.py", "--config.flow.method=brox"], "flow.method='brox': choose one of tvl1"),
    (["--config=configs/temporal.py", "--config.flow.bound_px=0"], "flow.bound_px=0.0: give px above 0"),
    (["--config=configs/temporal.py", "--config.flow.bound_px=big"], "flow.bound_px='big': give px above 0"),
    (["--config=configs/temporal.py", "--config.model.name=resnet"], "model.name='resnet': choose one of cnn_m"),
    (["--config=configs/temporal.py", "--config.model.init=zero"], "model.init='zero': choose one of he, caffe"),
    (["--config=configs/temporal.py", "--config.model.width=0"], "model.width=0.0: must be above 0"),
    (["--config=configs/temporal.py", "--config.model.dropout=1"], "model.dropout=1.0: must be a share"),
    (["--config=configs/temporal.py", "--config.input.streams=rgb"], "input.streams=rgb: cnn_m_temporal takes flow"),
    (["--config=configs/temporal.py", "--config.input.crop=300"], "input.crop=300: larger than the stored frames"),
    (["--config=configs/temporal.py", "--config.input.crop=32"], "input.crop is 32 px, too small"),
    (["--config=configs/temporal.py", "--config.input.stack=0"], "input.stack=0: must be at least 1"),
    (["--config=configs/temporal.py", "--config.train.dtype=half"], "train.dtype='half': choose one of float32"),
    (["--config=configs/temporal.py", "--config.train.batch_size=0"], "train.batch_size=0: must be at least 1"),
    (["--config=configs/temporal.py", "--config.seed=-1"], "seed=-1: must be at least 0"),
    (["--config=configs/temporal.py", "--config.eval.crops=5"], "eval.crops=5: choose one of 1, 10"),
    (["--config=configs/temporal.py", "--config.eval.subset=dev"], "eval.subset='dev': choose one of train"),
    (["--config=configs/temporal.py", "--config.data.validation_fraction=1"], "data.validation_fraction=1.0: must be"),
    (["--config=configs/temporal.py", "--config.data.max_bad_fraction=2"], "data.max_bad_fraction=2.0: must be"),
    (["--config=configs/temporal.py", "--config.data.split=0"], "data.split=0: only mode demo"),
    (["--config=configs/temporal.py", "--config.data.records="], "data.records is empty"),
    (["--config=configs/temporal.py"], "data.records: records/ucf101 holds no dataset.json; run --mode=prepare"),
    (["--mode=prepare", "--config=configs/temporal.py", "--config.data.records="], "data.records is empty"),
    (["--mode=prepare", "--config=configs/temporal.py"], "data.videos"),
    (["--mode=train"], "--mode=train needs --config=configs/X.py, or --workdir=DIR"),
    (["--mode=train", "--workdir={here}"], "holds no config.json"),
    (["--mode=eval", "--workdir={here}/none"], "holds no config.json"),
    (["--mode=eval", "--workdir={run}"], "holds no checkpoints"),
    (["--mode=eval", "--workdir={run}", "--config.eval.subset=validation"], "no such videos; set data.validation_frac"),
    (["--mode=eval", "--workdir={run}", "--config.data.split=4"], "data.split=4 is not stored"),
    (["--mode=eval", "--workdir={run}", "--config.data.classes=a,b"], "data.classes=a,b: "),
    (["--mode=eval", "--workdir={run}", "--config.input.crop=60"], "input.crop=60: larger than the stored frames"),
    (["--mode=eval", "--workdir={here}/bad"], "bad/config.json: not a stored config"),
    (["--mode=fuse"], "--mode=fuse needs --scores=a.npz,b.npz"),
    (["--mode=fuse", "--scores=a.npz", "--config.seed=1"], "mode fuse takes --scores, --train_scores and --workdir"),
    (["--mode=fuse", "--scores={here}/a.npz,{here}/b.npz"], "a.npz: no such score file"),
    (["--mode=predict"], "--mode=predict needs --video=FILE"),
    (["--mode=predict", "--video={here}/a.avi", "--runs={run}"], "a.avi: there is no such file"),
    (["--mode=inspect", "--config=configs/fight.py"], "no dataset.json there, so the number of classes is unknown"),
    (["--mode=inspect", "--config=configs/temporal.py", "--filters=a.png"], "--filters: needs a trained run"),
    (["--mode=inspect", "--workdir={run}"], "holds no checkpoints"),
    (["--config.flow.method=none"], "flow.method=none: the two-stream run needs flow"),
    (["--mode=demo", "--workdir={run}"], "is the run of one net; name another folder for both streams"),
    (["--workdir={run}", "--config.train.steps=x"], "--config.train.steps=x: must be a whole number"),
    (["--workdir={run}", "--config.data.records=no"], "data.records: no holds no dataset.json"),
    (["--num_processes=x"], "num_processes"),
    (["--num_processes=2"], "--num_processes: mode demo does not take it, only train, eval"),
    (["--config=configs/temporal.py", "--dry_run"], "--dry_run: mode train does not take it, only prepare"),
    (["--mode=eval", "--scores=a.npz"], "--scores: mode eval does not take it, only fuse"),
    (["--config={here}/typo.py"], "typo.py: AttributeError"),
    (["--config={here}/assert.py"], "assert.py: AssertionError: AssertionError"),
    (["--config={here}/alien.py"], "alien.py: has no key data; begin get_config() with base.get_config()"),
    (["--config={here}/extra.py"], "extra.py: has an unknown key train.stesp"),
    (["--config={here}/types.py", "--config.data.records=x"], "data.classes=(1, 2): must be words"),
    (["--mode=inspect", "--workdir={run}", "--filters=a.jpg"], "--filters=a.jpg: must be a .png"),
    (["--mode=eval", "--workdir={here}/folds"], "holds a run of each split; name one, such as"),
]


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=[" ".join(a) or "none" for a, _ in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(arguments, line, capsys, tmp_path, run_dir, no_device, monkeypatch):
    here = tmp_path / "here"
    (here / "bad").mkdir(parents=True)
    (here / "bad" / "config.json").write_text('{"train": 3}')
    (here / "broken.py").write_text("x = nosuch\n")
    (here / "none.py").write_text("def get_config():\n    return None\n")
    base_lines = "from configs import base\n\ndef get_config():\n    config = base.get_config()\n"
    (here / "typo.py").write_text(base_lines + "    config.train.stesp = 3\n    return config\n")
    (here / "assert.py").write_text("assert False\n")
    (here / "alien.py").write_text(
        "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict({'a': 1})\n"
    )
    unlocked = "    config.unlock()\n    config.train.stesp = 3\n    return config\n"
    (here / "extra.py").write_text(base_lines + unlocked)
    (here / "types.py").write_text(base_lines + "    config.data.classes = (1, 2)\n    return config\n")
    (here / "folds" / "split1" / "spatial").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("")
    filled = [argument.replace("{run}", str(run_dir)).replace("{here}", str(here)) for argument in arguments]
    status, out, err = run(capsys, *filled)
    assert status == 2, (out, err)
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert line in err
    assert not list(tmp_path.glob("runs/*/checkpoints"))


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
