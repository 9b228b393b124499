"""The paper's training settings as configs: what each sets, and pre-training on still images up to its use."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs import base
from twostream_jax import cli_config
from twostream_jax.drivers import inspect
from twostream_jax.drivers.evaluate import evaluate, summary_lines
from twostream_jax.drivers.prepare import prepare_records
from twostream_jax.drivers.setup import check_values
from twostream_jax.drivers.train import train
from twostream_jax.optim import learning_rate

FOLDER = Path(base.__file__).parent
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "base"))


def load(name):
    return cli_config.load(f"configs/{name}.py", [])[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_each_config_says_what_to_expect_at_what_cost_and_its_command(name):
    check_values(load(name))
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for word in ("Expected: ", "Cost: ", "Command: python run.py"):
        assert word in module.__doc__
    assert f"--config=configs/{name}.py" in module.__doc__ or name not in ROWS


# Table 1 and 2 of the 2014 paper: config, net, dropout, steps, rates by step, frozen, init.from, stack, mean subtraction.
SCRATCH = {0: 1e-2, 49_999: 1e-2, 50_000: 1e-3, 69_999: 1e-3, 70_000: 1e-4, 79_999: 1e-4}
FINE = {0: 1e-2, 13_999: 1e-2, 14_000: 1e-3, 19_999: 1e-3}
ROWS = {
    "spatial": ("cnn_m_spatial", 0.9, SCRATCH, (), False, 10, True),
    "spatial_finetuned": ("cnn_m_spatial", 0.9, FINE, (), True, 10, True),
    "spatial_last_layer": ("cnn_m_spatial", 0.5, FINE, ("conv*", "full6", "full7"), True, 10, True),
    "temporal": ("cnn_m_temporal", 0.9, SCRATCH, (), False, 10, True),
    "temporal_l1": ("cnn_m_temporal", 0.9, SCRATCH, (), False, 1, True),
    "temporal_l5": ("cnn_m_temporal", 0.9, SCRATCH, (), False, 5, True),
    "temporal_means_kept": ("cnn_m_temporal", 0.9, SCRATCH, (), False, 10, False),
    "temporal_hmdb51": ("cnn_m_temporal", 0.9, SCRATCH, (), False, 10, True),
    "temporal_hmdb51_from_ucf101": ("cnn_m_temporal", 0.9, FINE, (), True, 10, True),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_papers_rows(name):
    config = load(name)
    net, dropout, rates, freeze, loaded, stack, means = ROWS[name]
    assert (config.model.name, config.model.dropout, config.init.freeze) == (net, dropout, freeze)
    assert bool(config.init["from"]) == loaded
    assert (config.input.stack, config.input.mean_subtraction) == (stack, means)
    assert config.train.steps == max(rates) + 1 and config.train.batch_size == 256
    rate = learning_rate(config.optim)
    for step, value in rates.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-6)


def test_parameters_that_train():
    """FACTS, Sect. 1: 90,627,813 of a spatial net of 101 classes; full8 is 2048 x 101 and 101 of them."""
    whole, last = (inspect.inspect_config(load(name)) for name in ("spatial", "spatial_last_layer"))
    assert whole["total"] == whole["trained"] == last["total"] == 90_627_813
    assert last["trained"] == 2048 * 101 + 101
    assert inspect.inspect_config(load("temporal"))["total"] == 90_707_781
    assert inspect.inspect_config(load("temporal_hmdb51_from_ucf101"))["total"] == 90_605_331


def write_pictures(folder, classes: int, each: int):
    """Write plain pictures, a colour a class, as train/<class>/*.png and val/<class>/*.png."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        colour = rng.integers(0, 256, 3)
        for subset in ("train", "val"):
            for picture in range(each):
                noise = rng.integers(-20, 21, (60, 48 + picture, 3))
                path = folder / subset / f"n{number:08d}" / f"{subset}_{picture}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), np.clip(colour + noise, 0, 255).astype(np.uint8))


def small(config, steps: int):
    """Return the config at the size of a test; what the experiment is about stays as it is."""
    config.input.crop, config.data.short_side, config.model.width = 41, 48, 1 / 16
    config.data.num_threads, config.data.prepare_processes = 2, 1
    config.train.batch_size, config.train.steps, config.train.checkpoint_every = 8, steps, steps
    config.eval.batch_size = 8
    return config


@pytest.mark.slow
def test_pre_training_on_still_images_and_its_use(tmp_path, config, one_device, capsys):
    """Two steps on six classes of pictures, scored; its weights then begin the net of which the last layer trains."""
    write_pictures(tmp_path / "pictures", classes=6, each=2)
    imagenet = small(load("imagenet"), steps=2)
    imagenet.data.videos, imagenet.data.records = str(tmp_path / "pictures"), str(tmp_path / "records")
    prepare_records(imagenet)
    train(imagenet, tmp_path / "imagenet")
    result = evaluate(imagenet, tmp_path / "imagenet")
    assert result["videos"] == 12 and result["protocol"] == "1x10" and 0 <= result["1x10"]["accuracy"] <= 1
    # Of six classes one is not among a picture's five best.
    assert result["1x10"]["accuracy"] <= result["top5"] <= 1
    assert any("1x10" in line for line in summary_lines(result))

    last = small(load("spatial_last_layer"), steps=1)
    last.data.records, last.init["from"] = config.data.records, str(tmp_path / "imagenet")
    capsys.readouterr()
    train(last, tmp_path / "last")
    printed = capsys.readouterr().out
    hidden = "conv1, conv2, conv3, conv4, conv5, full6, full7"
    for line in (
        f"begins with step 2 of {tmp_path / 'imagenet'}",
        f"  loaded: {hidden}",
        "  left fresh: full8_videos",
        "  not taken: full8_pictures (6 classes, n00000000 ...)",
        f"frozen: {hidden}",
    ):
        assert f"{tmp_path / 'last'}: {line}\n" in printed
