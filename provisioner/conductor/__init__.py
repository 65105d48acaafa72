"""Moves nodes through their states: a level-triggered loop that looks, does the next step and records it.

Takes: desired records.
Gives: the next step of each node, journaled.
May import: images, boot, bmc, plan, metadata, store, manifest, trust, system, model, errors, events
May touch: tasks, clock
"""
