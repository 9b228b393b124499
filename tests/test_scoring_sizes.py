"""Videos of several sizes in one evaluation: those cut from conv1's map, in whole or in part, and those cut before it."""

import jax
import numpy as np
import pytest
from tiny_clips import write_clip

from input_pipeline import sampling
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.drivers.prepare import prepare_records
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup

CROP, FRAMES = 42, 3
# (h, w) by name, and which of their crops conv1 must see by themselves.
SIZES = {"even": (46, 62), "odd_centre": (46, 60), "upright": (62, 46), "long": (46, 150)}
APART = {"even": (), "odd_centre": (4,), "upright": (), "long": None}


@pytest.fixture(scope="module")
def setup(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    for seed, (name, size) in enumerate(SIZES.items()):
        write_clip(folder / "videos" / f"{name}.avi", frames=8, seed=seed, size=size)
    write_clip(folder / "videos" / "trained.avi", frames=8, seed=9, size=(46, 62))
    lines = ["path,label,split", "trained.avi,even,train", *(f"{name}.avi,{name},test" for name in SIZES)]
    (folder / "videos" / "split.csv").write_text("\n".join(lines) + "\n")
    config = tiny_config.copy_and_resolve_references()
    config.data.split_file = str(folder / "videos" / "split.csv")
    config.data.records, config.data.short_side = str(folder / "records"), 46
    config.input.crop, config.eval.batch_size = CROP, 6  # batches of six and of three
    prepare_records(config)
    return Setup.of(config)


@pytest.fixture(scope="module")
def params(setup):
    """Weights that keep the second moment, the head's many times that: as it begins, all videos would score alike."""
    rng, abstract = np.random.default_rng(0), steps.abstract_params(setup.model({"a": 4}), setup.inputs)
    drawn = jax.tree.map(
        lambda leaf: (
            rng.normal(0, (2 / max(1, np.prod(leaf.shape[:-1]))) ** 0.5, leaf.shape).astype(np.float32)
            * np.float32(leaf.ndim > 1)
        ),
        abstract,
    )
    return drawn | {"full8_a": jax.tree.map(lambda leaf: 20 * leaf, drawn["full8_a"])}


def by_hand(setup, params, position):
    """Return the probabilities [stacks, 10, classes] of a video, each crop cut with NumPy and scored by itself."""
    model, stored, probs = setup.model({"a": 4}), setup.only.records.videos[position], []
    score = jax.jit(lambda flow: model.apply({"params": params}, {"flow": flow}, train=False)["a"][:, 0])
    for anchor in sampling.eval_positions(stored.frames, 0, 3, FRAMES):
        levels, means, bound_px = setup.only.records.flow(position, int(anchor), 3)
        px = levels.astype(np.float32) * (2 * bound_px / 255) - bound_px - means[:, None, None]
        whole = np.moveaxis(px, 0, 2).reshape(*px.shape[1:3], 6)
        down, right = stored.height - CROP, stored.width - CROP
        places = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)]
        upright = np.stack([whole[y : y + CROP, x : x + CROP] for y, x in places])
        mirrored = upright[:, :, ::-1] * np.tile(np.float32([-1, 1]), 3)
        logits = np.asarray(score(np.concatenate([upright, mirrored])[:, None]), np.float64)
        probs.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return np.stack(probs)


@pytest.mark.parametrize("devices", [1, 2])
def test_every_video_has_the_scores_of_its_crops_by_themselves(setup, params, devices):
    table, mesh = setup.only.table("test"), meshes.make_mesh(jax.devices()[:devices])
    names = [setup.only.records.videos[i].name for i in table.position]
    found = {
        name: sampling.crops_apart(int(h), int(w), CROP)
        for name, h, w in zip(names, table.height, table.width, strict=True)
    }
    assert found == APART
    scorer = Scorer(setup, setup.model({"a": 4}), mesh, crops=10)
    placed = jax.device_put(params, meshes.replicated(mesh))
    scores = scorer(placed, setup.only, table, table.label, "a", FRAMES, lambda *_: None)
    assert np.ptp(scores.probs, axis=0).max() > 1e-3
    for row, position in enumerate(table.position):
        probs = by_hand(setup, params, int(position))
        # Float32 sums of some hundred products in eight layers, in another order.
        np.testing.assert_allclose(scores.probs[row], probs.mean(axis=(0, 1)), atol=1e-5)
        np.testing.assert_allclose(scores.centre_probs[row], probs[:, 4].mean(axis=0), atol=1e-5)
        assert scores.clip_accuracy[row] == (probs[:, 4].argmax(axis=1) == table.label[row]).mean()
