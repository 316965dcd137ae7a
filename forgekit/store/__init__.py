"""Bytes kept under their own SHA-256, and the chains of stages that rest on them.

A store is a folder, or any place fsspec has a URL for::

    objects/ab/cdef…         bytes; the name is their SHA-256, and no reader believes it
    about/ab/cdef….json      type, size, where they came from and when; outlives them, so that a loss can be named
    refs/links/<hash>.json   a recorded link of a chain; the link itself is an object
    refs/published/<name>/<hash>.json    the last link of a published chain
    refs/attested/<hash>/<hash>.json     evidence that a link's artifact passed
    refs/recipes/<name>/<version>.json   a recipe, as an object
    refs/pins/<hash>.json    an object somebody asked to keep
    leases/  journal/  tmp/  what is being written, what is being collected, what is not yet whole

An artifact's address is its modelHash: the manifest that hashes to it is an
object too, so what published alloys record can be asked for as it stands.
"""

from __future__ import annotations
