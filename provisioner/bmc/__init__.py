"""Management controllers: each command verified, each failure named, no call that can hang.

Takes: a BMC address and a command.
Gives: a verified result.
May import: manifest, trust, system, model, errors, events
May touch: BMCs
"""
