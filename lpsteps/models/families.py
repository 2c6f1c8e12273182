"""Which models can be pruned, told from their `config.json` alone.

A decoder-only language model is one stack of layers, each of which adds to the residual stream,
between an embedding and a final norm with a language-model head behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lpsteps.errors import LpstepsError

# Why a rotation of the stream cannot be folded into the weights.
_CENTRED = "its LayerNorm subtracts the mean over the channels"
_NORMED = "norms with channel weights follow its branches"
NOT_WORKED_OUT = "this has not been worked out"


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its parts, and how these read the stream and write to it.

    Attributes:
        backbone: Path of the backbone in the model.
        layers: Name of the layers in the backbone.
        norm: Name of the final norm in the backbone.
        native: Whether transformers has the family; else its code comes with the model.
        norms_branches: Whether a norm follows the attention and the MLP on their way to the stream,
            so that the scale of their output projections has no effect.
        offset_norms: Whether norms multiply by one plus the stored weight.
        bare_inputs: Whether the branches read the stream itself, without a norm in front.
        rotation_obstacle: Why a rotation of the stream cannot be folded into the weights; None
            where it can.
    """

    backbone: str = "model"
    layers: str = "layers"
    norm: str = "norm"
    native: bool = True
    norms_branches: bool = False
    offset_norms: bool = False
    bare_inputs: bool = False
    rotation_obstacle: str | None = None


LAYOUTS: Mapping[str, Layout] = {
    "baichuan": Layout(native=False, rotation_obstacle=NOT_WORKED_OUT),
    "gemma2": Layout(norms_branches=True, offset_norms=True, rotation_obstacle=_NORMED),
    "gemma3_text": Layout(norms_branches=True, offset_norms=True, rotation_obstacle=_NORMED),
    "gpt_neox": Layout(backbone="gpt_neox", norm="final_layer_norm", rotation_obstacle=_CENTRED),
    "llama": Layout(),
    "mistral": Layout(),
    "olmo2": Layout(norms_branches=True, bare_inputs=True, rotation_obstacle=_NORMED),
    "opt": Layout(backbone="model.decoder", norm="final_layer_norm", rotation_obstacle=_CENTRED),
    "phi3": Layout(),
    "qwen2": Layout(),
    "qwen3": Layout(),
}
"""The families that the tests run, by `config.model_type`; how their layers write to the stream is
known as well (:func:`lpsteps.models.layers.branch_outputs`).

Another family needs no line here when it keeps its parts as one of :data:`USUAL_LAYOUTS`.
"""

USUAL_LAYOUTS = (
    Layout(),
    Layout(norm="final_layernorm"),
    Layout(backbone="transformer", layers="h", norm="ln_f"),
    Layout(backbone="transformer", layers="blocks", norm="norm_f"),
)
"""Where further families keep their parts, in the order in which they are looked for."""


def is_tested(family: str) -> bool:
    """Return whether the tests run a family by the code of it that transformers has.

    Args:
        family: Its `config.model_type`.
    """
    layout = LAYOUTS.get(family)
    return layout is not None and layout.native


def unknown_projections(family: str | None) -> str | None:
    """Return that a family's output projections are not known, or None where they are.

    Args:
        family: `model_type` of its `config.json`; of None nothing is said.
    """
    if family is None or family in LAYOUTS:
        return None
    return f"needs a family whose output projections are known, and {family} is none"


def fixed_projections(family: str | None) -> str | None:
    """Return why no repair can move a family's output projections, or None where one can.

    Args:
        family: `model_type` of its `config.json`; of None nothing is said.
    """
    if family is not None and LAYOUTS.get(family, Layout()).norms_branches:
        return f"moves output projections, and in {family} a norm follows each"
    return unknown_projections(family)


# Names under which configs give sizes; the first is the usual one.
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_SIZES = {
    "n_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "vocabulary": ("vocab_size",),
}


def model_size(config: Mapping[str, Any], size: str, where: str) -> int:
    """Return a size of a model.

    Args:
        config: Content of its `config.json`.
        size: `n_layers`, `hidden_size` or `vocabulary`.
        where: The file, for the message.

    Raises:
        LpstepsError: It is missing or not an integer.
    """
    names = _SIZES[size]
    value = next((config[name] for name in names if name in config), None)
    if not isinstance(value, int):
        raise LpstepsError(f"{where}: {names[0]}: {value}: must be an integer")
    return value


def check_family(config: Mapping[str, Any], where: str) -> None:
    """Check that a model is a decoder-only language model with plain weights.

    Args:
        config: Content of its `config.json`.
        where: The file, for the message.

    Raises:
        LpstepsError: It is something else; the message names what is missing.
    """
    obstacle = _obstacle(config)
    if obstacle is not None:
        family = config.get("model_type")
        raise LpstepsError(f"{where}: model_type: {family}: cannot be pruned here: {obstacle}")


def _obstacle(config: Mapping[str, Any]) -> str | None:
    """Return what keeps a model from being pruned, None where nothing does."""
    if not config.get("model_type"):
        return "it names no family of transformers"
    if config.get("is_encoder_decoder"):
        return "an encoder and a decoder; it has no single stack of decoder layers"
    if "text_config" in config:
        return (
            "text is one of several kinds of input; save its language model alone, as a "
            "ForCausalLM class of transformers, and name that folder"
        )
    if "quantization_config" in config:
        return "its weights are quantised; take the repository with the original ones"
    if config.get("hidden_size_per_layer_input"):
        return (
            "hidden_size_per_layer_input: each token has an embedding for each layer, as in Gemma "
            "3n and 4, which would go to other layers once some are removed"
        )
    if config.get("num_kv_shared_layers"):
        return (
            "num_kv_shared_layers: its last layers read keys and values of earlier ones, as in "
            "Gemma 3n and 4, which may be removed"
        )
    if config["model_type"] in LAYOUTS:
        return None
    if not any(name in config for name in _HEADS):
        return "it has no attention heads, as state-space models; layers with attention are needed"
    architectures = config.get("architectures") or []
    if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
        found = ", ".join(architectures) or "none"
        return (
            f"it has no causal language-model head (architectures: {found}); a ...ForCausalLM "
            "class is needed"
        )
    return None


def needs_code(config: Mapping[str, Any]) -> bool:
    """Return whether a model runs Python code that it brings along.

    One of a tested family that transformers has runs that code, whatever else its folder holds.

    Args:
        config: Content of its `config.json`.
    """
    return "auto_map" in config and not is_tested(str(config.get("model_type")))


def check_pinned_code(config: Mapping[str, Any], where: str) -> None:
    """Check that the code of a model or of a tokenizer is in its own folder.

    Args:
        config: Content of its `config.json` or `tokenizer_config.json`.
        where: The file, for the message.

    Raises:
        LpstepsError: It is in another repository.
    """
    elsewhere = [name for name in _flat([config.get("auto_map")]) if "--" in name]
    if elsewhere:
        raise LpstepsError(
            f"{where}: auto_map: {elsewhere[0]}: code of another repository, which no revision "
            "pins; copy its Python files into the model's folder and name them here without `--`"
        )


def check_remote_code(config: Mapping[str, Any], where: str, trusted: bool) -> None:
    """Check that a model needs no code of its own, or may run it.

    Args:
        config: Content of its `config.json`.
        where: The file, for the message.
        trusted: Whether the model's entry says `trust_remote_code: true`.

    Raises:
        LpstepsError: It asks for code that must not run.
    """
    needed = needs_code(config)
    if needed or trusted:
        check_pinned_code(config, where)
    if needed and not trusted:
        raise LpstepsError(
            f"{where}: auto_map: the model brings Python code that would have to run; read it, and "
            "write `trust_remote_code: true` in the model's entry if you trust it"
        )


def _flat(values: Iterable[Any]) -> Iterator[str]:
    """Yield the names in an `auto_map`, some of which stand in lists with nulls."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif value is not None:
            yield from _flat(value.values() if isinstance(value, Mapping) else value)
