"""What operators write.

Takes: {path: text}.
Gives: validated objects, or all problems at once with file:line.
May import: model, errors, events
May touch: nothing
"""
