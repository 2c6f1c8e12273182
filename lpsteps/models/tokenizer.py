"""Loading the tokenizer of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from lpsteps.address_space import require_address_space
from lpsteps.errors import LpstepsError, first_line
from lpsteps.machine_faults import raise_machine_fault
from lpsteps.models.trusted_code import trusts_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder; its code runs where the manifest says it is trusted.

    Raises:
        LpstepsError: The folder does not hold one, or no memory is left.
    """
    require_address_space()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trusts_code(folder)
        )
    # The library raises whatever its reading of a damaged file runs into.
    except Exception as error:
        raise_machine_fault(error)
        raise LpstepsError(
            f"{folder}: no tokenizer can be read there ({type(error).__name__}: "
            f"{first_line(error)}); restore its tokenizer files"
        ) from error
    return cast("PreTrainedTokenizerBase", tokenizer)
