"""CNN-M: the paper's counts and sizes, and its scores against NumPy and PyTorch passes of the same weights."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline.schema import UserError
from twostream_jax.models import MODELS, STREAMS, build_model, parameter_table, pool5_size


def config(name="cnn_m_temporal", width=1 / 8, dropout=0.9, init="he"):
    return SimpleNamespace(name=name, width=width, dropout=dropout, init=init)


def draw(stream: str, shape: tuple[int, ...], seed: int = 0) -> dict[str, np.ndarray]:
    return {stream: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def initialise(model, inputs, seed: int = 0):
    """Variables with every bias and every score away from zero, so that a forgotten one shows."""
    variables = jax.jit(lambda key: model.init(key, inputs, train=False))(jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def perturb(path, leaf):
        if path[-1].key == "bias":
            return 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)
        return np.asarray(leaf) * (100 if path[-2].key.startswith("full8") else 1)

    return jax.tree_util.tree_map_with_path(perturb, variables)


def apply(model, variables, inputs, **flags):
    """The module's test-time output, jitted: op by op each shape would compile on its own."""
    return jax.jit(lambda variables, inputs: model.apply(variables, inputs, train=False, **flags))(variables, inputs)


def abstract_params(name: str, channels: int, tasks: dict[str, int]):
    inputs = {STREAMS[name][0]: jnp.zeros((1, 1, 224, 224, channels))}
    model = build_model(config(name, width=1.0), tasks)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"]


@pytest.mark.parametrize(
    ("name", "channels", "classes", "total"),
    [
        ("cnn_m_spatial", 3, 1000, 92_469_864),
        ("cnn_m_spatial", 3, 101, 90_627_813),
        ("cnn_m_temporal", 20, 101, 90_707_781),
        ("cnn_m_temporal", 20, 51, 90_605_331),
    ],
)
def test_parameter_totals(name, channels, classes, total):
    table = parameter_table(abstract_params(name, channels, {"a": classes}))
    assert sum(count for _, _, count in table) == total


def test_two_tasks_share_the_trunk():
    table = parameter_table(abstract_params("cnn_m_temporal", 20, {"ucf101": 101, "hmdb51": 51}))
    assert sum(count for _, _, count in table) == 90_707_781 + 2048 * 51 + 51
    names = [name for name, _, _ in table]
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "full6", "full7", "full8_hmdb51", "full8_ucf101")
    assert names == [f"{layer}/{kind}" for layer in layers for kind in ("bias", "kernel")]


def test_parameter_table_lists_shapes_and_counts():
    table = parameter_table({"conv1": {"kernel": np.zeros((7, 7, 3, 96)), "bias": np.zeros(96)}})
    assert table == [("conv1/bias", (96,), 96), ("conv1/kernel", (7, 7, 3, 96), 14112)]


def test_layer_outputs_at_224_are_the_papers():
    inputs = {"rgb": jnp.zeros((2, 1, 224, 224, 3))}
    model = build_model(config("cnn_m_spatial", width=1.0), {"a": 101})
    names = ("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5", "full6", "full7")

    def forward():
        variables = model.init(jax.random.key(0), inputs, train=False)
        return model.apply(variables, inputs, train=False, features=names)

    logits, features = jax.eval_shape(forward)
    assert logits["a"].shape == (2, 1, 101)
    sides_and_channels = {name: feature.shape[2:] for name, feature in features.items()}
    assert sides_and_channels == {
        **dict.fromkeys(("conv1", "norm1"), (109, 109, 96)),
        "pool1": (54, 54, 96),
        **dict.fromkeys(("conv2", "norm2"), (26, 26, 256)),
        "pool2": (13, 13, 256),
        **dict.fromkeys(("conv3", "conv4", "conv5"), (13, 13, 512)),
        "pool5": (6, 6, 512),
        "full6": (1, 1, 4096),
        "full7": (1, 1, 2048),
    }


def numpy_convolution(x, kernel, bias, stride, padding):
    """Convolution by summing over kernel positions, then ReLU, float64."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[0]
    out_h, out_w = (x.shape[1] - size) // stride + 1, (x.shape[2] - size) // stride + 1
    out = np.zeros((x.shape[0], out_h, out_w, kernel.shape[3])) + bias
    for i, j in np.ndindex(size, size):
        out += x[:, i : i + stride * out_h : stride, j : j + stride * out_w : stride][:, :out_h, :out_w] @ kernel[i, j]
    return np.maximum(out, 0)


def numpy_lrn(x):
    padded = np.pad(x**2, ((0, 0), (0, 0), (0, 0), (2, 2)))
    return x / (2 + 5e-4 / 5 * sum(padded[..., i : i + x.shape[-1]] for i in range(5))) ** 0.75


def numpy_pool(x):
    out_h, out_w = (int(np.ceil((n - 3) / 2)) + 1 for n in x.shape[1:3])
    windows = [x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for i in range(out_h) for j in range(out_w)]
    return np.stack(windows, 1).reshape(x.shape[0], out_h, out_w, -1)


def numpy_scores(params, x, second_norm: bool) -> np.ndarray:
    """Scores [N, classes] of x [N, H, W, C], each position's full6 a plain dot product, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = numpy_pool(numpy_lrn(numpy_convolution(x.astype(np.float64), *layer(p, "conv1"), 2, 0)))
    x = numpy_convolution(x, *layer(p, "conv2"), 2, 1)
    x = numpy_pool(numpy_lrn(x) if second_norm else x)
    for name in ("conv3", "conv4", "conv5"):
        x = numpy_convolution(x, *layer(p, name), 1, 1)
    x = numpy_pool(x)
    side = p["full6"]["kernel"].shape[0]
    scores = []
    for i, j in np.ndindex(x.shape[1] - side + 1, x.shape[2] - side + 1):
        window = x[:, i : i + side, j : j + side].reshape(len(x), -1)
        full6 = np.maximum(window @ p["full6"]["kernel"].reshape(window.shape[1], -1) + p["full6"]["bias"], 0)
        full7 = np.maximum(full6 @ p["full7"]["kernel"] + p["full7"]["bias"], 0)
        scores.append(full7 @ p["full8_a"]["kernel"] + p["full8_a"]["bias"])
    return np.mean(scores, axis=0)


def layer(params, name):
    return params[name]["kernel"], params[name]["bias"]


@pytest.mark.parametrize(("name", "channels"), [("cnn_m_spatial", 3), ("cnn_m_temporal", 6)])
def test_scores_are_those_of_a_plain_numpy_pass(name, channels):
    (stream,) = STREAMS[name]
    inputs = draw(stream, (2, 2, 112, 112, channels))
    inputs[stream] *= 30  # large enough that response normalisation is far from a constant factor
    model = build_model(config(name), {"a": 5})
    variables = initialise(model, inputs)
    logits = apply(model, variables, inputs)["a"]
    expected = numpy_scores(variables["params"], inputs[stream].reshape(4, 112, 112, channels), name == "cnn_m_spatial")
    # float32 sums of up to 600 products, eight layers deep, against float64.
    np.testing.assert_allclose(logits.reshape(4, 5), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    # norm2, the only difference between the nets, shows in the scores.
    other = numpy_scores(variables["params"], inputs[stream].reshape(4, 112, 112, channels), name != "cnn_m_spatial")
    assert np.abs(other - expected).max() > 0.1 * np.abs(expected).max()


def torch_scores(params, x, second_norm: bool) -> np.ndarray:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def convolve(x, name, stride, padding):
        kernel, bias = (torch.from_numpy(np.array(leaf)) for leaf in layer(params, name))
        return functional.relu(functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, stride, padding))

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    def normalise(x):
        return functional.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)

    x = pool(normalise(convolve(torch.from_numpy(x).permute(0, 3, 1, 2), "conv1", 2, 0)))
    x = convolve(x, "conv2", 2, 1)
    x = pool(normalise(x) if second_norm else x)
    for name in ("conv3", "conv4", "conv5"):
        x = convolve(x, name, 1, 1)
    x = convolve(pool(x), "full6", 1, 0).flatten(1)
    full7, full8 = (tuple(torch.from_numpy(np.array(leaf)) for leaf in layer(params, n)) for n in ("full7", "full8_a"))
    return (functional.relu(x @ full7[0] + full7[1]) @ full8[0] + full8[1]).numpy()


@pytest.mark.parametrize(("name", "channels"), [("cnn_m_spatial", 3), ("cnn_m_temporal", 20)])
def test_scores_are_those_of_pytorch_at_224(name, channels):
    (stream,) = STREAMS[name]
    inputs = draw(stream, (2, 1, 224, 224, channels))
    inputs[stream] *= 30
    model = build_model(config(name, width=1 / 4), {"a": 7})
    variables = initialise(model, inputs)
    logits = apply(model, variables, inputs)["a"][:, 0]
    expected = torch_scores(variables["params"], inputs[stream][:, 0], name == "cnn_m_spatial")
    # Two float32 passes whose sums run in different orders.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_whole_frames_are_scored_with_the_crops_weights():
    """Fully convolutional: weights made at 112 px score every position of a 160 x 192 frame, averaged."""
    model = build_model(config("cnn_m_temporal"), {"a": 5})
    variables = initialise(model, draw("flow", (1, 1, 112, 112, 4)))
    frame = draw("flow", (1, 1, 160, 192, 4), seed=1)
    logits, features = apply(model, variables, frame, features=("pool5", "full6"))
    assert features["pool5"].shape[2:4] == (pool5_size(160), pool5_size(192)) == (4, 5)
    assert features["full6"].shape[2:4] == (2, 3)
    expected = numpy_scores(variables["params"], frame["flow"][0], second_norm=False)
    np.testing.assert_allclose(logits["a"][0], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_an_input_smaller_than_full6s_kernel_is_refused():
    model = build_model(config(), {"a": 5})
    variables = initialise(model, draw("flow", (1, 1, 112, 112, 4)))
    with pytest.raises(ValueError, match=r"the map before full6 is 1x1, smaller than its 3x3 kernel"):
        apply(model, variables, draw("flow", (1, 1, 64, 64, 4)))


@pytest.mark.parametrize(("crop", "side"), [(41, 1), (48, 1), (56, 1), (64, 1), (96, 2), (112, 3), (128, 3), (224, 6)])
def test_pool5_size_is_the_nets(crop, side):
    assert pool5_size(crop) == side
    inputs = {"flow": jnp.zeros((1, 1, crop, crop, 2))}
    model = build_model(config(width=1 / 16), {"a": 3})

    def forward():
        variables = model.init(jax.random.key(0), inputs, train=False)
        return apply(model, variables, inputs, features=("pool5",))[1]["pool5"]

    assert jax.eval_shape(forward).shape[2:4] == (side, side)


@pytest.mark.parametrize("crop", [1, 32, 40])
def test_a_crop_that_leaves_no_map_is_refused(crop):
    with pytest.raises(UserError, match=rf"input\.crop is {crop} px.*at least 41 px"):
        pool5_size(crop)
    model = build_model(config(width=1 / 16), {"a": 3})
    inputs = {"flow": jnp.zeros((1, 1, crop, crop, 2))}
    with pytest.raises(UserError, match=r"input\.crop"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "cnn_x"}, r"model\.name is 'cnn_x': choose one of cnn_m_spatial, cnn_m_temporal, slow_fusion"),
        ({"init": "xavier"}, r"model\.init is 'xavier': choose one of he, caffe"),
        ({"width": 0.0}, r"model\.width is 0\.0"),
        ({"dropout": 1.0}, r"model\.dropout is 1\.0"),
        ({"dropout": -0.1}, r"model\.dropout is -0\.1"),
    ],
)
def test_a_mistake_in_the_config_is_named(change, message):
    with pytest.raises(UserError, match=message):
        build_model(config(**change), {"a": 5})


def test_every_model_states_its_streams():
    assert set(STREAMS) == set(MODELS)
    for name, streams in STREAMS.items():
        assert (build_model(config(name), {"a": 5}).stream,) == streams


def test_an_unknown_feature_is_refused():
    inputs = draw("flow", (1, 1, 48, 48, 2))
    model = build_model(config(width=1 / 16), {"a": 3})
    variables = initialise(model, inputs)
    with pytest.raises(ValueError, match=r"no feature named conv9; there are conv1, norm1, pool1"):
        apply(model, variables, inputs, features=("conv9", "conv1"))


def test_widths_are_rounded_and_at_least_eight():
    inputs = {"flow": jnp.zeros((1, 1, 64, 64, 2))}
    model = build_model(config(width=1 / 100), {"a": 3})
    table = parameter_table(jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))["params"])
    widths = {name: shape[0] for name, shape, _ in table if name.endswith("bias")}
    # 0.96, 2.56 and 5.12 are raised to 8; 40.96 and 20.48 rounded.
    assert [widths[f"conv{i}/bias"] for i in (1, 2, 3, 4, 5)] == [8] * 5
    assert (widths["full6/bias"], widths["full7/bias"]) == (41, 20)


def test_dropout_drops_its_share_and_only_in_training():
    inputs = draw("flow", (1, 1, 48, 48, 2))
    model = build_model(config(width=1.0, dropout=0.9), {"a": 3})
    variables = jax.jit(lambda: model.init(jax.random.key(0), inputs, train=False))()

    @jax.jit
    def full7_kernel_gradient(key):
        def loss(params):
            return model.apply({"params": params}, inputs, train=True, rngs={"dropout": key})["a"].sum()

        return jax.grad(loss)(variables["params"])["full8_a"]["kernel"][:, 0]

    full7 = apply(model, variables, inputs, features=("full7",))[1]["full7"]
    alive = float((full7 > 0).mean())
    # The gradient of full8's kernel is its input: about half of full7 is alive, of which a tenth stays.
    kept = float((full7_kernel_gradient(jax.random.key(1)) > 0).mean())
    # 2048 draws of chance .05: standard deviation .005; five of those.
    assert 0.3 < alive < 0.7
    assert kept == pytest.approx(0.05, abs=0.025)
    first, second = full7_kernel_gradient(jax.random.key(1)), full7_kernel_gradient(jax.random.key(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, full7_kernel_gradient(jax.random.key(1)))


def test_no_dropout_is_training_as_testing():
    inputs = draw("flow", (1, 2, 48, 48, 2))
    model = build_model(config(dropout=0.0), {"a": 3})
    variables = initialise(model, inputs)
    train, test = (model.apply(variables, inputs, train=t, rngs={"dropout": jax.random.key(0)}) for t in (True, False))
    np.testing.assert_array_equal(train["a"], test["a"])


def test_time_is_folded_into_the_batch():
    inputs = draw("flow", (2, 3, 48, 48, 2))
    model = build_model(config(), {"a": 3, "b": 4})
    variables = initialise(model, inputs)
    logits, features = apply(model, variables, inputs, features=("pool5",))
    assert logits["a"].shape == (2, 3, 3) and logits["b"].shape == (2, 3, 4)
    assert features["pool5"].shape == (2, 3, 1, 1, 64)
    alone = apply(model, variables, {"flow": inputs["flow"][1:, 2:]})
    # Another batch size may choose another blocking of the same sums.
    np.testing.assert_allclose(logits["a"][1, 2], alone["a"][0, 0], rtol=1e-5, atol=1e-6)


def test_bfloat16_computes_near_float32_and_keeps_float32_at_both_ends():
    inputs = draw("rgb", (2, 1, 96, 96, 3))
    exact = build_model(config("cnn_m_spatial"), {"a": 5})
    rounded = build_model(config("cnn_m_spatial"), {"a": 5}, jnp.bfloat16)
    variables = initialise(rounded, inputs)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    logits, features = apply(rounded, variables, inputs, features=("norm1", "full7"))
    assert logits["a"].dtype == jnp.float32
    assert features["norm1"].dtype == features["full7"].dtype == jnp.bfloat16
    expected = apply(exact, variables, inputs)["a"]
    # Eight layers that each round to 8 bits (2^-9 relative).
    assert float(jnp.abs(logits["a"] - expected).max()) < 8 * 2**-8 * float(jnp.abs(expected).max())


def test_the_first_loss_is_near_chance():
    inputs = draw("rgb", (4, 1, 96, 96, 3))
    model = build_model(config("cnn_m_spatial", width=1 / 2, dropout=0.9), {"a": 101})
    variables = jax.jit(lambda: model.init(jax.random.key(0), inputs, train=False))()
    logits = model.apply(variables, inputs, train=True, rngs={"dropout": jax.random.key(1)})["a"]
    entropy = jax.nn.logsumexp(logits, axis=-1) - logits.mean(axis=-1)
    np.testing.assert_allclose(entropy, np.log(101), atol=0.2)
