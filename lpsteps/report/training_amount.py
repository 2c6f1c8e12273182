"""On which and how much text a row was distilled, beside the paper's row."""

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
        printed_text: Whether it is the text that the paper's rows are trained on.
    """

    note: str
    tokens: tuple[int, int] | None
    printed_tokens: int | None
    printed_text: bool

    @property
    def otherwise(self) -> str | None:
        """Why it is no repetition of the paper's training, None if it is one.

        That is: the same text, as many tokens of it, and in one pass as well.
        """
        if not self.printed_text:
            return "trained on other text than the paper's row"
        printed = self.printed_tokens
        if printed is None or self.tokens != (printed, printed):
            return "trained on another amount of text than the paper's row"
        return None

    @property
    def beside_printed(self) -> str:
        """What to say beside a printed value that was trained otherwise."""
        if self.otherwise is None:
            return ""
        if not self.printed_text:
            return "the paper's row was trained on other text, so no difference is taken"
        theirs = self.printed_tokens
        known = (
            f"on {format_count(theirs)} in one pass"
            if theirs
            else "on a number that we do not know"
        )
        return f"the paper's row was trained {known}, so no difference is taken"
