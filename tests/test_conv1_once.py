"""conv1 of whole frames, cut afterwards, is conv1 of each crop: exactly where sums are, else within their rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from input_pipeline import sampling
from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.models import build_model
from twostream_jax.models.conv1 import convolve
from twostream_jax.preprocess import TenCrops, eval_frames, eval_inputs, ten_crops
from twostream_jax.preprocess.crops import _origins

# (h, w) of frames whose crops lie at even offsets all but those named: of 42 px ones, 4n more or not.
EVEN = ((46, 62), (42, 42), (50, 46), (58, 42))
CENTRE_ODD = ((46, 60), (44, 62), (58, 48), (56, 62))
RIGHT_ODD = ((46, 43), (50, 59), (42, 47), (46, 63))
BOTTOM_ODD = ((45, 46), (47, 60), (45, 62), (61, 50))
ODD = ((47, 61), (45, 60), (46, 62), (55, 63))
SIZES = {(): EVEN, (4,): CENTRE_ODD, (1, 3): RIGHT_ODD, (2, 3, 4): BOTTOM_ODD, (0, 1, 2, 3, 4): ODD}


def whole_numbers(rng, shape, most):
    return rng.integers(-most, most + 1, shape).astype(np.float32)


@pytest.mark.parametrize(("flow", "dtype"), [(True, jnp.float32), (False, jnp.float32), (True, jnp.bfloat16)])
@pytest.mark.parametrize("apart", SIZES)
def test_sums_that_are_exact_are_the_same_to_the_bit(flow, apart, dtype):
    """Of small whole numbers, whose sums no order of summation rounds: float32 holds them to 2^24, bfloat16 to 2^8."""
    channels, rng = (8 if flow else 3), np.random.default_rng(0)
    images = whole_numbers(rng, (4, 64, 64, channels), 100 if dtype == jnp.float32 else 1)
    kernel = whole_numbers(rng, (7, 7, channels, 5), 100)
    if dtype == jnp.bfloat16:
        # At most 60 products of +-1 each: no partial sum reaches 256.
        kernel = np.sign(kernel) * (rng.random(kernel.shape) < 60 / kernel[..., 0].size / 2)
        assert np.abs(kernel).sum(axis=(0, 1, 2)).max() < 256
    images, kernel, size = jnp.asarray(images, dtype), jnp.asarray(kernel, dtype), np.int32(SIZES[apart])

    def layer(x):
        return jax.nn.relu(convolve(x, kernel))

    crops = TenCrops(42, size, apart)
    once = jax.jit(lambda x: crops.of_layer(layer, x, flow=flow))(images)
    each = jax.jit(lambda x: layer(ten_crops(x, 42, flow=flow, size=size).reshape(-1, 42, 42, channels)))(images)
    assert once.dtype == dtype and once.shape == (4, 10, 18, 18, 5) and np.asarray(once, np.float32).max() > 10
    np.testing.assert_array_equal(np.asarray(once), np.asarray(each).reshape(once.shape))
    if len(apart) not in (0, 5):
        # Cut from the map of the whole frame, a crop at an odd offset is half a step beside itself.
        wrong = jax.jit(lambda x: TenCrops(42, size, ()).of_layer(layer, x, flow=flow))(images)
        differs = (np.asarray(wrong) != np.asarray(once)).any(axis=(0, 2, 3, 4))
        assert tuple(np.flatnonzero(differs)) == (*apart, *(5 + place for place in apart))


@pytest.mark.parametrize(("crop", "padded"), [(41, (64, 64)), (42, (64, 64)), (41, (63, 62)), (42, (63, 61))])
def test_any_parity_of_crop_and_frame(crop, padded):
    """A frame that is its crop's side larger by an odd number gets a row or column more, which no crop reaches."""
    rng = np.random.default_rng(1)
    size = np.int32([[crop, crop + 4], [crop + 8, crop], [crop + 12, crop + 16]])
    images = whole_numbers(rng, (3, *padded, 4), 100)
    kernel = whole_numbers(rng, (7, 7, 4, 5), 100)
    once = TenCrops(crop, size, ()).of_layer(lambda x: convolve(x, kernel), images, flow=True)
    crops = ten_crops(images, crop, flow=True, size=size).reshape(-1, crop, crop, 4)
    np.testing.assert_array_equal(np.asarray(once).reshape(30, *once.shape[2:]), convolve(crops, kernel))


def test_which_crops_lie_apart():
    # 256x340: the centre at (16, 58); 256x342: at (16, 59), the right crops at 118; 256x341: these at 117.
    assert sampling.crops_apart(256, 340, 224) == ()
    assert sampling.crops_apart(256, 342, 224) == (4,) == sampling.crops_apart(342, 256, 224)
    assert sampling.crops_apart(256, 341, 224) == (1, 3)
    assert sampling.crops_apart(224, 224, 224) == ()
    # 257x341: three of five are odd, and two crops have fewer pixels than the frame in its bucket of 320x384.
    assert sampling.crops_apart(257, 341, 224) is None
    assert sampling.crops_apart(480, 640, 224) is None


def test_host_and_device_agree_on_the_origins():
    for apart, sizes in SIZES.items():
        origins = np.asarray(_origins(jnp.zeros((4, 64, 64, 1)), 42, np.int32(sizes)))
        odd = (origins % 2 == 1).any(axis=2)
        for (height, width), own in zip(sizes, odd, strict=True):
            # In a bucket of 64x64 px, as many as two crops of 42 px and a third, three by themselves do not pay.
            assert sampling.crops_apart(height, width, 42) == (tuple(np.flatnonzero(own)) if own.sum() < 3 else None)
        assert len(apart) == 5 or tuple(np.flatnonzero(odd.any(axis=0))) == apart


KINDS = {
    "flow": {},
    "raw means": {"mean_subtraction": False},
    "trajectory": {"stacking": "trajectory"},
    "bidirectional": {"bidirectional": True, "stack": 4},
    "planes": {"planes": (0, 1, 8, 9, 64)},
    "rgb": {"streams": ("rgb",)},
}


def batch_of(inputs, sizes):
    """Return a random eval batch of frames of these sizes in windows of 64x64."""
    rng, n, stack = np.random.default_rng(2), len(sizes), inputs.stack
    batch = {"size": np.int32(sizes)}
    if inputs.streams == ("rgb",):
        return batch | {"rgb": rng.integers(0, 256, (n, 1, 64, 64, 3), np.uint8)}
    batch |= {"mean": rng.normal(size=(n, 1, stack, 2)).astype(np.float32), "bound": np.full(n, 8, np.float32)}
    if not inputs.planes:
        return batch | {"flow": rng.integers(0, 256, (n, 1, stack, 2, 64, 64), np.uint8)}
    planes = len(inputs.planes)
    return batch | {
        "flow": rng.integers(-9, 10, (n, 1, stack, 2, planes, 8, 8)).astype(np.int8),
        "steps": rng.uniform(0.1, 0.4, (n, planes)).astype(np.float32),
        "zero": np.zeros(n, np.float32),
    }


def inputs_of(kind, crop=42):
    return steps.Inputs(**{
        "streams": ("flow",), "clip_frames": 1, "stack": 3, "stacking": "flow", "bidirectional": False, "crop": crop,
        "mean_subtraction": True, "lighting": 0.0,
    } | KINDS[kind])  # fmt: skip


def every_second(x):
    """Return what a kernel that looks at its middle alone makes of x."""
    return x[:, 3:-3:2, 3:-3:2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("apart", SIZES)
def test_every_kind_of_input_is_cut_as_before(kind, apart):
    inputs, flow = inputs_of(kind), kind != "rgb"
    batch = batch_of(inputs, SIZES[apart])
    frames = eval_frames(batch, **inputs.flow)["flow" if flow else "rgb"][:, 0]
    once = TenCrops(42, batch["size"], apart).of_layer(every_second, frames, flow=flow)
    each = every_second(eval_inputs(batch, crop=42, crops=10, **inputs.flow)["flow" if flow else "rgb"][:, 0])
    np.testing.assert_array_equal(np.asarray(once).reshape(each.shape), each)
    assert once.shape[:2] == (4, 10) and len(np.unique(np.asarray(once)[:, :, 4, 5, 0])) > 20


def scored(kind, sizes, dtype, apart):
    """Return the scores of a random net on a random batch, each crop by itself and conv1 once a frame."""
    inputs, rng = inputs_of(kind), np.random.default_rng(3)
    name = "cnn_m_spatial" if kind == "rgb" else "cnn_m_temporal"
    section = ConfigDict({"name": name, "width": 1 / 16, "dropout": 0.0, "init": "he"})
    model, mesh = build_model(section, {"a": 7, "b": 3}, dtype), meshes.make_mesh(jax.devices()[:1])
    # Weights that keep the second moment, in the heads too: near 0, as they begin, any two nets would agree.
    params = jax.tree.map(
        lambda leaf: rng.normal(0, (2 / max(1, np.prod(leaf.shape[:-1]))) ** 0.5, leaf.shape).astype(np.float32),
        steps.abstract_params(model, inputs),
    )
    step = steps.jit_eval_step(mesh, model=model, inputs=inputs, crops=10)
    batch = meshes.put_batch(batch_of(inputs, sizes), mesh)
    return [jax.device_get(step((params,), batch, way))[0] for way in (None, apart)]


@pytest.mark.parametrize(("kind", "sizes", "apart"), [("flow", EVEN, ()), ("rgb", CENTRE_ODD, (4,))])
def test_scores_are_those_of_each_crop_by_itself(kind, sizes, apart):
    """Float32 sums of some hundred products: in another order their rounding leaves 1e-5 of the logits' spread, at most."""
    each, once = scored(kind, sizes, jnp.float32, apart)
    for head in ("a", "b"):
        tolerance = 1e-5 * max(1, each[head]["logits"].std())
        assert each[head]["logits"].std(axis=0).max() > 100 * tolerance
        for key in ("probs", "logits", "centre_probs"):
            np.testing.assert_allclose(once[head][key], each[head][key], rtol=0, atol=tolerance)


def test_scores_in_bfloat16():
    """A conv1 sum near the middle between two bfloat16 numbers may fall to either: 2^-8 of it, in few of a layer's sums."""
    each, once = scored("flow", CENTRE_ODD, jnp.bfloat16, (4,))
    np.testing.assert_allclose(once["a"]["logits"], each["a"]["logits"], rtol=0, atol=2**-8 * each["a"]["logits"].std())


def test_each_device_computes_its_own_rows():
    """Nothing is gathered before the scores are."""
    inputs = inputs_of("flow")
    section = ConfigDict({"name": "cnn_m_temporal", "width": 1 / 16, "dropout": 0.0, "init": "he"})
    model, mesh = build_model(section, {"a": 7}), meshes.make_mesh()
    params = steps.abstract_params(model, inputs)
    batch = batch_of(inputs, 2 * EVEN)
    lowered = steps.jit_eval_step(mesh, model=model, inputs=inputs, crops=10).lower((params,), batch, ())
    program = lowered.compile().as_text()
    moved = [line for line in program.splitlines() if " all-gather(" in line or " all-reduce(" in line]
    # The three scores of the head: 8 rows of 7 classes.
    assert moved and all("f32[8,7]" in line for line in moved), moved
    assert not any(name in program for name in ("all-to-all", "collective-permute"))
