"""Both streams on six UCF-101 classes of which a few clips are at hand, by the official lists of split 1.

Expected: see README.md; with 16 training clips, little more than chance (16.7 %) is to be had from scratch.
Cost: about half an hour on two CPU cores.
Command: python run.py --mode=demo --config=configs/mini6.py
"""

from configs import base


def get_config():
    """Return a quarter-width net on 112 px crops; listed videos that are absent are passed over."""
    config = base.get_config()
    config.data.kind = "ucf101"
    config.data.videos = "data/UCF-101"
    config.data.splits = "data/ucfTrainTestlist"
    config.data.classes = ("Biking", "BoxingSpeedBag", "Diving", "JavelinThrow", "LongJump", "PizzaTossing")
    config.data.allow_missing = True
    config.data.short_side = 128  # px
    config.flow.method = "dis"
    config.input.crop = 112  # px
    config.model.width = 1 / 4
    config.model.dropout = 0.5
    config.optim.drops = (300,)
    config.train.batch_size = 32
    config.train.steps = 400
    config.train.checkpoint_every = 200
    return config
