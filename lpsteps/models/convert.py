"""GGUF to safetensors: dequantise a llama.cpp model once, to the layout that transformers loads.

Reading a GGUF file takes long (every tensor is dequantised), so it is done once. Two things need
care. transformers refuses to save a model that it loaded from GGUF, because it considers it
quantised. And for byte-level BPE tokenizers it does not read which rule splits text into words
before the merges, although the file names it; the tokens would then differ from the original's
wherever digits follow spaces.
"""

from __future__ import annotations

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpsteps.artifacts import flush_to_disk, read_json, write_json
from lpsteps.errors import LpstepsError, nearest

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import PreTokenizer

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = {
    # GPT-4's rule, with at most three (Llama 3) or exactly one (Qwen 2) digit in a token.
    name: (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    for name, digits in {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}.items()
}
_CALL_DEPENDENT = ("is_local", "local_files_only", "name_or_path", "backend")
"""Keys of tokenizer_config.json that tell how the tokenizer was loaded, not what it is."""


def word_splitter(name: str) -> PreTokenizer:
    """Return the rule that splits text into words before byte-pair merges.

    Args:
        name: The rule's name in a GGUF file, key ``tokenizer.ggml.pre``.

    Raises:
        LpstepsError: The rule is not known here.
    """
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if name in _WORDS:
        split = Split(Regex(_WORDS[name]), behavior="isolated")
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    gpt2 = ByteLevel(add_prefix_space=False, use_regex=True)
    if name == "gpt-2":
        return gpt2
    if name == "smollm":
        return Sequence([Digits(individual_digits=True), gpt2])
    problem = nearest(name, [*_WORDS, "gpt-2", "smollm"])
    raise LpstepsError(f"tokenizer.ggml.pre: {name}: cannot convert this kind of GGUF; {problem}")


def _check_rotary(gguf: Path, reader: GGUFReader) -> None:
    """Check that rotary frequencies are plain: transformers drops any scaling of them in silence.

    Raises:
        LpstepsError: They are scaled.
    """
    kinds = [key for key in reader.fields if key.endswith(".rope.scaling.type")]
    scaled = [key for key in kinds if reader.fields[key].contents() != "none"]
    scaled += [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_f")]
    if scaled:
        raise LpstepsError(
            f"{gguf}: {scaled[0]}: a scaling of rotary embeddings would be lost in the conversion; "
            "take the model's safetensors"
        )


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as config.json, model.safetensors (float32) and tokenizer files.

    The bytes written depend only on the GGUF file and on the versions of the libraries.

    Args:
        gguf: The GGUF file.
        folder: An existing, empty folder.

    Raises:
        LpstepsError: The file is not GGUF, or its architecture or tokenizer cannot be converted.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        reader = GGUFReader(gguf)
    except ValueError as error:
        raise LpstepsError(f"{gguf}: not a GGUF file ({error})") from error
    fields = reader.fields
    _check_rotary(gguf, reader)
    metadata = {
        key: fields[key].contents()
        for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre")
        if key in fields
    }
    source: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    try:
        # The GGUF reader has a progress bar of its own, which cannot be turned off.
        with redirect_stderr(StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    except (ValueError, NotImplementedError) as error:
        raise LpstepsError(f"{gguf}: transformers cannot convert it ({error})") from error
    if metadata.get("tokenizer.ggml.model") == "gpt2":
        splitter = word_splitter(metadata.get("tokenizer.ggml.pre", "not given"))
        tokenizer.backend_tokenizer.pre_tokenizer = splitter
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder, max_shard_size="1000TB")
    for path in sorted(folder.glob("*config.json")):
        settings = read_json(path)
        kept = {key: value for key, value in settings.items() if not key.startswith("_")}
        if path.name == "tokenizer_config.json":
            kept = {key: value for key, value in kept.items() if key not in _CALL_DEPENDENT}
        write_json(path, kept)
    flush_to_disk(folder / "model.safetensors")
