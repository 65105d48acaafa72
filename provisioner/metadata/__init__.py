"""What each instance is told.

Takes: cloud, role, node and peers; an image's templates.
Gives: a node's metadata; the values that make a new generation; the files of many nodes.
May import: manifest, model, errors, events
May touch: nothing
"""
