"""What a run left, read for comparison."""

import jax
import numpy as np
from tensorboardX.proto.event_pb2 import Event

from twostream_jax import mesh as meshes
from twostream_jax import steps
from twostream_jax.checkpoint import Checkpoints
from twostream_jax.drivers.setup import Setup
from twostream_jax.optim import make_optimizer
from twostream_jax.run_log import read_metrics

# What is measured by the clock, and differs from run to run.
TIMES = ("samples_per_second", "input_wait")


def state_of(config, workdir, step):
    """Return the arrays of a checkpoint."""
    setup = Setup.of(config)
    mesh = meshes.make_mesh()
    create = steps.jit_init(
        mesh,
        model=setup.model(setup.heads),
        optimizer=make_optimizer(config.optim),
        inputs=setup.inputs,
    )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore(step, jax.eval_shape(create, jax.random.key(0)), mesh)


def same_arrays(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairs)


def numbers(workdir):
    """Return the lines of a run's metrics without what the clock says."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read_metrics(workdir)]


def events(workdir):
    """Return all events of all of a run's event files, parsed by hand."""
    found = []
    for file in sorted((workdir / "tensorboard").glob("*tfevents*")):
        data, at = file.read_bytes(), 0
        # A record is a length, its checksum, that many bytes, and their checksum.
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            found.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    return found


def scalars(workdir):
    """Return (step, tag, value) of every number in a run's event files, in their order."""
    return [(e.step, value.tag, value.simple_value) for e in events(workdir) for value in e.summary.value]
