"""Measurements between minima: paths and planes, curvature, similarity, alignment."""
