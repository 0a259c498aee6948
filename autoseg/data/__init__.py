"""Batches for training: which patch of which case, loaded in time."""
