"""Planners: fingerprint and budget in, plan out."""
