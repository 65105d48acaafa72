"""The one daemon's faces: operator API, boot scripts, agents, images.

Takes: a request.
Gives: an answer.
May import: conductor, images, boot, bmc, plan, metadata, store, manifest, trust, system, model, errors, events
May touch: listening sockets
"""
