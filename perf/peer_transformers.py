"""The peer of expert-prune: load with transformers, slice the modules, save. Arguments: base, out, keep-map."""

from __future__ import annotations

import json
import sys

import torch
import transformers

base, out, cut = sys.argv[1:]
kept = {int(layer): rows for layer, rows in json.load(open(cut))["kept"].items()}  # noqa: PTH123, SIM115
model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
for number, layer in enumerate(model.model.layers):
    rows = torch.tensor(kept[number])
    experts, router = layer.mlp.experts, layer.mlp.gate
    for owner, name in ((experts, "gate_up_proj"), (experts, "down_proj"), (router, "weight")):
        sliced = getattr(owner, name).data[rows].clone()
        setattr(owner, name, torch.nn.Parameter(sliced, requires_grad=False))
count = len(kept[0])
for key in ("num_experts", "num_local_experts"):
    if hasattr(model.config, key):
        setattr(model.config, key, count)
model.save_pretrained(out, max_shard_size="500MB")
