"""Every config of the 2014 paper at full width and full crop: what its file says, its layers, a training and an eval step.

The layers and counts are hand arithmetic from the paper's Fig. 1 and, where it is silent, the released VGG_CNN_M_2048.
"""

import functools
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPOSITORY

from twostream_jax import cli_config, steps
from twostream_jax import mesh as meshes
from twostream_jax.models import build_model, parameter_table
from twostream_jax.optim import frozen_layers, make_optimizer, trained_part
from twostream_jax.steps import Inputs

STORED = (256, 342)  # px of the stored frames of a 320x240 video, the long side even


@dataclass(frozen=True)
class Paper:
    """What the paper, or its layer table, says of a config."""

    classes: int
    channels: int  # of the input: 2L, or 3
    section: str  # of the paper, as the file's first line has it
    expected: str  # its number
    trained: tuple[str, ...] = ()  # layers; () for all
    also: int = 0  # classes of a second task

    @property
    def heads(self) -> dict[str, int]:
        return {"a": self.classes} | ({"b": self.also} if self.also else {})


CONFIGS = {
    "temporal": Paper(101, 20, "Table 1b", "81.0 %"),
    "temporal_l1": Paper(101, 2, "Table 1b", "73.9 %"),
    "temporal_l5": Paper(101, 10, "Table 1b", "80.4 %"),
    "temporal_means_kept": Paper(101, 20, "Table 1b", "79.9 %"),
    "trajectory": Paper(101, 20, "Table 1b", "80.2 %"),
    "bidirectional": Paper(101, 20, "Table 1b", "81.2 %"),
    "slow_fusion": Paper(101, 3, "Sect. 6", "56.4 %"),
    "spatial": Paper(101, 3, "Table 1a", "52.3 %"),
    "spatial_finetuned": Paper(101, 3, "Table 1a", "72.8 %"),
    "spatial_last_layer": Paper(101, 3, "Table 1a", "72.7 %", trained=("full8_a",)),
    "imagenet": Paper(1000, 3, "Sect. 5", "13.5 % top-5 error"),
    "temporal_hmdb51": Paper(51, 20, "Table 2", "46.6 %"),
    "temporal_hmdb51_from_ucf101": Paper(51, 20, "Table 2", "49.0 %"),
    "temporal_multitask": Paper(101, 20, "Table 3", "81.5 %", also=51),
    "temporal_multitask_hmdb51": Paper(101, 20, "Table 2", "55.4 %", also=51),
}
OTHERS = {"__init__", "base", "bench", "demo", "fight", "mini6", "weizmann4", "table", "table_tiny"}
OTHERS |= {"table_tiny_hmdb51", "table_tiny_imagenet"}


def test_every_config_of_the_paper_is_here():
    assert {path.stem for path in (REPOSITORY / "configs").glob("*.py")} == set(CONFIGS) | OTHERS


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_says_where_from_what_to_expect_what_it_costs_and_how_to_run_it(name):
    opening, *rest = (
        (REPOSITORY / "configs" / f"{name}.py").read_text().removeprefix('"""').split('"""')[0].splitlines()
    )
    lines = dict(line.split(": ", 1) for line in rest if re.match(r"[A-Z][a-z ]+: ", line))
    assert re.search(rf"\({'2014 paper|Sect'}", opening) and CONFIGS[name].section in opening
    assert lines["Expected"].startswith(CONFIGS[name].expected)
    assert re.match(
        r"[\d,]+ steps of 256 (stacks|fields|frames|clips|images), \d\.\d\d? TFLOP|that of configs/", lines["Cost"]
    )
    assert lines["Command"].split(", after")[0] == f"python run.py --config=configs/{name}.py"
    for other in re.findall(r"configs/\w+\.py", " ".join(rest)):
        assert (REPOSITORY / other).is_file()


def test_the_tables_config_says_so_too():
    opening = (REPOSITORY / "configs" / "table.py").read_text().split('"""')[1]
    assert "2014 paper (Sect. 6)" in opening and "Expected: " in opening and "Cost: " in opening
    assert "Command: python run.py --mode=table --config=configs/table.py --table=2014-1b" in opening


def kernels(paper: Paper, slow: bool) -> dict[str, tuple[int, ...]]:
    """Return the kernels by hand: Fig. 1; slow fusion sees 5, 2 and 2 steps of time in conv1, conv2 and conv3."""
    frames = (5, 2, 2) if slow else (1, 1, 1)
    return {
        "conv1": (7, 7, frames[0] * paper.channels, 96),
        "conv2": (5, 5, frames[1] * 96, 256),
        "conv3": (3, 3, frames[2] * 256, 512),
        "conv4": (3, 3, 512, 512),
        "conv5": (3, 3, 512, 512),
        "full6": (6, 6, 512, 4096),
        "full7": (4096, 2048),
        **{f"full8_{head}": (2048, classes) for head, classes in paper.heads.items()},
    }


TOTALS = {
    # conv1 .. conv5: 7*7*C*96 + 96, 614,656, 1,180,160, 2,359,808 twice; full6 75,501,568; full7 8,390,656;
    # full8 2,049 a class. With C = 0 and no class: 90,406,656 + 96.
    "temporal": 90_707_781,
    "temporal_l1": 90_707_781 - 18 * 4704,
    "temporal_l5": 90_707_781 - 10 * 4704,
    "spatial": 90_627_813,
    "imagenet": 92_469_864,
    "temporal_hmdb51": 90_605_331,
    "temporal_multitask": 90_707_781 + 51 * 2049,
    # conv1 12 channels more, conv2 96, conv3 256.
    "slow_fusion": 90_627_813 + 12 * 4704 + 25 * 96 * 256 + 9 * 256 * 512,
}
SAME_TOTAL = {
    **dict.fromkeys(("temporal_means_kept", "trajectory", "bidirectional"), "temporal"),
    **dict.fromkeys(("spatial_finetuned", "spatial_last_layer"), "spatial"),
    "temporal_hmdb51_from_ucf101": "temporal_hmdb51",
    "temporal_multitask_hmdb51": "temporal_multitask",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_layers_and_counts_are_those_of_the_papers_table(name):
    config, _ = cli_config.load(f"configs/{name}.py", [])
    model, inputs = build_model(config.model, CONFIGS[name].heads), Inputs.of(config.input)
    by_hand = kernels(CONFIGS[name], slow=name == "slow_fusion")
    table = parameter_table(steps.abstract_params(model, inputs))
    shapes = {layer: shape for layer, shape, _ in table}
    # full6 covers the 6 x 6 map, however it is stored.
    full6 = shapes.pop("full6/kernel")
    assert int(np.prod(full6)) == np.prod(by_hand.pop("full6")) and full6[-1] == 4096
    assert {layer: shapes[f"{layer}/kernel"] for layer in by_hand} == by_hand
    assert {layer: shapes[f"{layer}/bias"] for layer in by_hand} == {layer: (by_hand[layer][-1],) for layer in by_hand}
    assert sum(count for _, _, count in table) == TOTALS[SAME_TOTAL.get(name, name)]
    # Of 224 px: (224 - 7) / 2 + 1 = 109, pooled (ceil) 54, (54 + 2 - 5) / 2 + 1 = 26, 13, and 6.
    sides = {"conv1": 109, "pool1": 54, "conv2": 26, "pool2": 13, "conv3": 13, "conv4": 13, "conv5": 13, "pool5": 6}
    sides |= {"full6": 1, "full7": 1}

    def forward():
        example = {stream: jnp.zeros(shape.shape, shape.dtype) for stream, shape in inputs.example().items()}
        variables = model.init(jax.random.key(0), example, train=False)
        return model.apply(variables, example, train=False, features=tuple(sides))

    logits, features = jax.eval_shape(forward)
    assert {layer: feature.shape[2:4] for layer, feature in features.items()} == {k: (v, v) for k, v in sides.items()}
    assert logits["a"].shape == (1, 1, CONFIGS[name].classes)
    norms = {"conv1": "norm1"} if "temporal" in config.model.name else {"conv1": "norm1", "conv2": "norm2"}
    assert config.model.name == "slow_fusion" or set(model.normalised) == set(norms)


def batches(inputs: Inputs, heads: tuple) -> tuple[dict, dict]:
    """Return a random training and eval batch of two samples (`schema`): crops, but whole frames for paths and to score."""
    rng = np.random.default_rng(0)

    def window(height: int, width: int) -> dict:
        batch = {"size": np.tile(np.int32([height, width]), (2, 1))}
        clip = (2, inputs.clip_frames)
        if "rgb" in inputs.streams:
            return batch | {"rgb": rng.integers(0, 256, (*clip, height, width, 3), dtype=np.uint8)}
        levels = rng.integers(100, 156, (*clip, inputs.stack, 2, height, width), dtype=np.uint8)
        # Means as stored: of the decoded field, 40 / 255 px a level.
        mean = levels.mean(axis=(-2, -1), dtype=np.float64) * 40 / 255 - 20
        return batch | {"flow": levels, "mean": mean.astype(np.float32), "bound": np.full(2, 20, np.float32)}

    whole = inputs.stacking == "trajectory"
    train = window(*(STORED if whole else (inputs.crop, inputs.crop)))
    corner = [[32, 118], [0, 0]] if whole else [[0, 0], [0, 0]]
    train |= {
        "crop": np.int32([[y, x, inputs.crop, inputs.crop] for y, x in corner]),
        "flip": np.array([False, True]),
        "label": np.int32([3, heads[-1][1] - 1]),
        "task": np.int32([0, len(heads) - 1]),
        "weight": np.ones(2, np.float32),
    }
    if "rgb" in inputs.streams:
        train["lighting"] = rng.normal(size=(2, 3)).astype(np.float32)
    return train, window(*STORED)


def plain(section) -> tuple:
    return tuple(sorted(section.to_dict().items()))


@functools.lru_cache(maxsize=1)
def both_steps(model_items: tuple, inputs: Inputs, optim_items: tuple, freeze: tuple, heads: tuple, crops: int) -> dict:
    """Return what a training and an eval step leave; the configs that ask for the same share it, next to each other."""
    from ml_collections import ConfigDict

    model, optimizer = (
        build_model(ConfigDict(dict(model_items)), dict(heads)),
        make_optimizer(ConfigDict(dict(optim_items))),
    )
    mesh = meshes.make_mesh(jax.devices()[:1])
    frozen = frozen_layers(steps.abstract_params(model, inputs), freeze)
    static = {"model": model, "optimizer": optimizer, "inputs": inputs, "frozen": frozen}
    train_batch, eval_batch = batches(inputs, heads)
    init_key, key = steps.jit_keys(mesh, 0)
    state = steps.jit_init(mesh, **static)(init_key)
    momenta = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    before = {layer: np.asarray(params["bias"]) for layer, params in state.params.items()}
    # Before the training step, which of two samples and at a rate for 256 makes probabilities of 0 and 1.
    score = steps.jit_eval_step(mesh, model=model, inputs=inputs, crops=crops)
    scores = jax.device_get(score((state.params,), meshes.put_batch(eval_batch, mesh))[0]["a"])
    step = steps.jit_train_step(mesh, tasks=tuple(dict(heads)), **static)
    state, metrics = step(state, meshes.put_batch(train_batch, mesh), key)
    finite = bool(steps.jit_all_finite(mesh)(state.params))
    moved = {layer for layer in before if (np.asarray(state.params[layer]["bias"]) != before[layer]).any()}
    return {
        "loss": metrics.compute()["loss"],
        "finite": finite,
        "moved": moved,
        "momenta": momenta,
        "trained": sum(leaf.size for leaf in jax.tree.leaves(trained_part(state.params, frozen))),
        "scores": scores,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_full_size_step_and_its_scores(name):
    config, _ = cli_config.load(f"configs/{name}.py", [])
    paper = CONFIGS[name]
    assert config.model.width == 1 and config.input.crop == 224 and config.data.short_side == 256
    # The schedules differ in what comes later.
    optim = tuple((key, (50_000,) if key == "drops" else value) for key, value in plain(config.optim))
    done = both_steps(
        plain(config.model),
        Inputs.of(config.input),
        optim,
        tuple(config.init.freeze),
        tuple(paper.heads.items()),
        config.eval.crops,
    )
    assert np.isfinite(done["loss"]) and done["finite"]
    # A net that knows nothing: ln of the classes, within what dropout makes of random scores. These have a standard
    # deviation of .65 (measured on these batches), so a sample's loss is ln C + .65^2 / 2 - z with z of N(0, .65): the mean
    # of one task's two samples lies near, the sum of two tasks' losses of one sample each within 3 deviations.
    excess = done["loss"] - sum(map(np.log, paper.heads.values()))
    if paper.also:
        assert abs(excess - 0.65**2) < 3 * 0.65 * 2**0.5
    else:
        assert abs(excess) < 0.3
    layers = {"conv1", "conv2", "conv3", "conv4", "conv5", "full6", "full7", *(f"full8_{head}" for head in paper.heads)}
    assert done["moved"] == set(paper.trained or layers)
    total = 2049 * paper.classes if paper.trained else TOTALS[SAME_TOTAL.get(name, name)]
    assert done["trained"] == done["momenta"] == total
    for key in ("probs", "centre_probs"):
        assert done["scores"][key].shape == (2, paper.classes)
        np.testing.assert_allclose(done["scores"][key].sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(done["scores"]["logits"]).all()
    # As the first loss: nothing is known yet. Two samples have scores of their own.
    assert np.abs(np.log(done["scores"]["probs"] * paper.classes)).max() < 0.3
    assert (done["scores"]["probs"][0] != done["scores"]["probs"][1]).any()
