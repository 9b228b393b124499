"""Both streams on four Weizmann actions (wave1, wave2, jack, bend): 28 clips of 64 px, actors 5 and 6 are the test.

Expected: at least 7 of the 8 test clips, temporal and fused (25x10). Cost: a few minutes on two CPU cores.
Command: python run.py --mode=demo --config=configs/weizmann4.py --config.data.split_file=PATH/split.csv
"""

from configs import base


def get_config():
    """Return a quarter-width net on 56 px crops; motion alone tells these classes, all filmed before one wall."""
    config = base.get_config()
    config.data.kind = "csv"
    config.data.split_file = "data/weizmann4/split.csv"
    config.data.group_column = "actor"
    config.data.short_side = 64  # px, as filmed
    config.flow.method = "dis"
    config.flow.bound_px = 4.0  # motions at 64 px are small; a tight bound spends the levels on them
    config.input.crop = 56  # px
    config.model.width = 1 / 4
    config.model.dropout = 0.5
    config.optim.drops = (300,)
    config.train.batch_size = 32
    config.train.steps = 400
    config.train.checkpoint_every = 200
    return config
