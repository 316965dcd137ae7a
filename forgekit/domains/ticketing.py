"""Tickets: issued, transferred, redeemed once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit.alloy.node import Node, Number
from forgekit.domains import Domain
from forgekit.stages import Given, Stage, StageParams


class Issue(StageParams):
    """The ticket comes into being, in the hands of its first holder."""

    ticket_id: str
    holder: str
    seat: str | None = None
    price: Annotated[float, Number(ge=0)] | None = None
    currency: str | None = None


class Transfer(StageParams):
    """The ticket passes from its holder to another."""

    from_holder: str
    to_holder: str
    price: Annotated[float, Number(ge=0)] | None = None


class Redeem(StageParams):
    """The ticket is used up."""

    holder: str
    gate: str | None = None
    redeemed_at: str | None = None


class Event(Node):
    """What the ticket admits to."""

    name: str
    venue: str | None = None
    starts_at: str | None = None


class TicketRoot(Node):
    """The root fields of the domain."""

    event: Event | None = None


def transfer_goes_somewhere(given: Given) -> Iterator[str]:
    if given.params.from_holder == given.params.to_holder:
        yield f"{given.params.from_holder!r} transfers the ticket to themselves"


TICKET = frozenset({"ticket"})
DOMAIN = Domain(
    name="ticketing",
    stages={
        "issue": Stage(name="issue", params=Issue, purpose="record", produces=TICKET),
        "transfer": Stage(
            name="transfer",
            params=Transfer,
            purpose="record",
            consumes=lambda _: TICKET,
            problems=transfer_goes_somewhere,
        ),
        "redeem": Stage(name="redeem", params=Redeem, purpose="ship", consumes=lambda _: TICKET, spends=TICKET),
    },
    root=TicketRoot,
)
