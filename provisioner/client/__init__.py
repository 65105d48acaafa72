"""Calls of the service's API.

Takes: a call.
Gives: values, or the service's own error.
May import: manifest, trust, system, model, errors, events
May touch: one connection
"""
