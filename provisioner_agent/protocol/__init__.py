"""The messages between guests and server, their authentication, and the connection that carries them.

Takes: a key and a message.
Gives: signed bytes, an answer, or the refusal of a forged message.
May import: nothing of ours
May touch: one connection
"""
