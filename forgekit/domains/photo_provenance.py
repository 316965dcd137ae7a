"""Photographs: captured, edited, published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit.alloy.node import Node, Number, Whole
from forgekit.domains import Domain
from forgekit.stages import Given, Stage, StageParams


class Capture(StageParams):
    """The exposure. ``image_hash`` is of the file as the camera wrote it."""

    device: str
    image_hash: str
    captured_at: str | None = None
    serial_number: str | None = None
    latitude: Annotated[float, Number(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Number(ge=-180, le=180)] | None = None


class Edit(StageParams):
    """One edit, from one content to another."""

    tool: str
    operation: str
    input_hash: str
    output_hash: str
    generative: bool = False  # whether content was synthesised


class Publish(StageParams):
    """Publication of exactly one content."""

    outlet: str
    image_hash: str
    caption: str | None = None
    url: str | None = None


class Photo(Node):
    """What the picture is of."""

    title: str
    photographer: str
    width: Annotated[int, Whole(ge=1)] | None = None
    height: Annotated[int, Whole(ge=1)] | None = None


class PhotoRoot(Node):
    """The root fields of the domain."""

    photo: Photo | None = None


def edit_changes_something(given: Given) -> Iterator[str]:
    if given.params.input_hash == given.params.output_hash:
        yield "inputHash equals outputHash: the edit changed nothing"


IMAGE = frozenset({"image"})
DOMAIN = Domain(
    name="photo-provenance",
    stages={
        "capture": Stage(name="capture", params=Capture, purpose="record", produces=IMAGE),
        "edit": Stage(
            name="edit",
            params=Edit,
            purpose="record",
            consumes=lambda _: IMAGE,
            produces=IMAGE,
            problems=edit_changes_something,
        ),
        "publish": Stage(name="publish", params=Publish, purpose="ship", consumes=lambda _: IMAGE),
    },
    root=PhotoRoot,
)
