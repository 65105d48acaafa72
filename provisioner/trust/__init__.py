"""Keys of the site: encryption at rest, image signatures, tokens.

Takes: secrets and bytes.
Gives: ciphertext, signatures, tokens.
May import: system, model, errors, events
May touch: key files
"""
