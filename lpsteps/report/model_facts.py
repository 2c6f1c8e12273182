"""What a table says of the dense model itself: where it comes from and its sizes."""

from __future__ import annotations

from typing import NamedTuple

from lpsteps.report.evidence import ModelFacts
from lpsteps.report.formats import format_count, format_revision

# The steps that fetch and convert a model fail where the files have other sizes.
_CHECKED = "stated in the config, and checked against the files that are fetched"


class Fact(NamedTuple):
    """A fact of a model: exact, as displayed, and what else to say of it."""

    value: str | int
    text: str
    note: str = ""


def model_fact(kind: str, facts: ModelFacts) -> Fact | None:
    """Return what a column of facts says of a model.

    Args:
        kind: One of :data:`lpsteps.report.definitions.MODEL_FACTS`.
        facts: Of the model.

    Returns:
        None where there is no such fact: a folder has no revision.
    """
    match kind:
        case "model_source":
            return Fact(facts.source, facts.source)
        case "model_revision":
            if facts.revision is None:
                return None
            return Fact(facts.revision, format_revision(facts.revision))
        case "model_layers":
            number = facts.n_layers
        case "model_width":
            number = facts.hidden_size
        case "model_parameters":
            number = facts.parameters
        case _:
            raise ValueError(f"{kind}: not a fact of a model")
    return Fact(number, format_count(number), _CHECKED)
