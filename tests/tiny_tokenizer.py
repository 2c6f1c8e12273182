"""A real tokenizer, small enough to train in milliseconds."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

VOCABULARY = 320

_TEXT = (
    "Question: The cat and the dog were running in the garden. Answer: yes, no, because, therefore "
    "a person is seen sitting on a table and then the man walks to the other side of the room. "
)


def train_tokenizer() -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer with 320 tokens: 256 bytes, `<s>`, and merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>")
