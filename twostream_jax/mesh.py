"""The mesh of devices, the shardings on it, and the start of several processes."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from input_pipeline.schema import UserError, first_line


def make_mesh(devices=None) -> Mesh:
    """Return the one-axis mesh ('data') over `devices` (None: every device of every process), ordered by (process, id).

    Process p then holds the p-th contiguous share of a batch's rows. The axis is Auto: under jax's default Explicit axes
    linen's Dropout and vmapped augmentation fail.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded_rows(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits an array's first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Return the global batch on the mesh, of which each process brings its own rows; the copy runs asynchronously."""
    sharding = sharded_rows(mesh)
    # This is the copy that is asked for by name; jax's guard takes it for an accident when there are several processes.
    with jax.transfer_guard_host_to_device("allow"):
        return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def start_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join this process to the run of several processes; call before any device is touched.

    With an empty `coordinator`, jax finds the others by itself where it can (TPU pods, SLURM).
    """
    try:
        if coordinator:
            jax.distributed.initialize(coordinator, num_processes, process_id)
        else:
            jax.distributed.initialize()
    # Whatever jax's services raise about an address, a port or a number of processes.
    except Exception as error:
        raise UserError(
            f"--coordinator={coordinator} --num_processes={num_processes} --process_id={process_id}: {first_line(error)}; "
            "give HOST:PORT of process 0, the same number to all, and each its own id from 0"
        ) from error
