"""Trainers: a plan, preprocessed cases and settings in, checkpoints out."""
