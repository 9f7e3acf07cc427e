"""Measurements between minima: linear paths, rise and barriers."""
