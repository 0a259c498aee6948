"""How good a segmentation is, and which combination of models is best."""
