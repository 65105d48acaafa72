"""A site without a mirror: a fresh Debian tree without network takes in a bundle, and builds a changed image of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rack import ROOT
from test_images import Site

from provisioner.images.debian import RELEASE
from provisioner.images.workshop import Workshop, read_sources

CHANGED = "site/source/elements/galera/install.d/70-galera"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A Debian with nothing installed by hand, with what a chroot needs mounted."""
    tree = tmp_path / "tree"
    text = "".join(f"{source.line()}\n" for source in read_sources(Workshop.apt))
    subprocess.run(["mmdebstrap", "--variant=apt", RELEASE, str(tree), "-"], input=text.encode(), check=True)
    mounts = [["--rbind", "/dev", "dev"], ["-t", "proc", "proc", "proc"], ["-t", "sysfs", "sys", "sys"]]
    mounts += [["-t", "tmpfs", "tmp", "tmp"], ["-t", "tmpfs", "run", "run"]]
    subprocess.run(["mount", "--bind", tree, tree], check=True)
    try:
        subprocess.run(["mount", "--make-private", tree], check=True)
        for *words, place in mounts:
            subprocess.run(["mount", *words, tree / place], check=True)
        subprocess.run(["mount", "--make-rslave", tree / "dev"], check=True)
        yield tree
    finally:
        subprocess.run(["umount", "-R", "-l", tree], check=False)


@pytest.mark.bundle
def test_a_site_without_a_mirror(tree: Path, tmp_path: Path) -> None:
    site = Site(tmp_path / "here", ROOT / ".tox" / "rack")
    site.config.write_text(site.config.read_text().replace(str(site.source), str(ROOT)))
    site.run("image", "build", "--no-test")
    said = site.run("image", "export", "--bundle", str(tmp_path / "site.tar"))
    key = said.partition("signed by ")[2].split()[0]
    (tree / "root/site").mkdir()
    subprocess.run(["tar", "-C", tree / "root/site", "-xf", tmp_path / "site.tar"], check=True)
    (tmp_path / "site.tar").unlink()

    def inside(command: str) -> str:
        words = ["unshare", "-n", "chroot", str(tree), "bash", "-ec", f"cd /root; {command}"]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    assert "nothing changed" in inside(f"site/source/seed/bootstrap --bundle site --trust {key}")
    program = "/var/lib/provisioner/venv/bin/provisioner"
    inside("printf '[DEFAULT]\\nsource_dir = /root/site/source\\napt_sources = /root/site/sources.list\\n' >p.conf")
    inside(f"echo '# changed' >>{CHANGED}")
    assert "install.d/70-galera changed" in inside(f"{program} --config p.conf image build galera --no-test")
    inside("echo '# changed' >>site/source/elements/galera/pre-install.d/20-galera")
    assert "layer galera: made" in inside(f"{program} --config p.conf image build galera --no-test")
