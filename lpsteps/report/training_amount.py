"""On how much text a row was distilled, beside the paper's row."""

from __future__ import annotations

from dataclasses import dataclass

from lpsteps.report.formats import format_count


@dataclass(frozen=True)
class TrainingAmount:
    """How a row was distilled: in words, and on how many tokens here and in the paper.

    Attributes:
        note: In words.
        tokens: Tokens read here in all passes, and in the first one; None where not known.
        printed_tokens: Tokens that the paper's row reads in its only pass, None where not known.
    """

    note: str
    tokens: tuple[int, int] | None
    printed_tokens: int | None

    @property
    def as_printed(self) -> bool:
        """Whether it read as many tokens as the paper's row did, and in one pass as well."""
        printed = self.printed_tokens
        return printed is not None and self.tokens == (printed, printed)

    @property
    def beside_printed(self) -> str:
        """What to say beside a printed value that was trained otherwise."""
        if self.as_printed:
            return ""
        theirs = self.printed_tokens
        known = (
            f"on {format_count(theirs)} in one pass"
            if theirs
            else "on a number that we do not know"
        )
        return f"the paper's row was trained {known}, so no difference is taken"
