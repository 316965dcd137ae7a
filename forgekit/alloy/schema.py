"""The part of an alloy that knows no machine learning.

Who made what from what, in which stages, with which hashes: a photograph or a
ticket has that as much as a model has. What a stage or a result *means* is
the business of a domain (``forgekit.domains``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from forgekit.alloy.node import Node, Whole
from forgekit.errors import AlloyError

Retention = Literal["permanent", "until-superseded-and-attested", "ephemeral"]
"""How long what a stage made is kept."""


class StageRecord(Node):
    """One step of a recipe: its type, and whatever parameters the type has."""

    type: str
    notes: str | None = None
    retention: Retention | None = None


class CodeAttestation(Node):
    """The program that ran the recipe."""

    runner: str
    version: str
    binary_hash: str
    source_hash: str | None = None
    commit: str | None = None
    environment: str | None = None
    environment_hash: str | None = None


class DatasetAttestation(Node):
    """A data set that was used, by content."""

    name: str
    hash: str
    version: str | None = None
    source: str | None = None


class AttestationSignature(Node):
    """A signature over the RFC 8785 form of the attested payload."""

    algorithm: Literal["ES256", "ES384", "EdDSA", "ML-DSA-65", "ML-DSA-87", "SLH-DSA-128s"]
    public_key: str
    value: str
    key_id: str | None = None
    credential_id: str | None = None
    certificate_chain: list[str] = []
    key_registry: str | None = None


class TrustAnchor(Node):
    """A public place where a hash was deposited."""

    anchor_type: Literal["blockchain", "merkle-root", "rfc3161", "ipfs", "custom"]
    anchored_hash: str
    location: str
    anchored_at: str | None = None
    network: str | None = None


class AdapterAttestation(Node):
    """A third party's certificate for one aspect of the artifact."""

    adapter: str
    version: str
    domain: str
    attested_at: str
    result: dict[str, Any] = {}
    adapter_hash: str | None = None
    signature: AttestationSignature | None = None
    nonce: str | None = None
    source_repo: str | None = None
    commit: str | None = None


class FileHash(Node):
    """One file of the artifact. ``sha256`` is bare hex, ``size`` in bytes."""

    filename: str
    sha256: str
    size: Annotated[int, Whole(ge=0)] | None = None


class IntegrityAttestation(Node):
    """What ties the document to bytes and to people."""

    trust_level: Literal["self-attested", "verified", "enclave"] = "self-attested"
    code: CodeAttestation | None = None
    model_hash: str | None = None
    alloy_hash: str | None = None
    file_hashes: list[FileHash] = []
    parent_alloy_hash: str | None = None
    datasets: list[DatasetAttestation] = []
    nonce: str | None = None
    audience: str | None = None
    signature: AttestationSignature | None = None
    anchor: TrustAnchor | None = None
    certifications: list[AdapterAttestation] = []
    attested_at: str | None = None


class Results(Node):
    """What came out. Domains add their own fields."""

    completed_at: str | None = None
    integrity: IntegrityAttestation | None = None


class Publication(Node):
    """One place the artifact was published at."""

    target: str
    url: str
    published_at: str
    downloads: Annotated[int, Whole(ge=0)] | None = None


class AlloyReceipt(Node):
    """Written at publication. ``{}`` has been published, so nothing is required."""

    publications: list[Publication] = []
    verify_url: str | None = None
    alloy_hash: str | None = None
    card_hash: str | None = None
    issued_at: str | None = None


class DerivedFrom(Node):
    """The published artifact this one was made from."""

    repo: str
    alloy_hash: str | None = None
    kind: str | None = None


class AlloyDocument(Node):
    """The whole document, as far as every domain shares it."""

    name: str
    version: str
    description: str = ""
    user_summary: str | None = None
    author: str = ""
    tags: list[str] = []
    license: str = "apache-2.0"
    domains: list[str] | None = None
    stages: list[StageRecord] = []
    cycles: Annotated[int, Whole(ge=1)] = 1
    results: Results | None = None
    receipt: AlloyReceipt | None = None
    derived_from: DerivedFrom | None = None
    limitations: list[str] = []
    methodology_paper_url: str | None = None
    recipe_id: str | None = None
    recipe_version: str | None = None
    parent_recipe_id: str | None = None
    source_alloy_id: str | None = None
    forged_model_ids: list[str] | None = None
    forged_at: str | None = None


OUTCOMES = frozenset(
    {
        "results",
        "receipt",
        "recipeId",
        "recipeVersion",
        "forgedAt",
        "forgedParamsB",
        "activeParamsB",
        "hardwareVerified",
        "alloyHash",
        "integrity",
        "forgedModelIds",
    }
)
"""Root fields that only a run can write."""


class Recipe(Node):
    """The authored view of a document: everything that can be known before the run."""

    name: str
    version: str
    stages: list[StageRecord] = []
    cycles: Annotated[int, Whole(ge=1)] = 1
    parent_recipe_id: str | None = None

    @classmethod
    def of(cls, tree: dict[str, Any], *, where: str = "") -> Recipe:
        """View a document as a recipe.

        Raises:
            AlloyError: it holds results; a recipe never does.
        """
        if found := sorted(OUTCOMES & tree.keys()):
            raise AlloyError(
                f"a recipe is written before the run and cannot hold {', '.join(found)}",
                where=f"{where}#/{found[0]}",
                hint="`forgekit plan` and `verify` read artifacts; drop these fields to forge again from this recipe",
            )
        return cls.parse(tree)


class Artifact(Node):
    """The generated view of a document: which recipe ran, and what came out."""

    name: str
    version: str
    results: Results
    recipe_id: str | None = None
    recipe_version: str | None = None
    forged_at: str | None = None
    receipt: AlloyReceipt | None = None

    @classmethod
    def of(cls, tree: dict[str, Any], *, where: str = "") -> Artifact:
        """View a document as an artifact.

        Raises:
            AlloyError: it holds no results, so nothing was made yet.
        """
        if not isinstance(tree.get("results"), dict):
            raise AlloyError(
                "the document holds no results: it is a recipe, not an artifact",
                where=f"{where}#/results",
                hint="forge it first",
            )
        return cls.parse(tree)

    def recipe(self) -> Recipe:
        """The recipe this artifact was made by: the same document without what the run wrote."""
        return Recipe.of({key: value for key, value in self.tree().items() if key not in OUTCOMES})
