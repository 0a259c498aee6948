"""Random variations of training patches."""
