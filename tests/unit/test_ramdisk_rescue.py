"""The ramdisk lets an operator in."""

from __future__ import annotations
