"""Turns a rack of powered-off servers into a running cloud from one YAML file, and keeps it so."""

__version__ = "0.1.0"
