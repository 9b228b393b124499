"""Both streams on 192 surveillance clips of two classes, fight and noFight; five folds over whole source videos.

Expected: see README.md; crude flow statistics reach 68 % on the given split, chance is 50 %.
Cost: under an hour for all five folds on two CPU cores.
Command: python run.py --mode=demo --config=configs/fight.py --config.data.split_file=PATH/split.csv
"""

from configs import base


def get_config():
    """Return a quarter-width net on 112 px crops, every fold in turn."""
    config = base.get_config()
    config.data.kind = "csv"
    config.data.split_file = "data/fight/split.csv"
    config.data.short_side = 128  # px
    config.data.folds = 5
    config.data.split = 0  # every fold in turn
    config.flow.method = "dis"
    config.input.crop = 112  # px
    config.model.width = 1 / 4
    config.model.dropout = 0.5
    config.optim.drops = (450,)
    config.train.batch_size = 32
    config.train.steps = 600
    config.train.checkpoint_every = 300
    config.eval.frames = 10  # the clips are short, and a CPU is to do it: the protocol is 10x10
    return config
