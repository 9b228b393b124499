"""The tables of the 2014 paper at toy size, on embedded videos: this is the set in UCF-101's place.

Six classes of three colours and four motions under a panning camera. One frame tells at most three of six, motion four;
drift, loop and shake look alike in one flow field; without mean subtraction the pan hides them.
Expected: L = 10 above L = 1, mean subtraction on far above off, fusion above either stream.
Cost: minutes a table on two CPU cores.
Command: python run.py --mode=table --table=2014-1b --config.table.scale=tiny
"""

from configs import base


def get_config():
    """Return the synthetic set in UCF-101's place, in three folds, with the two sets that stand for the others."""
    config = base.get_config()
    config.data.kind = "synthetic"
    config.data.motions = ("swing", "drift", "loop", "shake")
    config.data.camera_pan_px = 4.0
    config.data.classes = ("red-swing", "red-drift", "green-loop", "green-swing", "blue-shake", "blue-drift")
    config.data.short_side = 64  # px
    config.data.folds = 3
    config.flow.method = "dis"
    config.flow.bound_px = 12.0
    config.input.crop = 56  # px
    config.table.scale = "tiny"
    config.table.hmdb51 = "configs/table_tiny_hmdb51.py"
    config.table.imagenet = "configs/table_tiny_imagenet.py"
    return config
