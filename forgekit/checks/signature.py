"""The attestation is signed, and as trusted as it says."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, refuted, unchecked, unproven
from forgekit.findings import Claim, Finding

SIGNATURE, LEVEL = "/results/integrity/signature", "/results/integrity/trustLevel"


def claims(alloy: Alloy) -> Found:
    if isinstance(alloy.at("/results/integrity"), dict):
        yield SIGNATURE, alloy.at(SIGNATURE + "/keyId")
        if alloy.at(LEVEL) not in (None, "self-attested"):
            yield LEVEL, alloy.at(LEVEL)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    signature = evidence.alloy.at(SIGNATURE)
    if not isinstance(signature, dict):
        if claim.pointer == LEVEL:
            reason = f"trustLevel is {claim.expected} and nothing is signed"
            return refuted(claim, "self-attested", reason, "signature: sign it, or say self-attested")
        return unproven(
            claim, "the attestation is not signed: nobody answers for it", "signature: sign the attestation"
        )
    if claim.pointer == LEVEL and not signature.get("certificateChain"):
        reason = f"trustLevel is {claim.expected} and no certificate chain is given"
        return refuted(claim, "self-attested", reason, "signature: give the certificate chain, or say self-attested")
    return unchecked(
        claim, "this version of forgekit reads signatures and does not verify them: no key registry is set"
    )


CHECK = Check(name="signature", tier=3, claims=claims, settle=settle)
