"""What mode=bench measures: the temporal net of configs/temporal.py, at a batch that a CPU can do.

Expected: docs/benchmarks.md and docs/flow.md. Cost: half an hour for all on two CPU cores.
Command: python run.py --mode=bench --bench=input,step,flow,eval,end2end
On an accelerator: --config.train.batch_size=256 --config.train.dtype=bfloat16
"""

from configs import base


def get_config():
    """Return the paper's temporal net with batches of eight."""
    config = base.get_config()
    config.train.batch_size = 8
    config.eval.frames = 10  # positions a video in --bench=eval
    return config
