"""The devices, before anything that asks torch for one."""

import placed_tensors  # noqa: F401
