"""The embedded set in ImageNet's place: a spatial net learns the colours on classes that neither other set has.

Expected: see table.md. Cost: a minute on two CPU cores.
Command: python run.py --mode=table --table=2014-1a --config.table.scale=tiny
"""

from configs import table_tiny


def get_config():
    """Return three classes of three colours, whose motion no frame shows; no flow."""
    config = table_tiny.get_config()
    config.data.seed = 2
    config.data.motions = ("drift", "swing", "shake")
    config.data.classes = ("red-shake", "green-drift", "blue-swing")
    config.data.folds = 0
    config.flow.method = "none"
    config.model.name = "cnn_m_spatial"
    config.model.dropout = 0.5  # as in configs/imagenet.py
    config.input.streams = ("rgb",)
    return config
