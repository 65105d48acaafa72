"""The command ``install`` of the config agent as one file, ``agent.pyz``: for images that somebody else made.

cloud-init runs it once: it puts the command, the units of systemd and what else the file brings in their places, and
starts the agent. Where that cannot be, the server is told why.

Also a Python that is too old for the agent must understand this module, to say that it is: it is written for 3.6, and
imports nothing of ours.
"""

import hashlib
import hmac
import http.client
import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

OLDEST = (3, 9)
BROUGHT = "files/"
"""Folder in the file of what it brings, by path from the root."""
COMMAND = "/usr/local/bin/provisioner-agent"
CONFIG = "etc/provisioner-agent/agent.json"
SEEDED = "agent.json"
"""The configuration, beside the file: an agent that the image may have does not begin with it."""
TREES = ("usr/libexec/provisioner-agent/templates", "usr/libexec/os-refresh-config")
"""Of templates and phase scripts; what the image has there is of another agent."""
UNITS = ("provisioner-agent.service", "provisioner-agent-settle.service", "provisioner-agent-watch.service")
CLASSIC = ("apply", "refresh", "collect")
"""Commands that scripts of OpenStack's era call by the names of its tools."""
METADATA, REPORT = "/agent/v1/metadata?since=0&wait=0", "/agent/v1/report"
PAUSE, TRIES, SECONDS = 5.0, 60, 30.0
"""Seconds between the tries of a message, how many there are, and seconds until one has failed."""


class Unfit(Exception):
    """The agent cannot run here. ``hint``: what to do."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.hint = hint


def main() -> None:
    """``agent.pyz install [--root FOLDER]``; any other words are for a Python that is newer."""
    if sys.argv[1:2] != ["install"]:
        sys.exit(f"provisioner-agent: {_too_old()}")
    sys.exit(install_or_tell(Path(sys.argv[3] if sys.argv[2:3] == ["--root"] else "/")))


def install_or_tell(root: Path) -> int:
    """Exit code 0: the agent is there, and starts. 1: it cannot be, and the server knows, if it could be reached."""
    try:
        install(root)
    except (Unfit, OSError) as error:
        hint = error.hint if isinstance(error, Unfit) else "mend that in the image, and import it again"
        print(f"provisioner: the config agent cannot run in this image: {error}; {hint}", file=sys.stderr)
        tell(root, str(error), hint)
        return 1
    return 0


def install(root: Path) -> None:
    """:raises Unfit: :raises OSError: something cannot be written."""
    check(root)
    own = Path(sys.argv[0]).resolve()
    for tree in TREES:
        shutil.rmtree(str(root / tree), ignore_errors=True)
        (root / tree).mkdir(parents=True)
    with zipfile.ZipFile(str(own)) as archive:
        for info in archive.infolist():
            if info.filename.startswith(BROUGHT):
                write(root / info.filename[len(BROUGHT) :], archive.read(info), info.external_attr >> 16)
    command = root / COMMAND.lstrip("/")
    write(command, f'#!/bin/sh\nexec {sys.executable} {own} "$@"\n'.encode(), 0o755)
    for name in CLASSIC:
        write(command.parent / f"os-{name}-config", f'#!/bin/sh\nexec {COMMAND} {name} "$@"\n'.encode(), 0o755)
    write(root / CONFIG, json.dumps(read_config(root), indent=1).encode(), 0o600)
    if seeded_config().exists():
        seeded_config().unlink()
    if root == Path("/"):
        # What waits for the end of the boot waits for cloud-init too, so it is not waited for here.
        for words in (("daemon-reload",), ("enable", *UNITS), ("--no-block", "restart", UNITS[0])):
            done = subprocess.run(["systemctl", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode != 0:
                said = done.stdout.decode(errors="replace").strip()
                raise Unfit(f"systemctl {' '.join(words)}: {said}", "mend that in the image, and import it again")


def check(root: Path) -> None:
    """:raises Unfit: something that the agent needs is not there."""
    if sys.version_info < OLDEST:
        raise Unfit(
            _too_old(), "import an image that has a newer one as python3 or python3.N, then deploy the node again"
        )
    if not (root / "run/systemd/system").is_dir():
        raise Unfit("systemd does not run here", "import an image that systemd starts, then deploy the node again")
    if shutil.which("openssl") is None:
        hint = "add it to the image, or to cloud_config: {packages: [openssl]}, then deploy the node again"
        raise Unfit("there is no openssl, which checks signatures", hint)


def _too_old() -> str:
    major, minor = OLDEST
    return f"{sys.executable} is Python {sys.version.split()[0]}, and the agent needs {major}.{minor}"


def write(path: Path, data: bytes, mode: int) -> None:
    """All of a file, or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.unfinished")
    with fresh.open("wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(fresh), str(path))


def read_config(root: Path) -> Any:
    """As it was seeded, or as it is when this is run again. :raises OSError: there is none."""
    return json.loads((seeded_config() if seeded_config().exists() else root / CONFIG).read_text())


def seeded_config() -> Path:
    return Path(sys.argv[0]).resolve().with_name(SEEDED)


def tell(root: Path, cause: str, hint: str) -> None:
    """Report that the newest generation does not come into force. After some minutes without a server, give up."""
    config = read_config(root)
    error = {"summary": "the config agent cannot run in this image", "cause": cause, "hint": hint}
    report = {"applied": 0, "state": "failed", "healthy": False, "probes": {}, "phases": [], "error": error}
    report.update({"boot_id": "", "root": "", "warnings": []})
    for left in reversed(range(TRIES)):
        try:
            newest = json.loads(call(config, "GET", METADATA, b"").decode()).get("generation", 0)
            call(config, "POST", REPORT, json.dumps(dict(report, generation=newest)).encode())
            return
        except (OSError, ValueError, http.client.HTTPException) as problem:
            print(f"provisioner: the server was not told: {problem}", file=sys.stderr)
            if left:
                time.sleep(PAUSE)


def call(config: Any, method: str, target: str, body: bytes) -> bytes:
    """One message, as :mod:`provisioner_agent.protocol.auth` says. That the answer is the server's is shown by its
    certificate; nothing is made of it but a number.

    :raises OSError: nobody answers, or says no.
    """
    ident, _, secret = config["token"].partition(".")
    nonce = secrets.token_hex(16)
    lines = "\n".join(("request", method, target, nonce, hashlib.sha256(body).hexdigest()))
    mac = hmac.new(secret.encode(), lines.encode(), hashlib.sha256).hexdigest()
    headers = {"Provisioner-Id": ident, "Provisioner-Nonce": nonce, "Provisioner-Mac": mac}
    problem = "no server is named"
    for url in map(urlsplit, config["url"].split(",")):
        link = open_link(url.scheme, url.hostname or "", url.port, config)
        try:
            link.request(method, target, body=body, headers=headers)
            answer = link.getresponse()
            data = answer.read()
            if answer.status == 200:
                return data
            problem = f"{url.netloc} answers {answer.status}"
        except OSError as error:
            problem = f"{url.netloc}: {error}"
        finally:
            link.close()
    raise OSError(problem)


def open_link(scheme: str, host: str, port: Any, config: Any) -> http.client.HTTPConnection:
    if scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=SECONDS)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=config["ca"])
    return http.client.HTTPSConnection(host, port, timeout=SECONDS, context=trust)
