"""Scenes, data sets, coarse maps, and batches for training."""
