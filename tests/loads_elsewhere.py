"""A program that uses an exported checkpoint as a stranger would; tests run it, none imports it.

    python loads_elsewhere.py FOLDER PROMPT TOKEN_ID...

Prints JSON: what the text-generation pipeline adds to the prompt, and the logits of the tokens.
This project cannot be imported in it, even where it is installed.
"""

import json
import sys


def main(folder: str, prompt: str, *tokens: str) -> None:
    # An import of a module that is None here fails.
    sys.modules["lpsteps"] = None
    import torch
    from transformers import AutoModelForCausalLM, pipeline

    generate = pipeline("text-generation", model=folder, trust_remote_code=True)
    (answer,) = generate(prompt, max_new_tokens=8, do_sample=False, return_full_text=False)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    with torch.inference_mode():
        logits = model(torch.tensor([[int(token) for token in tokens]])).logits[0]
    print(json.dumps({"text": answer["generated_text"], "logits": logits.tolist()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
