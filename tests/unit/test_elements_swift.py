"""Images of guests on all controllers: where Swift's rings put them, and what is there only when they are asked for."""

from __future__ import annotations

import configparser
import json
import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from test_elements_openstack import (
    ROLES,
    ROOT,
    Controller,
    Keystone,
    catalog,
    controller,
    keystone,
    metadata,
    rendered,
    status,
)

from provisioner.cli.main import main
from provisioner.cli.options import Options

__all__ = ("controller", "keystone")
SCRIPT = ROOT / "elements/controller/os-refresh-config/configure.d/45-swift"
FILES = {
    "/etc/swift/swift.conf", "/etc/swift/proxy-server.conf", "/etc/swift/account-server.conf",
    "/etc/swift/container-server.conf", "/etc/swift/object-server.conf", "/etc/glance/glance-swift.conf",
    "/etc/systemd/system/openstack-images.service", "/etc/systemd/system/openstack-images.timer",
}  # fmt: skip
CASES = yaml.safe_load((Path(__file__).parent / "cases" / "swift-rings.yaml").read_text())


def load() -> Any:
    """The phase script as a module."""
    loader = SourceFileLoader("swift_phase", str(SCRIPT))
    spec = spec_from_loader("swift_phase", loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def member(index: int, address: str) -> dict[str, Any]:
    return {"hostname": f"controller-{index}", "node": f"n{index}", "index": index, "address": address}


@pytest.mark.parametrize("name", CASES)
def test_rings(name: str) -> None:
    case = CASES[name]
    members = [member(index, address) for index, address in case["members"].items()]
    for order in (members, members[::-1]):  # each controller names itself where it likes
        devices, replicas = load().build_ring("object", order)
        assert [one and one["ip"] for one in devices] == case["devices"]
        assert [one["id"] for one in devices if one] == [number for number, one in enumerate(devices) if one]
        assert [row[:4] for row in replicas] == case["first_partitions"]
        for row in replicas:
            assert len(row) == 256
        for held in zip(*replicas, strict=True):
            assert sorted(held) == sorted(case["members"]), "each partition is on each device once"


def test_who_takes_a_members_place_moves_nothing() -> None:
    build = load().build_ring
    _, before = build("object", [member(0, "10.0.0.1"), member(1, "10.0.0.2"), member(2, "10.0.0.3")])
    devices, after = build("object", [member(0, "10.0.0.1"), member(1, "10.0.0.9"), member(2, "10.0.0.3")])
    assert before == after and devices[1]["ip"] == devices[1]["replication_ip"] == "10.0.0.9"


def test_rings_name_the_ports_at_which_the_servers_listen() -> None:
    files, module = rendered("controller", 3, controller={"swift": True}), load()
    firewall = ROLES["controller"].firewall
    assert firewall is not None
    (rule,) = (rule for rule in firewall.allow if "Swift" in rule.note)
    assert rule.source.role == "controller" and rule.ports == (873, "6200-6202", 8080)
    for name, port in module.PORTS.items():
        conf = configparser.RawConfigParser()
        conf.read_string(files[f"/etc/swift/{name}-server.conf"].content)
        ring, _ = module.build_ring(name, [member(0, "10.0.0.1")])
        assert (conf["DEFAULT"]["bind_ip"], int(conf["DEFAULT"]["bind_port"])) == ("10.0.0.0", port)
        assert ring[0]["port"] == port and 6200 <= port <= 6202
        assert conf["DEFAULT"]["devices"] == str(module.NODE)
        assert f"[{name}]" in files["/etc/rsyncd.conf"].content, "its replicator sends to a module of this name"


@pytest.mark.parametrize(("count", "values", "code"), [(1, "", 0), (3, "", 1), (3, "swift: true", 0)])
def test_a_plan_of_several_controllers_asks_for_swift(tmp_path: Path, count: int, values: str, code: int) -> None:
    cloud, config = tmp_path / "cloud.yaml", tmp_path / "provisioner.conf"
    config.write_text(f"[DEFAULT]\nrun_dir = {tmp_path}\nstate_dir = {tmp_path}\nsource_dir = {ROOT}\n")
    cloud.write_text(
        "cloud: lab\nnetworks: {rack: {cidr: 10.0.0.0/24, pool: 10.0.0.20-10.0.0.60}}\n"
        f"roles: {{galera: {{count: 1}}, controller: {{count: {count}, values: {{controller: {{{values}}}}}}}}}\n"
    )
    words = ["--config", str(config), "config", "explain", str(cloud), "controller-0", "controller.swift"]
    done = CliRunner().invoke(main, words, obj=Options())
    assert done.exit_code == code, done.output
    assert ("controller has 3 members, and controller.swift is false, which is for one" in done.output) == bool(code)


def test_secrets_of_swift_are_for_those_who_read_them() -> None:
    files = rendered("controller", 3, controller={"swift": True})
    owners = {path: files[path].group for path in FILES if "secret-" in files[path].content}
    assert owners == {
        "/etc/swift/swift.conf": "swift",
        "/etc/swift/proxy-server.conf": "swift",
        "/etc/glance/glance-swift.conf": "glance",
    }
    assert all(files[path].sensitive and not files[path].mode & 0o007 for path in owners)


def test_of_files_nothing_of_swift_is_there() -> None:
    files = rendered("controller")
    assert not FILES & files.keys() and "/etc/rsyncd.conf" not in files
    assert not any("swift" in unit for file in files.values() for unit in file.services)
    assert "stores = file\ndefault_store = file\n" in files["/etc/glance/glance-api.conf"].content
    front = rendered("controller", frontend={"address": "10.0.0.99"})["/etc/haproxy/conf.d/openstack.cfg"].content
    assert "8080" not in front


@pytest.mark.parametrize(("controllers", "copied"), [(1, False), (3, True)])
def test_what_copies_to_others_runs_where_there_are_any(controllers: int, copied: bool) -> None:
    files = rendered("controller", controllers, controller={"swift": True})
    units = {unit.removesuffix(".service") for file in files.values() for unit in file.services}
    assert files.keys() >= FILES and ("/etc/rsyncd.conf" in files) == copied
    single = {"swift-proxy", "swift-account", "swift-container", "swift-object", "swift-object-updater"}
    several = {"rsync", "swift-object-auditor"} | {f"swift-{kind}-replicator" for kind in load().PORTS}
    assert {unit for unit in units if "swift" in unit or unit == "rsync"} == single | (several if copied else set())
    listed = (ROOT / "elements/controller/units").read_text().split()
    assert {f"{unit}.service" for unit in single | several} < set(listed), "off until the agent starts it"


def test_glance_asks_any_controller_and_finds_swift_where_the_catalog_says(
    controller: Controller, keystone: Keystone
) -> None:
    given: dict[str, Any] = {"controller": {"swift": True}, "frontend": {"address": "10.0.0.99"}}
    given["openstack"] = {"address": "10.0.0.99", "tls": True}
    files = rendered("controller", 3, **given)
    front = files["/etc/haproxy/conf.d/openstack.cfg"].content
    assert "bind 10.0.0.99:8080 ssl " in front and "server controller-2 10.0.0.2:8080\n" in front
    glance, account = (configparser.RawConfigParser() for _ in range(2))
    glance.read_string(files["/etc/glance/glance-api.conf"].content)
    store = glance["glance_store"]
    account.read_string(files[store["swift_store_config_file"]].content)
    known = account[store["default_swift_reference"]]
    assert (known["user"], known["key"], known["auth_version"]) == ("service:glance", "secret-glance_password", "3")
    assert store["stores"] == "file, swift" and store["default_store"] == "swift"
    assert store["swift_store_cacert"] == "/etc/ssl/openstack-authority.pem"
    controller.document = metadata("controller", 3, **given)
    code, said, _ = catalog(controller, keystone)
    assert code == 0, said
    (service,) = (one for one in keystone.kept["services"] if one["type"] == store["swift_store_service_type"])
    ends = [one for one in keystone.kept["endpoints"] if one["service_id"] == service["id"]]
    assert [(one["interface"], one["url"]) for one in ends] == [
        ("internal", "https://10.0.0.99:8080/v1/AUTH_%(project_id)s")
    ]
    assert store["swift_store_endpoint_type"] == "internalURL"
    assert "swift" in {user["name"] for user in keystone.kept["users"]}
    assert catalog(controller, keystone) == (0, "", [])


def test_one_object_holds_the_largest_image() -> None:
    files = rendered("controller", 3, controller={"swift": True})
    largest = re.search(r"(?m)^max_file_size = (\d+)$", files["/etc/swift/swift.conf"].content)
    glance = re.findall(r"(?m)^swift_store_large_object\w* = (\d+)$", files["/etc/glance/glance-api.conf"].content)
    assert largest and [int(mib) << 20 for mib in glance] == [int(largest[1])] * 2


def swift(controller: Controller, **env: str) -> tuple[int, str]:
    folders = {"SWIFT_ETC": str(controller.folder / "swift"), "SWIFT_NODE": str(controller.folder / "node")}
    folders["GLANCE_IMAGES"] = str(controller.folder / "files")
    code, said, _ = controller.run(str(SCRIPT), **folders, **env)
    return code, said


def test_images_in_swift_are_not_left_there_unseen(controller: Controller) -> None:
    objects = controller.folder / "node" / "images" / "objects"
    assert swift(controller) == (0, "") and not objects.exists(), "nothing of Swift is made where it is not wanted"
    objects.mkdir(parents=True)
    assert swift(controller) == (0, "")
    (objects / "17").mkdir()
    code, said = swift(controller)
    assert code == 1 and "controller.swift: false" in said
    code, said = swift(controller, PROVISIONER_ROLLBACK="1")
    assert code == 0 and "controller.swift: false" in said, (
        "a change that fails is taken back also after the first image"
    )


DRAIN = ROOT / "elements/controller/os-refresh-config/drain.d/50-swift"
ALL = [f"swift-{kind}-replicator /etc/swift/{kind}-server.conf once" for kind in ("account", "container", "object")]


SOME, FILES_TOO = ("node/images/objects/17",), ("node/images/objects/17", "files/image")


def drain(
    controller: Controller, have: tuple[str, ...] = SOME, missed: str = "", **env: str
) -> tuple[int, str, list[str]]:
    """:param have: what is there. :param missed: the address of who does not take objects."""
    cache, log = controller.folder / "cache", controller.log
    for name in have:
        (controller.folder / name).mkdir(parents=True, exist_ok=True)
    cache.mkdir(exist_ok=True)
    controller.stand_in("systemctl", f'echo "systemctl $*" | cut -d" " -f1-3 >>{log}; [ "$2" != "$BROKEN" ] || exit 1')
    controller.stand_in("journalctl", "echo 'images: Service Unavailable'")
    for kind in ("account", "container", "object"):
        failed = {"failure": 2, "failure_nodes": {missed: {"images": 2}}}
        stats = json.dumps({"replication_stats": failed if missed and kind == "object" else {"failure": 0}})
        told = f"echo '{stats}' >{cache / kind}.recon"
        controller.stand_in(f"swift-{kind}-replicator", f'echo "swift-{kind}-replicator $*" >>{log}; {told}')
    folders = {"SWIFT_NODE": str(controller.folder / "node"), "SWIFT_CACHE": str(cache)}
    folders["GLANCE_IMAGES"] = str(controller.folder / "files")
    return controller.run(str(DRAIN), **(folders | {"PROVISIONER_DRAIN": "release"} | env))


GIVEN = "systemctl start openstack-images.service"
STOPPED, STARTED = (f"systemctl {verb} swift-account-replicator.service" for verb in ("stop", "start"))


def test_a_controller_leaves_when_the_others_have_all(controller: Controller) -> None:
    controller.document = metadata("controller", 3, controller={"swift": True})
    assert drain(controller, ()) == (0, "", []), "it has nothing"
    code, said, called = drain(controller)
    assert (code, called) == (0, [GIVEN, STOPPED, *ALL]), said
    assert "object: controller-1, controller-2 have all" in said


def test_a_controller_stays_while_another_does_not_take_what_it_has(controller: Controller) -> None:
    controller.document = metadata("controller", 3, controller={"swift": True})
    code, said, called = drain(controller, missed="10.0.0.2")
    assert (code, called) == (1, [GIVEN, STOPPED, *ALL, STARTED])
    assert "object: controller-2 did not take all" in said
    controller.stand_in("swift-container-replicator", "exit 1")
    (controller.folder / "cache" / "container.recon").write_text("{}")
    code, said, _ = controller.run(
        str(DRAIN),
        SWIFT_NODE=str(controller.folder / "node"),
        SWIFT_CACHE=str(controller.folder / "cache"),
    )
    assert code == 1 and "container: swift-container-replicator ended with code" in said


def test_a_controller_stays_while_swift_does_not_have_its_files(controller: Controller) -> None:
    controller.document = metadata("controller", 3, controller={"swift": True})
    code, said, called = drain(controller, FILES_TOO, BROKEN="openstack-images.service")
    assert (code, called) == (1, [GIVEN]), "nothing is stopped"
    assert "images: Service Unavailable\nswift: Swift does not have all images that are here as files" in said
    assert drain(controller, FILES_TOO)[0] == 0


@pytest.mark.parametrize("swift", [False, True])
@pytest.mark.parametrize(
    ("env", "have", "code"),
    [
        ({}, FILES_TOO, 1),
        ({}, (), 0),
        ({"PROVISIONER_DRAIN": "rebuild"}, FILES_TOO, 0),
        ({"PROVISIONER_ROLE_ENDS": "1"}, FILES_TOO, 0),
    ],
)
def test_nobody_is_given_the_images_of_the_only_controller(
    controller: Controller, swift: bool, env: dict[str, str], have: tuple[str, ...], code: int
) -> None:
    controller.document = metadata("controller", 1, controller={"swift": swift})
    assert drain(controller, have, **env)[::2] == (code, [])


IMAGES = ROOT / "elements/controller/bin/openstack-images"
SWIFTCLIENT = '''
"""Stands for Swift: what it is given is kept in a folder."""
import hashlib, os, pathlib
TOP = pathlib.Path(os.environ["SWIFT"])
class ClientException(Exception): pass
class Connection:
    def __init__(self, **words):
        assert words["user"] == "glance" and words["os_options"]["project_name"] == "service"
    def close(self): pass
    def put_container(self, name):
        if not TOP.exists(): raise ClientException("Service Unavailable")
    def put_object(self, container, name, file, content_length):
        data = file.read()
        assert len(data) == content_length
        (TOP / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()
    def delete_object(self, container, name): (TOP / name).unlink()
'''
GLANCE_DATABASE = Path(__file__).with_name("glance_database.py")


def give(controller: Controller, **env: str) -> tuple[int, str, dict[str, list[str]]]:
    """:returns: exit code, what it said, the places of each image."""
    folder, conf = controller.folder, "/etc/glance/glance-api.conf"
    text = rendered("controller", controller={"swift": True})[conf].content
    for path, place in (("/var/lib/glance/images", "files"), ("/etc/glance/", "etc/glance/")):
        text = text.replace(path, str(folder / place) + "/" * path.endswith("/"))
    (folder / "etc" / "glance").mkdir(exist_ok=True)
    (folder / "etc/glance/glance-api.conf").write_text(text)
    account = rendered("controller", controller={"swift": True})["/etc/glance/glance-swift.conf"].content
    (folder / "etc/glance/glance-swift.conf").write_text(account)
    (folder / "swiftclient.py").write_text(SWIFTCLIENT)
    (folder / "pymysql.py").write_text(GLANCE_DATABASE.read_text())
    code, said, _ = controller.run(str(IMAGES), SWIFT=str(folder / "swift"), **env)
    return code, said, {name: one["at"] for name, one in json.loads(controller.database.read_text()).items()}


def test_images_of_former_times_get_a_second_place_once(controller: Controller) -> None:
    files, md5 = controller.folder / "files", "900150983cd24fb0d6963f7d28e17f72"
    files.mkdir()
    known = {name: {"checksum": md5, "at": [f"file://{files}/{name}"]} for name in ("good", "bad", "elsewhere")}
    controller.database.write_text(json.dumps(known))
    assert give(controller)[0] == 0, "another controller has them"
    (files / "good").write_text("abc")
    (files / "bad").write_text("abd")
    code, said, at = give(controller)
    assert (code, len(at["good"])) == (1, 1) and "Service Unavailable; it is tried again" in said
    (controller.folder / "swift").mkdir()
    code, said, at = give(controller)
    assert code == 1 and "bad: the file is not what was uploaded once" in said
    assert at["good"] == [f"file://{files}/good", "swift+config://swift/images/good"]
    assert len(at["bad"]) == len(at["elsewhere"]) == 1
    assert [path.name for path in (controller.folder / "swift").iterdir()] == ["good"]
    (files / "bad").write_text("abc")
    code, said, at = give(controller, DELETED="bad")
    assert code == 0 and "bad: was deleted meanwhile" in said and not (controller.folder / "swift" / "bad").exists()
    assert give(controller)[0] == 0 and give(controller)[:2] == (0, "")
    assert (files / "good").read_text() == "abc"


OF_PACKAGES = ("/etc/glance/glance-swift.conf", "/etc/swift/swift.conf", "/etc/swift/proxy-server.conf")
"""Files that are there with Swift and without."""


@pytest.mark.parametrize(("count", "swift"), [(1, False), (1, True), (3, True)])
def test_probes_ask_for_what_is_configured(controller: Controller, count: int, swift: bool) -> None:
    controller.stand_in("systemctl", f'shift; echo "$*" >{controller.log}; for unit; do echo active; done')
    wanted = rendered("controller", count, controller={"swift": swift})
    for name in {*wanted, *OF_PACKAGES}:
        path = controller.folder / name.strip("/")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("")
    assert status(controller, "units") == (0, "ok")
    asked = {unit.removesuffix(".service") for unit in controller.log.read_text().split()}
    named = {unit.removesuffix(".service") for file in wanted.values() for unit in file.services}
    for unit in ("swift-proxy", "swift-object", "swift-object-updater", "swift-object-replicator", "rsync"):
        assert (unit in asked) == (unit in named), unit
    assert {unit for unit in asked if "swift" in unit} == {unit for unit in named if "swift" in unit}
