"""The tables of the 2014 paper (Sect. 6) at full size: UCF-101, with HMDB-51 and ImageNet weights where rows need them.

Expected: the paper's numbers, which stand beside ours in table.md.
Cost: a training of the temporal net for most rows, 80,000 steps of 256 stacks each; printed before anything is trained.
Command: python run.py --mode=table --config=configs/table.py --table=2014-1b
"""

from configs import base


def get_config():
    """Return the data sets of the paper; the records are prepared in the table's folder, with backward flow."""
    config = base.get_config()
    config.data.kind = "ucf101"
    config.data.videos = "data/UCF-101"
    config.data.splits = "data/ucfTrainTestlist"
    config.table.hmdb51 = "configs/temporal_hmdb51.py"
    config.table.imagenet = "weights/VGG_CNN_M_2048.caffemodel"  # Oxford's, or configs/imagenet.py to train them
    return config
