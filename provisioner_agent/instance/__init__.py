"""The config agent: metadata becomes files, phases, probes and a report.

Takes: metadata.
Gives: a configured, probed instance, or the previous one and the reason.
May import: render, protocol
May touch: the instance, through host.py
"""
