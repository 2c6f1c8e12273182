"""The layers of a plan as a mergekit configuration."""

from __future__ import annotations

import yaml

from lpsteps.plan import Plan

_HEADER = """\
# The pruning without its repair: `mergekit-yaml` makes the model with these layers as they were,
# unless its config says what each layer is by its number (`layer_types`): mergekit keeps that.
"""


def mergekit_config(plan: Plan, model: str, dtype: str) -> str:
    """Return a mergekit configuration of passthrough slices.

    Args:
        plan: Which layers are removed.
        model: Repository or folder of the dense model.
        dtype: Dtype to write, as torch names it.
    """
    stops = [start for start, _ in plan.gaps] + [plan.n_layers]
    starts = [0] + [end for _, end in plan.gaps]
    slices = [
        {"sources": [{"model": model, "layer_range": [start, stop]}]}
        for start, stop in zip(starts, stops, strict=True)
        if start < stop
    ]
    content = {"slices": slices, "merge_method": "passthrough", "dtype": dtype}
    return _HEADER + yaml.safe_dump(content, sort_keys=False)
