"""Rendered talking heads: a data set with known attributes, exact optical flow and no licence but ours."""
