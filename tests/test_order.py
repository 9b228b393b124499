"""The order of samples and their augmentations hang on nothing but the seed and the step: batches byte for byte."""

import jax
import numpy as np
import pytest

from input_pipeline import pipeline, sampling
from twostream_jax import mesh as meshes
from twostream_jax.drivers.scoring import Scorer
from twostream_jax.drivers.setup import Setup

STEPS = 5


def train_batches(setup, **reading):
    section = setup.config.input
    draw = pipeline.DrawBatch((setup.only.table("train"),), 16, *setup.span, section.crop, True, 7)
    options = pipeline.Reading(**{"num_threads": 2, **reading})
    window = setup.window(section.crop)
    return list(
        pipeline.train_batches([setup.only.records], draw, window, start_step=2, steps=2 + STEPS, reading=options)
    )


def eval_batches(setup, **reading):
    table = setup.only.table("test")
    chunks = sampling.eval_chunks(table, 8, before=setup.span[0], after=setup.span[1], count=4)
    options = pipeline.Reading(**{"num_threads": 2, **reading})
    return list(pipeline.eval_batches(setup.only.records, table, chunks, setup.window(1), reading=options))


def on_devices(batches, count):
    """Return the batches as they lie on this many devices, each device's rows after the other's."""
    mesh = meshes.make_mesh(jax.devices()[:count])
    found = []
    for batch in batches:
        placed = meshes.put_batch(batch, mesh)
        rows = {key: sorted(value.addressable_shards, key=lambda s: s.device.id) for key, value in placed.items()}
        assert all(len(shards) == count for shards in rows.values())
        found.append({key: np.concatenate([np.asarray(s.data) for s in shards]) for key, shards in rows.items()})
    return found


def of_processes(read, setup, count):
    """Return the batches of this many processes, put together row by row."""
    parts = [read(setup, process_index=p, process_count=count) for p in range(count)]
    return [
        {key: np.concatenate([batch[key] for batch in same_step]) for key in same_step[0]}
        for same_step in zip(*parts, strict=True)
    ]


@pytest.fixture(scope="module")
def setup(tiny_config):
    return Setup.of(tiny_config)


@pytest.fixture(scope="module")
def plain(setup):
    """The batches of train and eval as the simplest reading gives them: no thread, no process, no device."""
    return {"train": train_batches(setup, num_threads=0), "eval": eval_batches(setup, num_threads=0)}


WAYS = {
    "2 threads": lambda read, setup: read(setup, num_threads=2),
    "16 threads": lambda read, setup: read(setup, num_threads=16),
    "2 workers": lambda read, setup: read(setup, num_workers=2),
    "1 device": lambda read, setup: on_devices(read(setup), 1),
    "2 devices": lambda read, setup: on_devices(read(setup), 2),
    "8 devices": lambda read, setup: on_devices(read(setup), 8),
    "2 processes": lambda read, setup: of_processes(read, setup, 2),
    "2 processes, no thread": lambda read, setup: of_processes(
        lambda setup, **options: read(setup, num_threads=0, **options), setup, 2
    ),
}


@pytest.mark.parametrize("subset", ["train", "eval"])
@pytest.mark.parametrize("way", WAYS)
def test_batches_are_the_same_bytes(setup, plain, subset, way):
    found = WAYS[way](train_batches if subset == "train" else eval_batches, setup)
    assert len(found) == len(plain[subset]) == 5
    for ours, theirs in zip(found, plain[subset], strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert (ours[key].dtype, ours[key].shape) == (theirs[key].dtype, theirs[key].shape)
            assert ours[key].tobytes() == theirs[key].tobytes(), key


def test_batches_differ_where_they_should(plain):
    """Else the test above could not fail."""
    first, second = plain["train"][:2]
    assert any(first[key].tobytes() != second[key].tobytes() for key in ("flow", "flip", "label"))


def test_scores_are_the_same(config):
    """Of one device to the bit, however it is read; of more devices up to the order of sums."""
    config.eval.batch_size = 8
    scores = {}
    for threads, devices in ((0, 1), (16, 1), (2, 8)):
        config.data.num_threads = threads
        setup = Setup.of(config)
        table, mesh = setup.only.table("test"), meshes.make_mesh(jax.devices()[:devices])
        model = setup.model({"t": 9})
        params = model.init(jax.random.key(0), {"flow": np.zeros((1, 1, 41, 41, 6), np.float32)}, train=False)["params"]
        params = jax.device_put(params, meshes.replicated(mesh))
        scorer = Scorer(setup, model, mesh, crops=1)
        scores[threads] = scorer(params, setup.only, table, table.label, "t", 4, lambda *_: None)
    for name in ("probs", "logits", "centre_probs", "clip_accuracy"):
        one, again, eight = (getattr(scores[threads], name) for threads in (0, 16, 2))
        assert np.array_equal(one, again)
        np.testing.assert_allclose(eight, one, atol=1e-6)
