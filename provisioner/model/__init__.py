"""The nouns of the product as frozen values, the states of a node and their legal moves.

Takes: checked values.
Gives: frozen, printable values that every room above shares; they serialise to JSON as they are.
May import: errors, events
May touch: nothing
"""
