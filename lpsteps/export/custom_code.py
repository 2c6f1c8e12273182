"""The model class that a checkpoint brings along when the stock one cannot compute it.

It is written out for LLaMA, in `modeling_layer_pruned.py` and `modeling_width_pruned.py`. For
another family the lines that name base classes and the places of their parts are written anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from lpsteps.errors import LpstepsError
from lpsteps.models.layers import decoder_of

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

CustomForm = Literal["layer_pruned", "width_pruned"]

_CLASSES: Mapping[CustomForm, str] = {"layer_pruned": "LayerPruned", "width_pruned": "WidthPruned"}


def module_path_of(model: PreTrainedModel, part: Any) -> str:
    """Return the dotted name of a module of a model."""
    path: str = next(name for name, module in model.named_modules() if module is part)
    return path


def modeling_source(template: str, model: PreTrainedModel) -> str:
    """Write the source of a model class for the family of a model.

    Args:
        template: The source for LLaMA.
        model: A model of the family.

    Raises:
        LpstepsError: The family's own class is not one of transformers.
    """
    if not type(model).__module__.startswith("transformers.models."):
        raise LpstepsError(
            f"model_type: {model.config.model_type}: runs code of its own, so a repair that needs "
            "a module of its own cannot be exported; choose one that folds into the weights, such "
            "as procrustes, or a copy of the model in a layout that transformers has"
        )
    decoder = decoder_of(model)
    lines = {
        "from transformers import LlamaConfig as BaseConfig": (
            f"from transformers import {type(model.config).__name__} as BaseConfig"
        ),
        "from transformers import LlamaForCausalLM as BaseForCausalLM": (
            f"from transformers import {type(model).__name__} as BaseForCausalLM"
        ),
        'LAYERS = "model.layers"': f'LAYERS = "{module_path_of(model, decoder.layers)}"',
        'FINAL_NORM = "model.norm"': f'FINAL_NORM = "{module_path_of(model, decoder.norm)}"',
    }
    return "".join(f"{lines.get(line, line)}\n" for line in template.splitlines())


def write_custom_code(folder: Path, form: CustomForm, source: str) -> None:
    """Write the source of a model class into a checkpoint's folder."""
    (folder / f"modeling_{form}.py").write_text(source, encoding="utf-8")


def custom_config(form: CustomForm, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint's `config.json` says in place of the stock one's entries.

    The `model_type` is a new one: under the stock one a program that does not trust the code would
    load the weights without the repair, and say nothing.

    Args:
        form: Which class.
        entries: Its own entry of the config.
    """
    module, name = f"modeling_{form}", _CLASSES[form]
    return {
        "model_type": form,
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.{name}Config",
            "AutoModelForCausalLM": f"{module}.{name}ForCausalLM",
        },
        **entries,
    }
