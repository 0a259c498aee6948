"""Pictures for people: a segmentation over its image, and the curves of a training run.

matplotlib is imported inside the functions and used without pyplot, so that no global state and no display is needed.
"""

from autoseg.figures.curves import draw_progress
from autoseg.figures.overlay import draw_overlay
from autoseg.figures.panels import Panel, draw_panels

__all__ = ["Panel", "draw_overlay", "draw_panels", "draw_progress"]
