"""What happens to a segmentation after the network."""
