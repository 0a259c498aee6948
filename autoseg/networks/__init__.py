"""Networks, built from the topology that a plan gives."""
