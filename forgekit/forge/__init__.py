"""The forge: a plan and a base become an artifact and its alloy, with proof of what was done."""
