"""Oxford's weights as our net: its logits against an independent forward of the same file, and files that are not whole."""

import itertools
import random
from functools import cache

import jax
import numpy as np
import oxford_files as files
import pytest
import scipy.io
from ml_collections import ConfigDict

from input_pipeline.schema import UserError
from twostream_jax import validate
from twostream_jax.models import build_model, layers, pool5_size
from twostream_jax.models.cnn_m import CONVOLUTIONS
from twostream_jax.preprocess import normalise_rgb
from twostream_jax.pretrained import READERS, oxford, read_oxford, to_params

CLASSES = tuple(f"n{k:08d}" for k in range(7))
WIDTH, CROP = 1 / 8, 73
FORMATS = ["layers", "layer", "mat2014", "mat"]


def write(path, net, form, **options):
    """Write a net in one of the FORMATS; return the file."""
    if form.startswith("mat"):
        return files.write_mat(path.with_suffix(".mat"), net, old=form == "mat2014", classes=CLASSES, **options)
    file = path.with_suffix(".caffemodel")
    file.write_bytes(files.caffemodel(net, old=form == "layers", **options))
    return file


@pytest.fixture(scope="module")
def net():
    return files.random_net(WIDTH, pool5_size(CROP), len(CLASSES))


@cache
def compiled():
    """Return our spatial net of this width as a function of its parameters and a batch of rgb."""
    config = ConfigDict({"name": "cnn_m_spatial", "width": WIDTH, "dropout": 0.5, "init": "he"})
    model = build_model(config, {"t": len(CLASSES)})
    return jax.jit(lambda params, rgb: model.apply({"params": params}, {"rgb": rgb}, train=False)["t"][:, 0])


def our_logits(params, rgb):
    """Return our logits [N, classes] of uint8 rgb, through our own input scale."""
    params = {name.replace("full8", "full8_t"): layer for name, layer in params.items()}
    with jax.default_matmul_precision("highest"):
        return np.asarray(compiled()(params, normalise_rgb(rgb[:, None])))


def test_the_sides_of_the_map_differ_from_one():
    """So that the order C, H, W of full6's inputs matters."""
    assert pool5_size(CROP) == 2


@pytest.mark.parametrize("form", FORMATS)
def test_our_net_computes_what_theirs_does(net, form, tmp_path):
    params = to_params(read_oxford(write(tmp_path / "net", net, form)))
    rgb = np.random.default_rng(5).integers(0, 256, (3, CROP, CROP, 3), dtype=np.uint8)
    wanted, found = files.forward(net, rgb), our_logits(params, rgb)
    # Float32 over eight layers, whose sums have up to 2,300 terms: measured 1e-6 of the largest.
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_pytorch_computes_it_too(net):
    pytest.importorskip("torch", reason="PyTorch computes the same net")
    rgb = np.random.default_rng(6).integers(0, 256, (2, CROP, CROP, 3), dtype=np.uint8)
    np.testing.assert_allclose(files.forward_in_torch(net, rgb), files.forward(net, rgb), rtol=1e-9)


def test_each_of_the_conversions_matters(net, tmp_path):
    """Without any one of them the logits differ by percents, so that the comparison above would show it."""
    params = to_params(read_oxford(write(tmp_path / "net", net, "layer")))
    rgb = np.random.default_rng(5).integers(0, 256, (3, CROP, CROP, 3), dtype=np.uint8)
    right, conv1, full6 = our_logits(params, rgb), params["conv1"], params["full6"]
    for wrong in (
        {"conv1": conv1 | {"kernel": conv1["kernel"][:, :, ::-1]}},
        {"conv1": conv1 | {"bias": net["conv1"][1]}},
        {"conv1": conv1 | {"kernel": conv1["kernel"].transpose(1, 0, 2, 3)}},
        {"full6": full6 | {"kernel": full6["kernel"].transpose(1, 0, 2, 3)}},
    ):
        assert np.abs(our_logits(params | wrong, rgb) - right).max() > 0.01 * np.abs(right).max()


def test_all_formats_hold_the_same(net, tmp_path):
    read = [read_oxford(write(tmp_path / form, net, form)) for form in FORMATS]
    (tmp_path / "double.caffemodel").write_bytes(files.caffemodel(net, double=True))
    read.append(read_oxford(tmp_path / "double.caffemodel"))
    for other in read[1:]:
        for name in oxford.LAYERS:
            np.testing.assert_array_equal(other.kernels[name], read[0].kernels[name])
            np.testing.assert_array_equal(other.biases[name], read[0].biases[name])
            assert other.kernels[name].dtype == other.biases[name].dtype == np.float32
        np.testing.assert_allclose(other.mean_rgb, files.MEAN_RGB, rtol=1e-6)
    assert [each.classes for each in read] == [(), (), CLASSES, CLASSES, ()]


def test_conv1_by_hand():
    """One filter of ones: on x = 58 z + 110 it sums 49 pixels of three channels less their means."""
    kernels = {"conv1": np.ones((7, 7, 3, 1), np.float32)}
    rest = {name: np.zeros((1, 1), np.float32) for name in oxford.LAYERS if name != "conv1"}
    biases = {name: np.zeros(1, np.float32) for name in oxford.LAYERS}
    net = oxford.OxfordNet(kernels | rest, biases | {"conv1": np.float32([3])}, np.array([100.0, 110.0, 125.0]), ())
    params = to_params(net)
    assert (params["conv1"]["kernel"] == 58).all()
    # 3 + 49 * ((110 - 100) + (110 - 110) + (110 - 125)) = 3 - 245.
    assert params["conv1"]["bias"].tolist() == [-242.0]


def test_the_tables_agree_with_our_net():
    assert {k: v[2:] for k, v in CONVOLUTIONS.items()} == oxford.STRIDE_AND_PADDING
    ours = {"size": layers.LRN_SIZE, "k": layers.LRN_BIAS, "alpha": layers.LRN_ALPHA, "beta": 0.75}
    assert ours == oxford.NORMALISATION
    assert tuple(READERS) == validate.WEIGHT_FILES


# --- files that are no CNN-M -----------------------------------------------------------------------------------------


def small():
    return files.random_net(1e-3, 1, 7)


def with_parameters(changes: dict, old=False):
    """Return the released layers with other parameters for some, or without those that are None."""
    changed = [(name, changes.get(name, parameters)) for name, parameters in files.caffe_layers(old)]
    return [layer for layer in changed if layer[1] is not None]


F, LRN = files.field, 118
CAFFE = {
    "its response normalisations are [], CNN-M has norm1 and norm2": {"norm1": None, "norm2": None},
    "its response normalisations are ['norm1'], CNN-M": {"norm2": None},
    "conv1 has stride 4, CNN-M has 2": {"conv1": F(106, F(6, 4))},
    "conv1 has stride 1, CNN-M has 2": {"conv1": F(106, F(4, 7))},
    "conv2 has pad 2, CNN-M has 1": {"conv2": F(106, F(3, 2) + F(6, 2))},
    "pool1 has pool 1, CNN-M has 0": {"pool1": F(121, F(1, 1) + F(2, 3) + F(3, 2))},
    "pool5 has kernel_size 2, CNN-M has 3": {"pool5": F(121, F(2, 2) + F(3, 2))},
    "norm1 has alpha / local_size 2e-05": {"norm1": F(LRN, F(2, 1e-4) + F(5, 2.0))},
    "norm1 has alpha / local_size 0.2": {"norm1": F(LRN, F(5, 2.0))},
    "norm2 has k 1, CNN-M has 2.0": {"norm2": F(LRN, F(2, 5e-4) + F(5, 1.0))},
    "norm2 has beta 0.5, CNN-M has 0.75": {"norm2": F(LRN, F(2, 5e-4) + F(3, 0.5) + F(5, 2.0))},
    "norm1 has local_size 3, CNN-M has 5.0": {"norm1": F(LRN, F(1, 3) + F(2, 3e-4) + F(5, 2.0))},
    "no layer 'fc8' with weights (there are: 'conv1', 'conv2', 'conv3', 'conv4', ...)": {"fc8": None},
}


def refused(path) -> str:
    with pytest.raises(UserError) as error:
        read_oxford(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and line.isprintable() and len(line) < 400, line
    return line


@pytest.mark.parametrize("said", CAFFE)
def test_another_net_of_caffe(said, tmp_path):
    file = write(tmp_path / "net", small(), "layer", layers=with_parameters(CAFFE[said]))
    line = refused(file)
    assert f"not Oxford's CNN-M ({said}" in line and "give VGG_CNN_M_2048.caffemodel or imagenet-vgg" in line


def test_weights_alone_are_enough_of_a_caffemodel(tmp_path):
    net = small()
    bare = [(name, b"") for name in net]
    np.testing.assert_array_equal(
        read_oxford(write(tmp_path / "a", net, "layer", layers=bare)).kernels["full7"], net["fc7"][0].T
    )


def test_a_normalisation_without_k_is_one_of_early_2014(tmp_path):
    changes = {name: F(LRN, F(2, 5e-4)) for name in ("norm1", "norm2")}
    assert read_oxford(write(tmp_path / "net", small(), "layer", layers=with_parameters(changes))).classes == ()


def test_fully_connected_layers_written_as_convolutions(tmp_path):
    net, wide = small(), files.random_net(1e-3, 2, 7)
    as_conv = {**wide, "fc6": (wide["fc6"][0].reshape(8, 8, 2, 2), wide["fc6"][1])}
    for form in ("layers", "layer"):
        one, other = (read_oxford(write(tmp_path / "n", each, form)) for each in (wide, as_conv))
        np.testing.assert_array_equal(one.kernels["full6"], other.kernels["full6"])
    assert read_oxford(write(tmp_path / "s", net, "layer")).kernels["full6"].shape == (1, 1, 8, 8)


def arrays(changes: dict):
    """Return a small net with some arrays changed: {layer: (weights, bias)} of functions."""
    net = small()
    return net | {name: tuple(f(a) for f, a in zip(change, net[name], strict=True)) for name, change in changes.items()}


def same(a):
    return a


ARRAYS = {
    "conv3 has 8 filters and a bias of shape [7]": {"conv3": (same, lambda b: b[:7])},
    "fc7 holds values that are no numbers, so it is damaged": {"fc7": (lambda w: w * np.nan, same)},
    "fc8 holds values that are no numbers, so it is damaged": {"fc8": (same, lambda b: b * np.inf)},
}


@pytest.mark.parametrize("said", ARRAYS)
@pytest.mark.parametrize("form", FORMATS)
def test_arrays_that_do_not_belong_together(said, form, tmp_path):
    assert said in refused(write(tmp_path / "net", arrays(ARRAYS[said]), form))


@pytest.mark.parametrize("form", FORMATS)
def test_a_net_on_flow_is_refused(form, tmp_path):
    file = write(tmp_path / "net", files.random_net(1e-3, 1, 7, channels=20), form)
    assert "conv1 takes 20 channels; only a net on RGB images can be converted" in refused(file)


def test_other_caffemodels(tmp_path):
    file = tmp_path / "x.caffemodel"

    def said(content: bytes) -> str:
        file.write_bytes(content)
        return refused(file)

    assert "no layer 'conv1' with weights (there are: none)" in said(b"")
    assert "not a whole .caffemodel (" in said(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a")
    assert "in Caffe's format of 2013" in said(F(2, F(1, F(1, "conv1"))))
    net = small()
    net["conv1"] = net["conv1"][:1]
    assert "conv1 has 1 arrays, weights and a bias are 2" in said(files.caffemodel(net))
    net["conv1"] = (np.zeros((8, 3), np.float32), np.zeros(8, np.float32))
    assert "conv1 has weights of shape [8, 3]" in said(files.caffemodel(net))
    net = small()
    net["fc6"] = (np.zeros((8, 24), np.float32), net["fc6"][1])
    assert "fc6 takes 24 numbers, no square map of conv5's 8 channels" in said(files.caffemodel(net))
    lying = files.blob(net["fc8"][0], old=False).replace(b"\x07\x08", b"\x07\x09", 1)
    layer = F(100, F(1, "fc8") + F(7, lying) + F(7, files.blob(net["fc8"][1], old=False)))
    rest = {name: pair for name, pair in small().items() if name != "fc8"}
    assert "fc8 states an array of shape [7, 9] and holds 224 bytes" in said(files.caffemodel(rest) + layer)
    assert "there are: 'a\\ufffd')" in said(F(100, F(1, b"a\xff") + F(7, F(5, b"\0\0\0\0")))).replace("�", "\\ufffd")


def mat(tmp_path, **options):
    return files.write_mat(tmp_path / "x.mat", small(), **options)


def changed(which, **values):
    layers_ = files.mat_layers(small(), old=False)
    return [layer | values if layer["name"] == which else layer for layer in layers_]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": changed("conv1", stride=4.0)}, "conv1 has stride [4.0], CNN-M has [2]"),
        (
            {"layers": changed("conv2", pad=np.array([1, 2, 1, 2.0]))},
            "conv2 has pad [1.0, 2.0, 1.0, 2.0], CNN-M has [1",
        ),
        ({"layers": changed("norm2", param=np.array([5, 1, 1e-4, 0.75]))}, "norm2 has param [5.0, 1.0, 0.0001, 0.75]"),
        ({"layers": changed("norm2", type="bnorm")}, "its response normalisations are ['norm1'], CNN-M has"),
        ({"layers": changed("pool1", pool=2.0)}, "pool1 has pool [2.0], CNN-M has [3]"),
        ({"layers": changed("fc8", name="classify")}, "no layer 'fc8' with weights (there are: 'conv1', 'conv2',"),
        ({"layers": changed("fc7", weights=files.cell(np.zeros(3)))}, "fc7 has no filters and biases"),
        ({"layers": changed("fc7", weights="none")}, "fc7 has no filters and biases"),
        (
            {"layers": changed("conv4", weights=files.cell(np.zeros((3, 3, 1, 1, 2)), np.zeros(2)))},
            "conv4 has filters of",
        ),
        ({"classes": ("a", "b")}, "it names 2 classes and fc8 has 7"),
        ({"mean": np.zeros((4, 4))}, "its averageImage has shape [4, 4]"),
        ({"mean": np.full(3, np.nan)}, "its mean colour is [nan, nan, nan]"),
    ],
)
def test_another_net_of_matconvnet(options, said, tmp_path):
    assert said in refused(mat(tmp_path, **options))


def test_a_mean_colour_of_any_shape(tmp_path):
    for shape in ((3,), (3, 1), (1, 1, 3)):
        read = read_oxford(mat(tmp_path, mean=np.reshape(files.MEAN_RGB, shape)))
        np.testing.assert_allclose(read.mean_rgb, files.MEAN_RGB)


def test_other_mats(tmp_path):
    file = tmp_path / "x.mat"
    for content, said in (
        (b"", "not a whole MatConvNet file ("),
        (b"text of no kind" * 20, "not a whole MatConvNet file ("),
        (
            b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF",
            "a MATLAB file of version 7.3; in MATLAB, load",
        ),
    ):
        file.write_bytes(content)
        assert said in refused(file)
    scipy.io.savemat(file, {"x": np.zeros(3)})
    assert "it has no variable 'layers'" in refused(file)
    scipy.io.savemat(file, {"layers": np.zeros((2, 2)), "meta": np.zeros(1)})
    assert "its fields are not MatConvNet's" in refused(file)
    scipy.io.savemat(file, {"layers": files.cell(*files.mat_layers(small(), old=False))})
    assert "its fields are not MatConvNet's: 'normalization'" in refused(file)


def test_a_missing_file_is_an_oserror(tmp_path):
    for name in ("a.mat", "a.caffemodel"):
        with pytest.raises(OSError, match="No such file"):
            read_oxford(tmp_path / name)


@pytest.mark.parametrize("form", FORMATS)
def test_whatever_becomes_of_a_file_one_line_says_it(form, tmp_path, request):
    """Cut anywhere, bytes changed: the file is read, or refused in one line; nothing else is raised."""
    options = {"compress": False} if form.startswith("mat") else {}
    file = write(tmp_path / "net", small(), form, **options)
    whole, rng, refusals = file.read_bytes(), random.Random(0), 0
    count = request.config.getoption("--mutations") // 5
    cuts = [whole[: rng.randrange(len(whole))] for _ in range(count // 4)]
    # Most bytes are weights: the beginning and the names in between are where structure lies.
    places = list(itertools.islice((i for i, b in enumerate(whole) if 96 < b < 123 or i < 300), 2000))
    for content in (*cuts, *(_with_changes(whole, rng, places) for _ in range(count))):
        file.write_bytes(content)
        try:
            read_oxford(file)
        except UserError as error:
            assert str(error).startswith(f"{file}: ") and "\n" not in str(error)
            refusals += 1
    assert refusals >= len(cuts)


def _with_changes(whole: bytes, rng, places) -> bytes:
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 4))):
        content[rng.choice(places)] = rng.randrange(256)
    return bytes(content)
