"""An alloy for an artifact that was published before there were any, from the results file it came with.

The fields of ``forging_results.json``: model, strategy, pruning_level, domain,
training_data, training_steps, learning_rate, training_method, cycles,
baseline_ppl, final_ppl, improvement_pct, hardware_targets, forged_at. What the
file does not say is left out and listed as a limitation; nothing stands in for
a hash that nobody took.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgekit import alloy
from forgekit.alloy import reading
from forgekit.amending import Amendment, alloy_of, bytes_of
from forgekit.amending.weights import model_hash, rows
from forgekit.errors import AbsentError, AlloyError
from forgekit.families import FAMILIES
from forgekit.sources import Source

RESULTS = "forging_results.json"
STRATEGIES = {
    "combined": "magnitude",
    "experiential_plasticity": "magnitude",
    "experiential-plasticity": "magnitude",
    "magnitude": "magnitude",
    "entropy": "entropy",
    "gradient": "gradient",
}
"""Names of old results files, and the metric that the code behind them used."""
STATED = {"baseline_ppl": "baselinePerplexity", "final_ppl": "finalPerplexity", "improvement_pct": "improvementPct"}


def backfill(source: Source) -> Amendment:
    """An alloy from a legacy results file and the listing's hashes.

    Raises:
        AlloyError: there is an alloy already, or the results file says nothing that can be used.
        AbsentError: there is no results file, or there are no weights.
    """
    there = alloy_of(source)
    if there is not None:
        raise AlloyError("the artifact has an alloy already", where=there.where, hint="correct it with republish")
    data = bytes_of(source, RESULTS)
    if data is None:
        raise AbsentError(f"there is no {RESULTS} to take an alloy from", where=source.where(""))
    legacy = reading.parse(data, where=source.where(RESULTS))
    limits: list[str] = []
    name = source.name.rpartition("/")[2]
    tree = {
        "name": name,
        "version": "1.0.0",
        "description": f"Made from {RESULTS} after publication; the weights are as they were published.",
        "author": source.name.rpartition("/")[0],
        "tags": ["alloy-backfilled", "forge-alloy", "forged"],
        "source": _source(source, legacy),
        "stages": list(_stages(legacy, limits, source.where(RESULTS))),
        "cycles": _whole(legacy.get("cycles")) or 1,
        "results": _results(source, legacy, limits),
        "limitations": limits,
    }
    if not tree["stages"]:
        raise AlloyError(f"{RESULTS} names no stage that was run", where=source.where(RESULTS))
    path = f"{name}.alloy.json"
    return Amendment(
        alloy=path,
        before={},
        after={path: alloy.write(tree)},
        title=f"Add an alloy, made from {RESULTS}",
        told=tuple(limits),
    )


def _source(source: Source, legacy: Mapping[str, Any]) -> dict[str, Any]:
    base = legacy.get("model")
    if not isinstance(base, str) or not base:
        raise AlloyError(f"{RESULTS} does not say which model was forged", where=f"{source.where(RESULTS)}#/model")
    data = bytes_of(source, "config.json")
    stated = reading.parse(data, where=source.where("config.json")).get("model_type") if data else None
    if not isinstance(stated, str):
        raise AlloyError("config.json does not say which architecture this is", where=source.where("config.json"))
    return {"baseModel": base, "architecture": stated.removesuffix("_text") if stated not in FAMILIES else stated}


def _stages(legacy: Mapping[str, Any], limits: list[str], where: str) -> Any:
    level, strategy = legacy.get("pruning_level"), legacy.get("strategy")
    if level is not None:
        known = STRATEGIES.get(str(strategy).lower())
        if known is None:
            raise AlloyError(f"strategy {strategy!r} is none that pruned heads", where=f"{where}#/strategy")
        said = "" if known == strategy else f"{RESULTS} calls the strategy {strategy!r}; its code went by {known}."
        yield {"type": "prune", "strategy": known, "level": level} | ({"notes": said} if said else {})
    steps = _whole(legacy.get("training_steps"))
    if not steps:
        limits.append(f"{RESULTS} gives no training steps, so no training is listed.")
        return
    stage: dict[str, Any] = {"type": "train", "domain": str(legacy.get("domain") or "general"), "steps": steps}
    if legacy.get("learning_rate") is not None:
        stage["learningRate"] = str(legacy["learning_rate"])
    else:
        limits.append(f"{RESULTS} gives no learning rate.")
    if legacy.get("training_data"):
        stage["dataset"] = str(legacy["training_data"])
        limits.append("The training data is named and not pinned by a hash.")
    if legacy.get("training_method"):
        stage["notes"] = f"{RESULTS} calls the method {legacy['training_method']!r}."
    yield stage


def _results(source: Source, legacy: Mapping[str, Any], limits: list[str]) -> dict[str, Any]:
    files = rows(source)
    limits.append("The program that forged it was not hashed.")
    found: dict[str, Any] = {"completedAt": legacy["forged_at"]} if legacy.get("forged_at") else {}
    found |= {key: legacy[old] for old, key in STATED.items() if isinstance(legacy.get(old), int | float)}
    if "finalPerplexity" in found:
        limits.append("The perplexities were measured on text that is not pinned: nobody else can compute them.")
    targets = legacy.get("hardware_targets")
    if isinstance(targets, list) and targets:
        found["hardwareVerified"] = [
            {"device": str(row.get("device") or ""), "format": str(row.get("format") or "")}
            | {"verified": row.get("verified") is True}
            for row in targets
            if isinstance(row, dict)
        ]
    found["integrity"] = {"trustLevel": "self-attested", "modelHash": model_hash(files), "fileHashes": files}
    return found


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
