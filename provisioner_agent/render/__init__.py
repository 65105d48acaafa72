"""Mustache templates become files in memory.

Takes: a template tree and data.
Gives: files with their modes and owners; a missing key is an error with template and line.
May import: nothing of ours
May touch: nothing
"""
