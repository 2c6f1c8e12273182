"""Text of a model's own: token windows drawn from the distribution that it predicts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from lpsteps.progress import track

# Keys and values held at a time, as float32. How many windows go side by side decides over the
# draws, so it depends on the model alone and not on the free memory.
CACHE_BYTES = 4 << 30


def sample_windows(
    model: PreTrainedModel,
    starts: npt.NDArray[np.int64],
    length: int,
    *,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Continue first tokens to windows, each next token drawn from the model's distribution.

    The whole vocabulary is open at temperature 1, and no token ends a window: where the model ends
    a document, it goes on with another one.

    Args:
        model: A causal language model in evaluation mode.
        starts: First tokens of the windows, `[windows, tokens]`, at least one each.
        length: Tokens per window, those of `starts` included.
        seed: Seed of the draws.

    Returns:
        Token ids `[windows, length]`.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, CACHE_BYTES // _cache_bytes_per_window(model, length))
    blocks = range(0, len(starts), batch)
    given = starts.shape[1]
    windows = np.empty((len(starts), length), dtype=np.int64)
    windows[:, :given] = starts
    steps = ((block, position) for block in blocks for position in range(given, length))
    cache = None
    for block, position in track(steps, "own text", total=len(blocks) * (length - given)):
        rows = windows[block : block + batch]
        first = position == given
        read = torch.tensor(rows[:, :position] if first else rows[:, position - 1 : position])
        with torch.inference_mode():
            output = model(
                input_ids=read.to(model.device),
                past_key_values=None if first else cache,
                use_cache=True,
                logits_to_keep=1,
            )
        cache = output.past_key_values
        probabilities = torch.softmax(output.logits[:, -1].float(), dim=-1).cpu()
        rows[:, position] = torch.multinomial(probabilities, 1, generator=generator)[:, 0].numpy()
    return windows


def _cache_bytes_per_window(model: PreTrainedModel, length: int) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * length * 4)
