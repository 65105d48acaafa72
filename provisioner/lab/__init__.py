"""A virtual rack on this machine: QEMU nodes behind real IPMI controllers on a bridge.

Takes: a lab file.
Gives: a running rack, its status, its consoles; and nothing left of it.
May import: client, images, boot, bmc, manifest, system, model, errors, events
May touch: QEMU, ipmi_sim, its network namespace
"""
