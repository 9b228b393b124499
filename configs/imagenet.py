"""Pre-training of the spatial stream on ILSVRC-2012 (2014 paper, Sect. 5, "Pre-training on ImageNet").

Expected: 13.5 % top-5 error on the validation images, ten crops: `top5` of eval.json is 1 less that.
Cost: 450,000 steps of 256 images, 2.47 TFLOP a step; --mode=prepare --dry_run tells that of the records.
Command: python run.py --config=configs/imagenet.py
Records first: python run.py --mode=prepare --config=configs/imagenet.py
Use: configs/spatial_finetuned.py --config.init.from=runs/imagenet
"""

from configs import base


def get_config():
    """Return the spatial net on single images: class folders train/<class>/ and val/<class>/, scored as 1x10.

    The paper gives no schedule for it. Steps and drops are those of Caffe's reference net, whose code the authors began
    with; so is the dropout of one half.
    """
    config = base.get_config()
    config.data.kind = "folder"
    config.data.videos = "data/ILSVRC2012"  # holds train/ and val/, a folder a class in each
    config.data.records = "records/imagenet"
    config.flow.method = "none"
    config.model.name = "cnn_m_spatial"
    config.model.dropout = 0.5
    config.input.streams = ("rgb",)
    config.optim.drops = (100_000, 200_000, 300_000, 400_000)
    config.train.steps = 450_000
    config.train.checkpoint_every = 5_000
    config.eval.frames = 1  # an image has one
    return config
