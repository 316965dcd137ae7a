"""The core knows no machine learning: pictures and tickets are forged of the same document."""

from __future__ import annotations

import pytest

from forgekit import alloy
from forgekit.resolve import plan, read_document, schema_problems
from forgekit.verify import claims_of

HASH = "sha256:" + "0" * 64


def document(domain, stages, **more):
    return alloy.read(alloy.write({"name": "n", "version": "1", "domains": [domain], "stages": stages, **more}))


def problems(read):
    return [str(problem) for problem in plan(read).problems]


CAPTURE = {"type": "capture", "device": "X100", "imageHash": HASH}
EDIT = {"type": "edit", "tool": "darktable", "operation": "crop", "inputHash": HASH, "outputHash": HASH[:-1] + "1"}
PUBLISH = {"type": "publish", "outlet": "The Times", "imageHash": HASH}
ISSUE = {"type": "issue", "ticketId": "T1", "holder": "ann"}
TRANSFER = {"type": "transfer", "fromHolder": "ann", "toHolder": "bob"}
REDEEM = {"type": "redeem", "holder": "bob"}


@pytest.mark.parametrize(
    ("domain", "stages"),
    [("photo-provenance", [CAPTURE, EDIT, PUBLISH]), ("ticketing", [ISSUE, TRANSFER, REDEEM])],
)
def test_a_whole_chain_plans_without_a_model_family(domain, stages):
    made = plan(document(domain, stages))

    assert made.problems == ()
    assert made.family is None
    assert schema_problems(document(domain, stages)) == []


def test_a_picture_cannot_be_published_before_it_was_taken():
    assert problems(document("photo-provenance", [PUBLISH])) == [
        "#/stages/0: 'publish' needs image from an earlier stage; put capture or edit before it"
    ]


def test_an_edit_that_changes_nothing_is_refused():
    edit = EDIT | {"outputHash": HASH}

    assert problems(document("photo-provenance", [CAPTURE, edit])) == [
        "#/stages/1: inputHash equals outputHash: the edit changed nothing"
    ]


def test_a_ticket_is_redeemed_once():
    assert problems(document("ticketing", [ISSUE, REDEEM, REDEEM])) == [
        "#/stages/2: 'redeem' needs ticket from an earlier stage; put issue before it"
    ]


def test_one_stage_name_means_what_its_domain_says():
    read = read_document(document("photo-provenance", [CAPTURE, PUBLISH]))

    assert read.stages[1].outlet == "The Times"


def test_a_stage_of_another_domain_is_not_known():
    (text,) = problems(document("ticketing", [ISSUE, EDIT]))

    assert text.startswith("#/stages/1/type: no stage is named 'edit' (issue, redeem, transfer)")


def test_a_picture_makes_no_claims_about_models():
    kinds = {claim.kind for claim in claims_of("p", document("photo-provenance", [CAPTURE]))}

    assert kinds == {"schema", "dispatch"}


def test_a_document_may_be_of_two_domains():
    tree = {
        "name": "n",
        "version": "1",
        "domains": ["ticketing", "photo-provenance"],
        "stages": [ISSUE, CAPTURE],
        "event": {"name": "Concert"},
        "photo": {"title": "Stage", "photographer": "ann"},
    }
    read = alloy.read(alloy.write(tree))

    assert plan(read).problems == ()
    assert read_document(read).tree() == tree


def test_a_photo_with_an_impossible_place_is_told():
    capture = CAPTURE | {"latitude": 91}

    assert problems(document("photo-provenance", [capture])) == ["#/stages/0/latitude: is greater than 90"]
