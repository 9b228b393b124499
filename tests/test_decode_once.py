"""Evaluation batches: each image decoded once, and the same bytes as when each stack is read by itself."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from dct_sets import prepare_dct

from input_pipeline import codecs, pipeline, sampling, transforms
from input_pipeline.filling import FillingThreads
from input_pipeline.schema import UserError
from twostream_jax import mesh as meshes
from twostream_jax.drivers import scoring
from twostream_jax.drivers.prepare import prepare_records
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup


@pytest.fixture(scope="module")
def dct_config(tiny_config, tmp_path_factory):
    return prepare_dct(tiny_config, tmp_path_factory.mktemp("decode_once"))


@pytest.fixture(scope="module")
def both_ways(tiny_config, tmp_path_factory):
    """JPEG records of flow in both directions."""
    config = tiny_config.copy_and_resolve_references()
    config.data.records, config.flow.backward = str(tmp_path_factory.mktemp("both_ways") / "records"), True
    prepare_records(config)
    return config


KINDS = {
    "fields": {},
    "both directions": {"bidirectional": True, "stack": 4},
    "frames": {"streams": ("rgb",), "clip_frames": 4},
    "both streams": {"streams": ("rgb", "flow"), "clip_frames": 2},
}


def read(records, kind, *, threads=2, codec="jpeg"):
    """Return (chunks, batches, batches stack by stack) of 5 positions of each test video, one more of them padding."""
    planes = records.planes() if codec == "dct" else ()
    window = replace(transforms.Window(("flow",), 3, 0, 64, 64, planes=planes), **KINDS[kind])
    before, after = sampling.anchor_span(
        window.streams, window.stack, window.flow_offset, window.bidirectional, window.clip_frames
    )
    tested = [i for i, video in enumerate(records.videos) if video.subsets["1"] == "test"]
    table = sampling.VideoTable.of(records.videos, tested)
    chunks = sampling.eval_chunks(table, 12, before=before, after=after, count=5, multiple=4)
    batches = pipeline.eval_batches(records, table, chunks, window, reading=pipeline.Reading(threads))
    each = []
    for chunk in chunks:
        zeros = np.zeros(len(chunk["row"]), np.int64)
        where = (table.position[chunk["row"]], chunk["anchor"], zeros, zeros)
        each.append(transforms.read_windows([records], zeros, *where, window, FillingThreads(1)))
    return chunks, list(batches), each


@pytest.mark.parametrize("codec", ["jpeg", "dct"])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_each_stack_by_itself(both_ways, dct_config, kind, codec):
    records = Setup.of(both_ways if codec == "jpeg" else dct_config).only.records
    chunks, batches, each = read(records, kind, codec=codec)
    assert len(chunks) == 4 and sum((chunk["weight"] == 0).sum() for chunk in chunks) == 3
    for ours, theirs in zip(batches, each, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert ours[key].dtype == theirs[key].dtype and np.array_equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("threads", [0, 4])
def test_each_image_of_a_batch_is_decoded_once(both_ways, monkeypatch, threads):
    records, decoded = Setup.of(both_ways).only.records, []
    plain, colour = codecs.decode_grey, codecs.decode_frame
    monkeypatch.setattr(codecs, "decode_grey", lambda jpeg: decoded.append(jpeg) or plain(jpeg))
    monkeypatch.setattr(codecs, "decode_frame", lambda jpeg: decoded.append(jpeg) or colour(jpeg))
    for kind, images in {"fields": 2, "both directions": 2, "frames": 1}.items():
        decoded.clear()
        chunks, _, _ = read(records, kind, threads=threads)
        wanted, stacks = 0, 0
        window = replace(transforms.Window(("flow",), 3, 0, 64, 64), **KINDS[kind])
        for chunk in chunks:
            shown = set()
            for row, anchor in zip(chunk["row"], chunk["anchor"], strict=True):
                # Of videos of ten frames, which lack none of what these positions need.
                indices = range(anchor, anchor + window.clip_frames * (kind == "frames"))
                if kind != "frames":
                    forward = range(anchor, anchor + window.stack // (1 + window.bidirectional))
                    backward = range(anchor - 2, anchor) if window.bidirectional else ()
                    indices = [("flow", i) for i in forward] + [("flow_backward", i) for i in backward]
                shown |= {(row, i) for i in indices}
                stacks += len(indices)
            wanted += len(shown)
        # What follows in `read`, each stack by itself, decodes all of theirs.
        assert len(decoded) == images * (wanted + stacks) and wanted < 0.7 * stacks


def test_a_damaged_field_is_named(both_ways, monkeypatch):
    records = Setup.of(both_ways).only.records
    whole = records.field_jpegs
    monkeypatch.setattr(records, "field_jpegs", lambda *which: [(x[:40], y, mean) for x, y, mean in whole(*which)])
    with pytest.raises(UserError, match=r"flow-all.array_record-00000-of-00001, .*, record \d+: "):
        read(records, "fields")


def test_weights_count_as_repeats_do():
    """Sums in float64: m times a number and the number added m times differ by its last bits at most."""
    rng = np.random.default_rng(0)
    rows = np.repeat([0, 1, 2], [3, 1, 2])
    weight = np.float32([4, 20, 1, 25, 12, 13])
    outputs = {key: rng.random((6, 5), np.float32) for key in ("probs", "logits", "centre_probs")}
    labels = outputs["centre_probs"].argmax(axis=1)[[1, 3, 4]]
    once, each = scoring._Sums(labels, 25), scoring._Sums(labels, 25)
    padding = {key: np.concatenate([value, value[:1]]) for key, value in outputs.items()}
    once.add({"row": np.append(rows, 0), "weight": np.append(weight, np.float32(0))}, padding)
    times = weight.astype(int)
    each.add(
        {"row": np.repeat(rows, times), "weight": np.ones(75, np.float32)},
        {key: np.repeat(value, times, axis=0) for key, value in outputs.items()},
    )
    for name in ("probs", "logits", "centre_probs"):
        np.testing.assert_allclose(getattr(once.means(), name), getattr(each.means(), name), rtol=1e-14)
    assert np.array_equal(once.means().clip_accuracy, each.means().clip_accuracy)
    # Of the first video's stacks, the one that counts 20 times is right.
    assert once.means().clip_accuracy[0] == pytest.approx(20 / 25) and once.means().clip_accuracy[1] == 1


@pytest.mark.slow
def test_videos_with_fewer_positions_than_asked_for(config, monkeypatch):
    """25 positions of ten frames: 7 are computed, progress counts these, and the scores are those of all 25."""
    setup, mesh = Setup.of(config), meshes.make_mesh(jax.devices()[:1])
    model, rng = setup.model({"t": 9}), np.random.default_rng(0)
    abstract = model.init(jax.random.key(0), {"flow": np.zeros((1, 1, 41, 41, 6), np.float32)}, train=False)["params"]
    params = jax.tree.map(lambda a: a + 0.02 * rng.normal(size=a.shape).astype(np.float32), abstract)
    table, progress, scorer = setup.only.table("test"), [], Scorer(setup, model, mesh, crops=1)
    found = scorer(params, setup.only, table, table.label, "t", 25, lambda *at: progress.append(at))
    assert progress[0] == (0, 63) and progress[-1] == (63, 63) and progress == sorted(progress)
    # Seven positions are each anchor once: of those, by their multiplicity.
    times = np.unique(sampling.eval_positions(10, 0, 3, 25), return_counts=True)[1]
    single = []
    for anchor in range(7):
        monkeypatch.setattr(sampling, "eval_positions", lambda *_, anchor=anchor: np.asarray([anchor]))
        single.append(scorer(params, setup.only, table, table.label, "t", 1, lambda *_: None))
    for name in ("probs", "logits", "centre_probs", "clip_accuracy"):
        mean = np.average([getattr(scores, name) for scores in single], axis=0, weights=times)
        # Float32 in batches of other sizes.
        np.testing.assert_allclose(getattr(found, name), mean, atol=1e-5)
