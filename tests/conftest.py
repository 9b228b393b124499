"""Settings of every test: eight simulated CPU devices, strict dtype promotion, rank-promotion errors, the real clips."""

import os
import pathlib
import signal

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# No test keeps compiled programs in the home folder.
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""

import jax
import pytest

from input_pipeline import synthetic

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# Shells start commands in the background deaf to Ctrl-C, and so would be the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    """Add the options of the tests whose full number takes long."""
    parser.addoption("--kills", type=int, default=3, help="how often the kill tests kill; 30 takes minutes")
    parser.addoption("--all_inputs", action="store_true", help="train and score every kind of input, not one of a kind")
    parser.addoption("--mutations", type=int, default=500, help="damaged inputs that test_mutations.py reads")


def cpu_environment() -> dict[str, str]:
    """Return the environment of a command run as a user would, with one CPU device."""
    return {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real clips, by the environment's TWOSTREAM_TEST_DATA or beside the checkout."""
    folder = pathlib.Path(os.environ.get("TWOSTREAM_TEST_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real clips at {folder}; set TWOSTREAM_TEST_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """A config whose records exist: nine synthetic classes, 3 videos each, 48 px, L = 3, a net of 1/16 width."""
    from configs import base
    from twostream_jax.drivers.prepare import prepare_records

    folder = tmp_path_factory.mktemp("tiny")
    config = base.get_config()
    config.data.kind = "csv"
    config.data.split_file = str(
        synthetic.render(folder / "videos", seed=3, videos_per_class=(2, 1), size=(48, 60), num_frames=10)
    )
    config.data.records = str(folder / "records")
    config.data.short_side = 48
    config.data.prepare_processes = 1
    config.data.num_threads = 2
    config.flow.method, config.flow.bound_px = "dis", 8.0
    config.input.stack, config.input.crop = 3, 41
    config.model.width, config.model.dropout = 1 / 16, 0.0
    config.optim.drops = ()
    config.train.batch_size, config.train.steps, config.train.checkpoint_every, config.train.log_every = 16, 6, 3, 2
    config.eval.frames, config.eval.batch_size = 4, 8
    prepare_records(config)
    return config


@pytest.fixture
def config(tiny_config):
    """A copy of `tiny_config` that a test may change."""
    return tiny_config.copy_and_resolve_references()


@pytest.fixture
def one_device(monkeypatch):
    """Train on one of the eight simulated devices: sharding is the point of test_steps.py."""
    everyone = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda *_: everyone[:1])


@pytest.fixture(scope="session")
def finished(tiny_config, tmp_path_factory):
    """A run of six steps, never disturbed, with dropout and a validation group: (config, workdir, last metrics)."""
    from twostream_jax.drivers.train import train

    config = tiny_config.copy_and_resolve_references()
    config.model.dropout, config.data.validation_fraction = 0.5, 0.5
    config.eval.validation_frames = 2
    workdir = tmp_path_factory.mktemp("finished") / "run"
    everyone = jax.devices()
    # As from the folder of the records, with a relative path.
    records, seen_from_here = pathlib.Path(config.data.records), config.copy_and_resolve_references()
    seen_from_here.data.records = records.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: everyone[:1])
        patch.chdir(records.parent)
        last = train(seen_from_here, workdir)
    return config, workdir, last
