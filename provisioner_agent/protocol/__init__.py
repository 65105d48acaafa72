"""The messages between guests and server and their authentication.

Takes: a key and a message.
Gives: signed bytes, or the refusal of a forged message.
May import: nothing of ours
May touch: nothing
"""
