"""The attestation is signed, and as trusted as it says."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.attest.signing import judge
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked, unproven
from forgekit.findings import Claim, Finding

VARIABLE = "FORGEKIT_KEYS"
SIGNATURE, LEVEL = "/results/integrity/signature", "/results/integrity/trustLevel"


def claims(alloy: Alloy) -> Found:
    if isinstance(alloy.at("/results/integrity"), dict):
        yield SIGNATURE, alloy.at(SIGNATURE + "/keyId")
        if alloy.at(LEVEL) not in (None, "self-attested"):
            yield LEVEL, alloy.at(LEVEL)


def settle(claim: Claim, evidence: Evidence) -> Finding:  # noqa: PLR0911 - one per verdict and reason
    signature = evidence.alloy.at(SIGNATURE)
    if not isinstance(signature, dict):
        if claim.pointer == LEVEL:
            reason = f"trustLevel is {claim.expected} and nothing is signed"
            return refuted(claim, "self-attested", reason, "signature: sign it, or say self-attested")
        return unproven(
            claim, "the attestation is not signed: nobody answers for it", "signature: sign the attestation"
        )
    if claim.pointer == LEVEL:
        return _level(claim, signature)
    registry = evidence.settings.keys
    if registry is None:
        reason = "no key registry is set, and the key in a document is never believed"
        return unchecked(claim, reason, **{"try": f"--keys FILE, or {VARIABLE}"})
    found = judge(evidence.alloy.tree, registry, audience=evidence.settings.audience, now=evidence.settings.now)
    told = {"registry": registry.where, "keyId": found.key_id, "owner": found.owner}
    if found.standing == "valid":
        return confirmed(claim, found.key_id, found.reason, **told)
    if found.standing == "invalid":
        return refuted(
            claim, None, found.reason, "signature: sign the document as it stands, with a key in force", **told
        )
    if found.standing == "stale":
        return unproven(claim, found.reason, "signature: attest it again", found.key_id, **told)
    return unchecked(claim, found.reason, **told)


def _level(claim: Claim, signature: dict[str, object]) -> Finding:
    if not signature.get("certificateChain"):
        reason = f"trustLevel is {claim.expected} and no certificate chain is given"
        return refuted(claim, "self-attested", reason, "signature: give the certificate chain, or say self-attested")
    return unchecked(claim, f"trustLevel is {claim.expected}, and no authority that could say so is set here")


CHECK = Check(name="signature", tier=3, claims=claims, settle=settle)
