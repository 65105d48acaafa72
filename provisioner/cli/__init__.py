"""The command line.

Takes: argv.
Gives: one call of the client or of a recipe, its result as text or JSON, an exit code.
May import: client, lab, server, images, metadata, manifest, plan, conductor, boot, bmc, store, trust, system,
    model, errors, events
May touch: terminal
"""
