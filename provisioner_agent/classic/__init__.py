"""The config tools of OpenStack's era: their options, files, scripts and exit codes, and what they do with them.

Takes: metadata files, a template tree, phase folders.
Gives: files in the instance, the exit codes that scripts written for those tools rely on.
May import: protocol, render
May touch: the instance; programs through programs.py

``provisioner-agent apply`` stands for os-apply-config, ``refresh`` for os-refresh-config, ``collect`` for
os-collect-config. What they do on the same input is the same; where they lost something, this does not.
"""
