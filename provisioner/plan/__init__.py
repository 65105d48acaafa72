"""From the actual to the desired.

Takes: desired and observed.
Gives: a plan; its text.
May import: manifest, model, errors, events
May touch: nothing
"""
