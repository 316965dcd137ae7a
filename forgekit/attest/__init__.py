"""Who says so: signatures over an alloy, and the registry that says whose key is whose.

A signature is worth what is known of its key. The key that travels in the
document is never believed: it must be the one that a registry, kept by whoever
verifies, lists under that id.

Beside forgekit's own signature stand the field's: OpenSSF Model Signing bundles, in-toto statements with SLSA
provenance or an evaluation in DSSE envelopes, and CycloneDX bills of materials.
"""

from __future__ import annotations
