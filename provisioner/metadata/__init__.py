"""What each instance is told.

Takes: cloud, role, node and peers.
Gives: a node's metadata; the values that make a new generation.
May import: manifest, model, errors, events
May touch: nothing
"""
