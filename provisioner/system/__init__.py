"""The one door to programs, files, network and clock of this host.

Takes: argv, path, URL, deadline.
Gives: results, or an error of ours that names the program, its last words and the next command.
May import: errors, events
May touch: programs, files, network, clock

Each door is a Protocol with the real one and a fake beside it; a function takes the narrowest door it needs.
"""
