"""The whole path on the embedded synthetic videos: nine classes, three colours times three motions of a disc.

Expected: either stream alone near one class in three, both fused above 90 % (25x10).
Cost: under five minutes on two CPU cores. Command: python run.py
"""

from configs import base


def get_config():
    """Return the demo's config: the paper's net at an eighth of its width, on 64 px videos."""
    config = base.get_config()
    config.data.kind = "synthetic"
    config.data.short_side = 64  # px
    config.flow.method = "dis"
    config.flow.bound_px = 8.0
    config.input.stack = 5
    config.input.crop = 56  # px
    config.model.width = 1 / 8
    config.model.dropout = 0.5
    config.optim.learning_rate = 1e-2
    config.optim.drops = (240,)
    config.train.batch_size = 64
    config.train.steps = 300
    config.train.checkpoint_every = 100
    return config
