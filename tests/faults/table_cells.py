"""Cells of the Markdown tables of docs/bad-input.md and docs/reliability.md."""


def code_cell(text: str) -> str:
    """Text as it stands in a cell: as code, with what would end the code or the cell replaced."""
    plain = text.replace("\n", " ").replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"
