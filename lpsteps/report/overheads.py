"""What a table says of the cost of a patch beside other operations, and of stored targets."""

from __future__ import annotations

from typing import NamedTuple, cast

from lpsteps.overheads.measurements import (
    Conditions,
    OperationFacts,
    OperationName,
    Overheads,
    StorageFacts,
    StorageName,
)
from lpsteps.report.formats import THIN_SPACE, format_bytes, format_count, format_digits
from lpsteps.wording import counted

_MACHINE = "a time of another machine, batch and length than the paper's"
UNJUDGED = {
    "overhead_prefill_ratio": _MACHINE,
    "overhead_decode_ratio": _MACHINE,
    "storage_ratio": "the paper says 'up to'",
}
"""Kinds of columns whose values are not judged beside a printed one, with the reason."""


class OverheadFact(NamedTuple):
    """A number of ``overheads.json``: exact, as displayed, where it stands, and what to say."""

    value: float | int
    text: str
    pointer: str
    note: str


def overhead_fact(kind: str, name: str, overheads: Overheads) -> OverheadFact | str:
    """Return what a column of costs says of an operation or of a way to store targets.

    Args:
        kind: One of :data:`lpsteps.report.definitions.OVERHEADS`.
        name: Key of the row in the file.
        overheads: Content of the file.

    Returns:
        The number, or why there is none.
    """
    if kind.startswith("storage_"):
        stored = overheads.storage.get(cast(StorageName, name))
        if stored is None:
            return "this run stores no targets: it makes them on the way"
        return _storage_fact(kind, f"/storage/{name}", stored)
    operation = overheads.operations.get(cast(OperationName, name))
    if operation is None:
        return "this operation was not measured"
    return _operation_fact(kind, f"/operations/{name}", operation, overheads.conditions)


def _storage_fact(kind: str, pointer: str, facts: StorageFacts) -> OverheadFact | str:
    if kind == "storage_per_token":
        size = facts.bytes_per_token
        return OverheadFact(
            size, format_bytes(round(size)), f"{pointer}/bytes_per_token", facts.basis
        )
    if kind == "storage_ratio":
        times = facts.times_smaller
        return OverheadFact(times, _times(times), f"{pointer}/times_smaller", facts.basis)
    if facts.bytes is None:
        return "the profile does not say how many tokens of text it trains on"
    tokens = format_count(round(facts.bytes / facts.bytes_per_token))
    note = f"{facts.basis}; {tokens} tokens"
    return OverheadFact(facts.bytes, format_bytes(facts.bytes), f"{pointer}/bytes", note)


def _operation_fact(
    kind: str, pointer: str, facts: OperationFacts, conditions: Conditions
) -> OverheadFact:
    match kind:
        case "overhead_parameters":
            text = format_count(facts.parameters)
            return OverheadFact(facts.parameters, text, f"{pointer}/parameters", "counted")
        case "overhead_flops":
            text = format_count(facts.flops)
            return OverheadFact(facts.flops, text, f"{pointer}/flops", "counted from the shapes")
        case "overhead_size_ratio":
            ratio = facts.relative.parameters
            return OverheadFact(ratio, _times(ratio), f"{pointer}/relative/parameters", "counted")
        case "overhead_prefill":
            spread, phase, place = facts.prefill_ms, "prefill", "prefill_ms"
        case "overhead_decode":
            spread, phase, place = facts.decode_ms, "decode", "decode_ms"
        case "overhead_prefill_ratio":
            spread, phase, place = facts.relative.prefill, "prefill", "relative/prefill"
        case _:  # overhead_decode_ratio
            spread, phase, place = facts.relative.decode, "decode", "relative/decode"
    is_ratio = kind.endswith("_ratio")
    quartiles = f"quartiles {format_digits(spread.low)} and {format_digits(spread.high)}"
    return OverheadFact(
        spread.median,
        _times(spread.median) if is_ratio else format_digits(spread.median),
        f"{pointer}/{place}/median",
        f"median of {conditions.repetitions[phase]} turns, {quartiles}; {_setting(conditions)}",
    )


def _times(ratio: float) -> str:
    return f"{format_digits(ratio)}{THIN_SPACE}\N{MULTIPLICATION SIGN}"


def _setting(conditions: Conditions) -> str:
    machine = conditions.machine
    on_gpu = conditions.device == "cuda"
    where = machine.get("gpu") if on_gpu else machine.get("processor")
    threads = "" if on_gpu else f", {counted(conditions.threads, 'thread')}"
    windows = counted(conditions.batch, "window")
    return (
        f"{windows} of {format_count(conditions.length)} tokens, {conditions.dtype}, "
        f"{where}{threads}, layer {conditions.layer}"
    )
