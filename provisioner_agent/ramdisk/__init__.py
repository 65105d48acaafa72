"""The ramdisk agent: an order becomes an inspected, partitioned, written and verified node.

Takes: orders of the server.
Gives: a node whose disk boots.
May import: protocol
May touch: the node, through host.py; files of the server, through download.py
"""
