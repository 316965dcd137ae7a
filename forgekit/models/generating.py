"""Greedy completion of a prompt."""

from __future__ import annotations

from typing import Any

from forgekit.models.loading import Loaded
from forgekit.models.measuring import device_of

STOPS = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\nassert ", "\n```")
"""Where the function that was asked for has ended. Source: the stop words of evalplus' own generation."""


def complete(model: Loaded, tokenizer: Any, prompt: str, limit: int) -> str:
    """What the model writes after a prompt, up to ``limit`` tokens, the end token or the end of the function."""
    import torch

    ids = torch.tensor([tokenizer(prompt)["input_ids"]], device=device_of(model))
    start, cache = ids.shape[1], None
    text = ""
    given = ids
    with torch.no_grad():
        for _ in range(limit):
            out = model.text(input_ids=given, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            given = out.logits[:, -1].argmax(-1, keepdim=True)
            if int(given) == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, given], dim=1)
            text = str(tokenizer.decode(ids[0, start:], skip_special_tokens=True))
            if stop := next((stop for stop in STOPS if stop in text), None):
                return text.split(stop, 1)[0]
    return text
