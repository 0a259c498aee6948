"""autoseg: images and labels in, the best segmentation model out, without tuning."""

__version__ = "0.1.0"
