"""Ratios of speed and memory, measured side by side; never part of the tests."""
