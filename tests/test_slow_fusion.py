"""Slow fusion: its sizes and counts, which frames reach what, and its scores against PyTorch's 3D convolutions."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.schema import UserError
from twostream_jax.models import build_model, check_clip, parameter_table
from twostream_jax.models.slow_fusion import conv1_extent, frames_side_by_side


def build(width=1 / 16, dropout=0.9):
    return build_model(SimpleNamespace(name="slow_fusion", width=width, dropout=dropout, init="he"), {"a": 5})


def clip(frames, side=64, seed=0):
    return {"rgb": np.random.default_rng(seed).standard_normal((2, frames, side, side, 3)).astype(np.float32)}


def initialise(model, inputs):
    """Variables with every bias and every score away from zero, so that a forgotten one shows."""
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(0))
    rng = np.random.default_rng(0)

    def perturb(path, leaf):
        if path[-1].key == "bias":
            return 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)
        return np.asarray(leaf) * (100 if path[-2].key.startswith("full8") else 1)

    return jax.tree_util.tree_map_with_path(perturb, variables)


def test_frames_side_by_side_by_hand():
    frames = np.arange(11).reshape(1, 11, 1, 1, 1) * 10 + np.arange(2)
    windows = frames_side_by_side(frames, 5)[0, :, 0, 0]
    # Windows begin at frames 0, 2, 4, 6; a frame's two channels stay together.
    assert windows.shape == (4, 10)
    assert windows[1].tolist() == [20, 21, 30, 31, 40, 41, 50, 51, 60, 61]
    assert windows[3].tolist()[-2:] == [100, 101]
    assert frames_side_by_side(frames[:, :10], 4)[0, :, 0, 0, 0].tolist() == [0, 20, 40, 60]
    assert frames_side_by_side(frames[:, :4], 2)[0, :, 0, 0].tolist() == [[0, 1, 10, 11], [20, 21, 30, 31]]


def test_layers_and_counts_at_224_on_11_frames():
    model = build_model(SimpleNamespace(name="slow_fusion", width=1.0, dropout=0.9, init="he"), {"a": 101})
    inputs = {"rgb": jnp.zeros((2, 11, 224, 224, 3))}
    names = ("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5", "full6", "full7")

    def forward():
        variables = model.init(jax.random.key(0), inputs, train=False)
        return variables["params"], model.apply(variables, inputs, train=False, features=names)

    params, (logits, features) = jax.eval_shape(forward)
    assert logits["a"].shape == (2, 1, 101)
    assert {name: feature.shape[1:] for name, feature in features.items()} == {
        **dict.fromkeys(("conv1", "norm1"), (4, 109, 109, 96)),
        "pool1": (4, 54, 54, 96),
        **dict.fromkeys(("conv2", "norm2"), (2, 26, 26, 256)),
        "pool2": (2, 13, 13, 256),
        **dict.fromkeys(("conv3", "conv4", "conv5"), (1, 13, 13, 512)),
        "pool5": (1, 6, 6, 512),
        "full6": (1, 1, 1, 4096),
        "full7": (1, 1, 1, 2048),
    }
    shapes = {name: shape for name, shape, _ in parameter_table(params)}
    assert shapes["conv1/kernel"] == (7, 7, 15, 96) and shapes["conv3/kernel"] == (3, 3, 512, 512)
    # The spatial net's 90,627,813 and 12 more input channels in conv1, 96 in conv2, 256 in conv3.
    more = 7 * 7 * 12 * 96 + 5 * 5 * 96 * 256 + 3 * 3 * 256 * 512
    assert sum(count for _, _, count in parameter_table(params)) == 90_627_813 + more


def test_ten_frames_are_fused_as_by_karpathy_et_al():
    """Extent 4, stride 2 in conv1: four responses."""
    assert [conv1_extent(frames) for frames in (8, 10, 11, 16)] == [2, 4, 5, 10]


@pytest.mark.parametrize("frames", [8, 11])
def test_every_frame_reaches_the_scores(frames):
    model, inputs = build(), clip(frames)
    variables = initialise(model, inputs)

    # The clip itself, then with each of its frames mirrored in turn.
    clips = np.repeat(inputs["rgb"][:1], frames + 1, axis=0)
    for frame in range(frames):
        clips[frame + 1, frame] = clips[frame + 1, frame, :, ::-1]
    scores = np.asarray(jax.jit(lambda x: model.apply(variables, {"rgb": x}, train=False)["a"][:, 0])(clips))
    moved = np.abs(scores[1:] - scores[0]).max(axis=1)
    assert moved.shape == (frames,) and moved.min() > 1e-2 * moved.max() > 0


def torch_scores(params, rgb):
    """Scores [B, 5] by 3D convolutions over [B, C, T, H, W], conv1's and conv2's responses normalised per frame."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def convolve(x, name, extent, steps, stride, padding):
        kernel, bias = (torch.from_numpy(np.array(params[name][kind])) for kind in ("kernel", "bias"))
        # [kh, kw, E * C, out] -> [out, C, E, kh, kw].
        kernel = kernel.reshape(*kernel.shape[:2], extent, -1, kernel.shape[-1]).permute(4, 3, 2, 0, 1)
        return functional.relu(
            functional.conv3d(x, kernel, bias, stride=(steps, stride, stride), padding=(0, padding, padding))
        )

    def pool(x):
        return functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), ceil_mode=True)

    def normalise(x):
        return functional.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)

    x = torch.from_numpy(rgb).permute(0, 4, 1, 2, 3)
    x = pool(normalise(convolve(x, "conv1", rgb.shape[1] - 6, 2, 2, 0)))
    x = pool(normalise(convolve(x, "conv2", 2, 2, 2, 1)))
    x = convolve(x, "conv3", 2, 2, 1, 1)
    for name in ("conv4", "conv5"):
        x = convolve(x, name, 1, 1, 1, 1)
    x = convolve(pool(x), "full6", 1, 1, 1, 0).flatten(1)
    full7, full8 = (
        [torch.from_numpy(np.array(params[n][k])) for k in ("kernel", "bias")] for n in ("full7", "full8_a")
    )
    return (functional.relu(x @ full7[0] + full7[1]) @ full8[0] + full8[1]).numpy()


@pytest.mark.parametrize("frames", [11])
def test_scores_are_those_of_pytorchs_3d_convolutions(frames):
    model, inputs = build(), clip(frames, side=96)
    inputs["rgb"] *= 30  # large enough that response normalisation is far from a constant factor
    variables = initialise(model, inputs)
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, inputs)["a"]
    expected = torch_scores(variables["params"], inputs["rgb"])
    assert logits.shape == (2, 1, 5) and np.abs(expected).max() > 1
    # Two float32 passes whose sums run in different orders.
    np.testing.assert_allclose(logits[:, 0], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_clips_that_do_not_fit_are_refused():
    message = r"input\.clip_frames=7: slow_fusion takes clips of at least 8 frames; the 2014 paper's have 11"
    with pytest.raises(UserError, match=message):
        check_clip("slow_fusion", 7)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: build().init(jax.random.key(0), clip(7), train=False))
    with pytest.raises(UserError, match=r"input\.clip_frames=11: cnn_m_spatial takes single frames; set it to 1, or"):
        check_clip("cnn_m_spatial", 11)
    check_clip("slow_fusion", 11)
    check_clip("cnn_m_temporal", 1)


def test_a_crop_that_leaves_no_map_and_an_unknown_feature_are_refused():
    with pytest.raises(UserError, match=r"input\.crop is 40 px"):
        jax.eval_shape(lambda: build().init(jax.random.key(0), clip(8, side=40), train=False))
    model, inputs = build(), clip(8)
    with pytest.raises(ValueError, match=r"no feature named conv9; there are conv1, norm1, pool1"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False, features=("conv9",)))
