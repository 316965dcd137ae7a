"""Asking engines: each in a confined process of its own, and what its answers prove.

What an engine reads and insists on stands in its file in ``runtimes``; how it
is asked, watched and held against the reference stands here.
"""

from __future__ import annotations
