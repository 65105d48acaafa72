"""What a user of the cloud does, by its APIs alone; in the rack's namespace.

Standard input: ``{"do", "url", "password", "ca", "kernel", "ramdisk", "wait"}``. ``make``: token, image, network,
server, console, dashboard, screen. ``look``: token, then the server that is there, and its console; ``moved``: without
its console, which begins anew where it is. Prints a line of JSON for each part.
"""

from __future__ import annotations

import base64
import http.cookiejar
import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

JSON, BYTES = "application/json", "application/octet-stream"
ANSWER, GATEWAY_TIMEOUT = 600.0, 504
"""Seconds for one answer, as the front gives the services; and what it says of one that has not come by then."""
GUEST = "guest"
SLEEPS = "console=ttyS0 rdinit=/bin/sleep -- 1000000000"
"""What the guest's kernel is told: a guest that does nothing leaves the emulated processor to the cloud."""
BOOTED = "Run /bin/sleep as init process"
"""What its kernel says when it has done its own part."""


class CloudError(Exception):
    """An API's answer that is an error. ``status``: of HTTP."""

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.status = status


class Cloud:
    """The APIs of a cloud at ``base`` (scheme and host)."""

    def __init__(self, base: str, ca: str) -> None:
        self.base, self.token = base, ""
        self.context = ssl.create_default_context(cafile=ca)

    def call(self, method: str, path: str, body: Any = None, kind: str = JSON, version: str = "") -> Any:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data=data, method=method)
        request.add_header("Content-Type", kind)
        request.add_header("X-Auth-Token", self.token)
        if version:
            request.add_header("OpenStack-API-Version", version)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER, context=self.context) as answer:
                text = answer.read()
                self.token = answer.headers.get("X-Subject-Token") or self.token
                return json.loads(text) if text.lstrip()[:1] in (b"{", b"[") else text.decode()
        except urllib.error.HTTPError as error:
            said = error.read(600).decode(errors="replace")
            raise CloudError(f"{method} {path}: {error.code} {said}", error.code) from None
        except TimeoutError:
            raise CloudError(f"{method} {path}: no answer within {ANSWER:g} s", GATEWAY_TIMEOUT) from None


def log_in(cloud: Cloud, password: str) -> None:
    domain = {"domain": {"id": "default"}}
    who = {"user": {"name": "admin", "password": password, **domain}}
    scope = {"project": {"name": "admin", **domain}}
    identity = {"methods": ["password"], "password": who}
    cloud.call("POST", ":5000/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}})
    assert cloud.token


def upload(cloud: Cloud, name: str, content: bytes, **more: str) -> str:
    about = {"name": name, "disk_format": "raw", "container_format": "bare", **more}
    image = cloud.call("POST", ":9292/v2/images", about)
    cloud.call("PUT", f":9292/v2/images/{image['id']}/file", content, BYTES)
    assert cloud.call("GET", f":9292/v2/images/{image['id']}")["status"] == "active"
    return str(image["id"])


def make_image(cloud: Cloud, kernel: str, ramdisk: str) -> str:
    parts = {  # as raw files: what is called aki or ari, Nova does not take to another node when the guest moves there
        "kernel_id": upload(cloud, "kernel", Path(kernel).read_bytes()),
        "ramdisk_id": upload(cloud, "ramdisk", Path(ramdisk).read_bytes()),
        "os_command_line": SLEEPS,
    }
    return upload(cloud, "guest", bytes(1 << 20), **parts)


def make_network(cloud: Cloud) -> str:
    network = cloud.call("POST", ":9696/v2.0/networks", {"network": {"name": "guests"}})["network"]["id"]
    subnet = {"network_id": network, "ip_version": 4, "cidr": "192.168.77.0/24"}
    cloud.call("POST", ":9696/v2.0/subnets", {"subnet": subnet})
    return str(network)


def make_server(cloud: Cloud, image: str, network: str, wait: float) -> str:
    flavor = cloud.call("POST", ":8774/v2.1/flavors", {"flavor": {"name": "small", "ram": 512, "vcpus": 1, "disk": 1}})
    server = {
        "name": GUEST, "imageRef": image, "flavorRef": flavor["flavor"]["id"], "networks": [{"uuid": network}],
    }  # fmt: skip
    ident = str(cloud.call("POST", ":8774/v2.1/servers", {"server": server})["server"]["id"])
    found: dict[str, Any] = {}

    def settled() -> bool:
        found.update(cloud.call("GET", f":8774/v2.1/servers/{ident}")["server"])
        return found["status"] in ("ACTIVE", "ERROR")

    wait_for("the server is ACTIVE", settled, wait)
    assert found["status"] == "ACTIVE", found.get("fault")
    return ident


def use_dashboard(cloud: Cloud, password: str) -> bool:
    """As a browser: log in, then look at the guests. :returns: whether the guest is among them."""
    handlers = (
        urllib.request.HTTPSHandler(context=cloud.context),
        urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
    )
    browser = urllib.request.build_opener(*handlers)
    url = f"{cloud.base}/horizon/auth/login/"
    form = browser.open(url, timeout=ANSWER).read().decode()
    hidden = re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', form)
    fields = {**dict(hidden), "username": "admin", "password": password}
    sent = urllib.request.Request(url, urllib.parse.urlencode(fields).encode(), {"Referer": url})
    with browser.open(sent, timeout=ANSWER) as page:
        assert "/auth/login" not in page.url, "the dashboard lets nobody in"
    with browser.open(f"{cloud.base}/horizon/project/instances/", timeout=ANSWER) as page:
        return f">{GUEST}<" in page.read().decode()


def open_screen(cloud: Cloud, server: str) -> str:
    """As noVNC does, by a WebSocket (RFC 6455). :returns: what the guest's screen speaks (RFC 6143, 7.1.1)."""
    wanted = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
    path = f":8774/v2.1/servers/{server}/remote-consoles"
    url = cloud.call("POST", path, wanted, version="compute 2.6")["remote_console"]["url"]
    with urllib.request.urlopen(url, timeout=ANSWER, context=cloud.context) as page:
        assert b"noVNC" in page.read()
    where = urllib.parse.urlsplit(url)
    (inner,) = urllib.parse.parse_qs(where.query)["path"]
    headers = {
        "Host": where.netloc, "Origin": f"https://{where.netloc}", "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": "binary",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }  # fmt: skip
    words = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with (
        socket.create_connection((where.hostname or "", where.port or 443), timeout=ANSWER) as plain,
        cloud.context.wrap_socket(plain, server_hostname=where.hostname) as door,
    ):
        door.sendall(f"GET /{inner} HTTP/1.1\r\n{words}\r\n".encode())
        heard = b""
        while not (found := re.search(rb"RFB \d{3}\.\d{3}", heard)) and (more := door.recv(4096)):
            heard += more
    assert found is not None, heard
    return found[0].decode()


def wait_for(what: str, holds: Callable[[], bool], seconds: float) -> None:
    """A service that gives up waiting for another (5xx) is asked again, as any tool of a cloud's user does."""
    end, said = time.monotonic() + seconds, ""
    while True:
        try:
            if holds():
                return
        except CloudError as error:
            if error.status < 500:
                raise
            said = f"; {error}"
            print(f"{what}: {error}", file=sys.stderr, flush=True)
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}{said}"
        time.sleep(3)


def main() -> None:
    given = json.load(sys.stdin)
    cloud, began = Cloud(given["url"], given["ca"]), time.monotonic()

    def done(part: str, **more: Any) -> None:
        nonlocal began
        print(json.dumps({"part": part, "seconds": round(time.monotonic() - began, 1), **more}), flush=True)
        began = time.monotonic()

    log_in(cloud, given["password"])
    done("token")
    if given["do"] == "make":
        image = make_image(cloud, given["kernel"], given["ramdisk"])
        done("image")
        network = make_network(cloud)
        done("network")

        def taken_in() -> bool:
            return bool(cloud.call("GET", ":8774/v2.1/os-hypervisors")["hypervisors"])

        wait_for("the compute node is taken in", taken_in, given["wait"])
        make_server(cloud, image, network, given["wait"])
        done("server")
    found: dict[str, Any] = {}

    def runs() -> bool:
        (server,) = cloud.call("GET", f":8774/v2.1/servers/detail?name={GUEST}")["servers"]
        found.update(server)
        return bool(server["status"] == "ACTIVE" and server["OS-EXT-STS:power_state"] == 1)

    wait_for("the guest runs", runs, given["wait"])
    said = {"output": ""}

    def booted() -> bool:
        said.update(cloud.call("POST", f":8774/v2.1/servers/{found['id']}/action", {"os-getConsoleOutput": {}}))
        return BOOTED in said["output"]

    if given["do"] != "moved":
        wait_for("the guest's kernel has booted", booted, given["wait"])
    told: dict[str, Any] = {}

    def explained() -> bool:
        told.update(cloud.call("GET", f":8774/v2.1/servers/{found['id']}/diagnostics", version="compute 2.48"))
        return True

    wait_for("the compute node says what the guest runs on", explained, given["wait"])
    hosts = [one["hypervisor_hostname"] for one in cloud.call("GET", ":8774/v2.1/os-hypervisors")["hypervisors"]]
    host = found["OS-EXT-SRV-ATTR:host"]
    state = {"hypervisor": told["hypervisor"], "state": told["state"], "host": host, "hosts": hosts}
    done("moved" if given["do"] == "moved" else "console", **state, said=said["output"][-400:])
    if given["do"] == "make":
        done("dashboard", shown=use_dashboard(cloud, given["password"]))
        done("screen", screen=open_screen(cloud, found["id"]))


if __name__ == "__main__":
    main()
