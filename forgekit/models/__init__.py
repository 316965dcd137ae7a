"""Checkpoints in memory: loading, finding a family's modules, hooks, losses. torch is imported where it is used."""
