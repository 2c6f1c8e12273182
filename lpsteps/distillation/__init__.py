"""Distilling a dense model into the patch of a pruned one."""
