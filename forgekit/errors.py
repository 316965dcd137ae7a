"""Every error forgekit raises, and the one shape of its message."""

from __future__ import annotations


class ForgeError(Exception):
    """One sentence of what is wrong, then where, and what to try.

    Attributes:
        what: the sentence; no trailing full stop needed.
        where: file, JSON pointer, tensor or URL; empty when there is none.
        hint: what the reader can do next; empty when there is nothing to try.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  in   {self.where}")
        if self.hint:
            lines.append(f"  try  {self.hint}")
        return "\n".join(lines)


class DigestError(ForgeError):
    """A text that should be a digest is not one, or a hash has nothing to hash."""


class UnknownNameError(ForgeError, KeyError):
    """Nothing is registered under the name that was asked for."""

    __str__ = ForgeError.__str__  # KeyError would print the repr


class PartError(ForgeError):
    """A registered file or entry point does not hold the part it should."""


class AlloyError(ForgeError):
    """A document cannot be read as an alloy."""


class PlanError(ForgeError):
    """A recipe asks for something no family, stage or order of stages can give."""


class SourceError(ForgeError):
    """An artifact, or a file of it, cannot be had."""


class AbsentError(SourceError):
    """The artifact was reached and does not hold what was asked for."""


class UnreachableError(SourceError):
    """This machine could not reach the artifact: offline, refused, rate-limited, broken."""


class TamperedError(SourceError):
    """Bytes differ from the digest that they are listed or stored under."""


class CheckpointError(ForgeError):
    """A weight file's header does not describe the file it stands in."""


class SamplesError(ForgeError):
    """A samples file or benchmark data set cannot be scored as it stands."""


class SandboxError(ForgeError):
    """The sandbox could not be set up, or broke."""


class MachineError(ForgeError):
    """This machine lacks what the work needs: a library, a device, memory."""


class CorpusError(ForgeError):
    """A corpus cannot be read, or is not the text that was meant."""


class ProofError(ForgeError):
    """What was made is not what it should be; it is not kept."""


class AttestationError(ForgeError):
    """A key, signature or registry cannot be used as it stands."""


class StoreError(ForgeError):
    """A store cannot be used as it stands: a name, a record, a full disk, an object that is not there."""


class BrokenChainError(StoreError):
    """A chain cannot be published, for something it rests on cannot be had."""
