"""Paths and shapes of the messages. All bodies are JSON maps; an error answer is ``{"error", "summary", "hint"}``.

Ramdisk agent (key: the boot token of the kernel command line, ``provisioner.token=ID.SECRET``):

=====================  ==================================================================================
``POST HELLO``         ``{"boot_id", "secret", "hardware": {...}, "proof"}`` → ``{"clock": seconds since the epoch}``
``GET ORDER?wait=S``   → ``{"order": {...}}`` or ``{}`` after S seconds; the same order until its result came
``POST PROGRESS``      ``{"order": id, "bytes", "total", "rate", "remaining"}`` → ``{}``
``POST RESULT``        ``{"order": id, "ok": bool, "detail": {...}, "error": {"summary", "cause"}}`` → ``{}``
=====================  ==================================================================================

The ramdisk's first message is under the secret of the boot script, which whoever reads the wire has seen. It carries by
TLS a secret that the ramdisk made; all after it is under that one, a hello with another is refused. ``proof``, if it
is asked for: the number of a record of that secret in the event log of the node's controller, or why there is none.

An order is ``{"id": text, "step": step name, ...}`` with, by step:

``storage``        ``table`` (``gpt``/``mbr``), ``root`` (a name), ``root_min`` (bytes), ``firmware``; lists of maps:
                   ``disks``: ``disk`` (kernel name), ``guid``, ``partitions``: ``name``, ``guid``, ``type``,
                   ``size_mib`` (null: the rest), ``keep``; ``raids``: ``name``, ``level``, ``members``, ``metadata``,
                   ``uuid``, ``keep``; ``groups``: ``name``, ``members``, ``keep``; ``logicals``: ``name``, ``group``,
                   ``size_mib``, ``keep``; ``filesystems``: ``volume``, ``type``, ``uuid``, ``label``, ``keep``.
                   Its result has ``devices`` by name, ``made``: names of file systems that are new, and ``gone``:
                   GUIDs of partitions that were there before
``write-image``    ``root`` (device), ``image`` (id), ``index_sha256``, ``grow`` (bool), ``filesystem``
``seed-instance``  ``root``, ``mounts``: ``[{"volume", "device", "path", "filesystem"}]``, ``made``,
                   ``files``: ``[{"path", "mode" (int), "content" (text)}]``
``boot-loader``    ``root``, ``disks``, ``esp`` (device), ``root_device`` (for the kernel), ``grub_partition``,
                   ``stacked`` (bool), ``raids`` (UUIDs by name), ``gone`` (GUIDs), ``firmware`` (``uefi``/``bios``),
                   ``cmdline``
``clear-disk``     ``disk``: instead of ``storage``, for an image that is a whole disk; its result is of the same kind
``seed-disk``      ``disk``, ``files``: instead of ``seed-instance``; the files go to a volume of their own
``check-disk``     ``disk``, ``firmware``, ``gone``: instead of ``boot-loader``; its result has ``partitions`` (GUIDs)
``restart``        ``root``, ``stacked``, ``raids``, ``cmdline``: load the instance's kernel, answer, give way to it
``hello``          nothing: read the hardware again, for another deployment; its result has ``hardware``
``inspect``        ``lldp_seconds``; its result has ``hardware``
``test-cpu``       ``seconds``; of this and the next three the result has ``verdict`` and ``summary``
``test-memory``    nothing
``test-disk``      nothing
``test-network``   ``macs``, ``image``, ``name``, ``size``, ``sha256``
``erase``          ``level``: ``metadata``, ``quick`` or ``secure``; its result has ``disks``: what was done to each by
                   name, and ``hardware``
``rescue``         ``keys``: of SSH, one each; its result has ``consoles`` and, if keys were given, ``fingerprint``
``power-off``      sync, then halt: sent when the deployment was aborted

Config agent (key: the instance token in ``/etc/provisioner-agent/agent.json``):

================================  =======================================================================
``GET METADATA?since=G&wait=S``   → ``{"generation": G2, "metadata": {...}, "signature": base64, "parts": {id: {...}}}``
                                  as soon as G2 > G, or ``{}``; without the parts whose ids are given as ``have=ID,ID``.
                                  It also says that the agent has G, and that its signature holds
``POST REPORT``                   ``{"generation", "state", "healthy", "probes", "phases", "error", "boot_id", "root"}``
``POST PERMIT``                   ``{"action": "acquire" | "release", "generation", "wait"}`` →
                                  ``{"granted": bool, "why": text, "once": {name: {"do": bool, "fence": int}}}``
``POST RECOVER``                  ``{"history": text, "sequence": int, "wait"}`` →
                                  ``{"verdict": "lead" | "join" | "wait", "why": text, "fence": int}``
================================  =======================================================================

``RECOVER`` is asked by a member that finds no other one alive: how far it had come (``sequence``, of the ``history``;
that is empty for one that has nothing). One of all that asked is told to lead: it begins again from what it has, and
the others join it.

A node that is to become the master asks with its instance token, too:

``GET HANDOVER?have=ID.PHASE&wait=S``: ``{}`` while none is due, else ``{"handover": id, "phase", "epoch", "seed":
URL}`` as soon as the phase is another one than PHASE; ``none`` when that handover is over. With the phase ``images`` it
has ``images``: ids, and ``newest``: ``{name: id}``; with ``records`` and ``commit`` it has ``archive``: ``{"path",
"size", "sha256"}``, and ``tables``: ``{name: [rows, sha256]}``; ``commit`` means that the epoch has moved and is that
node's.
``POST HANDOVER_SAY``: ``{"handover": id, "say": ...}``. ``ready`` has ``service``; ``progress`` has ``bytes``,
``total`` and ``doing``; ``image`` asks by ``image``, an id, for its ``manifest``, ``signature`` and ``provenance`` in
base64; ``images`` says that all are there; ``verified`` has ``checks``, ``failed`` has ``error``, ``master`` has
``epoch``.

``state`` of a report: ``applying`` (``doing`` says what takes long), ``applied``, ``failed`` (nothing was changed),
``rolled-back``, ``broken`` or ``unconfirmed`` (it is taken back unless this message is answered); ``generation`` is the
one that the state speaks of. A report also has
``applied`` (the generation in force, 0 for none), ``warnings`` (texts, such as an answer that was ignored), ``drift``:
``{path: diff}`` of files that somebody else has changed, ``services``: ``{unit: state}`` of units that managed files
name, ``seconds``: ``{step: seconds}`` of the newest change, and ``clock``: the sender's, in seconds since the epoch.
Until they were taken once it has ``diff`` (text) and ``validators``: ``[{"path", "command", "code", "seconds",
"said"}]`` of that change. With ``confirming``, a generation, it asks over a new connection for the answer ``{"heard":
generation}``; any authenticated answer will do.
``metadata`` with ``drain``, ``{"id": text, "for": "release" | "rebuild", "role_ends": bool}``, are not brought into
force: the instance is drained, until a generation comes without. A report has ``drain``: ``{"scripts": how many there
are}`` and, while it is asked for, ``id``, ``state`` (``running``, ``drained`` or ``failed``), ``script``, ``error`` and
``phases``. An agent that knows of no drain reports none, and takes the generation as any other.
``metadata`` are the node's own; what it shares with others are the parts that it names: see :mod:`.parts`. No secret
is in these: ``references`` (``[[path, name], ...]``) say which of the node's ``secrets`` belongs where in the values.
The signature is of their one form as text, by the key that the agent's configuration names as ``signer``; a part is
proved by its id.
``probes``: ``{name: {"ok": bool, "output": text, "scope": "node" | "role"}}``.
``phases``: ``[{"phase", "script", "seconds", "code"}]``.
"""

from __future__ import annotations

HELLO = "/agent/v1/ramdisk/hello"
ORDER = "/agent/v1/ramdisk/order"
PROGRESS = "/agent/v1/ramdisk/progress"
RESULT = "/agent/v1/ramdisk/result"
METADATA = "/agent/v1/metadata"
BETWEEN = ","
"""Stands between the ids of parts in a request for metadata."""
REPORT = "/agent/v1/report"
DRAIN = "drain"
"""The key in metadata and reports, and these are states of it."""
DRAINING, DRAINED, DRAIN_FAILED = "running", "drained", "failed"
PERMIT = "/agent/v1/permit"
RECOVER = "/agent/v1/recover"
HANDOVER = "/agent/v1/handover"
HANDOVER_SAY = "/agent/v1/handover/say"
ARCHIVE = "/handover"
"""``GET ARCHIVE/TOKEN`` serves the records and keys of the site once, to whoever has the token of the offer."""
IMAGES = "/images"
"""``GET IMAGES/ID/NAME`` serves a file of an image, with ranges (RFC 9110, section 14); not authenticated, since
every byte is checked against hashes that came in an authenticated order."""

RAMDISK_CA_ARGUMENT = "provisioner.ca"
"""The authority of the service's certificate: DER (X.690) in base64url (RFC 4648, section 5) without padding."""
RAMDISK_CLOCK_ARGUMENT = "provisioner.clock"
"""Seconds since the epoch when the boot script was served; a node's own clock may be years off."""
RAMDISK_PROVE_ARGUMENT = "provisioner.prove"
"""Given when the ramdisk must prove by its controller which server it runs on."""
RAMDISK_MAC_ARGUMENT = "provisioner.mac"
RAMDISK_TOKEN_ARGUMENT = "provisioner.token"
RAMDISK_URL_ARGUMENT = "provisioner.url"
RAMDISK_TRIAL_ARGUMENT = "provisioner.trial"
"""The serial port on which a ramdisk under test says what hardware it found."""

AGENT_CONFIG = "/etc/provisioner-agent/agent.json"
"""``{"url": servers, "ca": PEM, "token": "ID.SECRET", "signer": PEM, "node": name, "hostname": text}``, mode 0600.

``whole_disk`` (bool): somebody brought the image, so the agent looks itself from which partition it runs."""

LONG_POLL = 25.0
"""Seconds a guest asks the server to hold a request open."""
METADATA_POLL = 290.0
"""The same of a request for metadata: rarely is there a change, and a server that has gone is noticed by TCP."""
