"""A virtual rack on this machine: QEMU nodes behind real IPMI controllers on a bridge; and boot tests of images.

Takes: a lab file; an image and its role.
Gives: a running rack, its status, its consoles; and nothing left of it; what a boot test found.
May import: client, conductor, images, metadata, boot, bmc, trust, manifest, system, model, errors, events
May touch: QEMU, ipmi_sim, its network namespace
"""
