"""Network boot: dnsmasq for DHCP and TFTP, iPXE scripts for the nodes that one is due to.

Takes: node records.
Gives: a supervised dnsmasq and boot scripts.
May import: store, manifest, trust, system, model, errors, events
May touch: dnsmasq
"""
