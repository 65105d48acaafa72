"""What runs inside nodes: the ramdisk agent, the config agent, and what both share with the server."""

__version__ = "0.1.0"
