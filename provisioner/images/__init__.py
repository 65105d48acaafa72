"""Images: diskimage-builder elements and a role become a signed image in the catalogue.

Takes: elements, templates and a role.
Gives: an immutable image named by its content.
May import: manifest, trust, system, model, errors, events
May touch: build folder, image store
"""
