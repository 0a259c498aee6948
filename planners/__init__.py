"""Planners: fingerprint and memory budget in, plan out.

Read in this order: ``unet`` and ``resenc`` (the planners: named sets of constants), ``preset`` (what the constants
mean), ``base`` (how a plan is put together), then the decisions themselves: ``spacing``, ``normalization``,
``topology``, ``budget``, ``resolutions``. ``reasons`` words them. The rules are nnU-Net's (Isensee et al. 2021,
https://doi.org/10.1038/s41592-020-01008-z; presets: https://arxiv.org/abs/2404.09556); where those break, the module
that deviates says so.
"""
