"""The verification suite, as an installed package: ``pytest --pyargs forgekit.suite --alloy hf://org/name``."""
