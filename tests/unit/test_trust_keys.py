"""The site's keys: made once whoever comes first, private, and the only ones that hold."""

from __future__ import annotations

import re
import stat
import threading
from pathlib import Path

import pytest

from provisioner.errors import TrustError
from provisioner.trust.keys import ENCRYPTION_KEY, SIGNING_KEY, SiteKeys, new_secret, new_token


def test_keys_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = SiteKeys.ensure(folder)
    second = SiteKeys.ensure(folder)
    assert second.decrypt(first.encrypt("väry sécret")) == "väry sécret"
    assert second.public_key_pem == first.public_key_pem
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        ENCRYPTION_KEY: 0o600,
        SIGNING_KEY: 0o600,
    }


def test_all_who_start_at_once_end_up_with_the_same_keys(tmp_path: Path) -> None:
    made: list[SiteKeys] = []
    start = threading.Barrier(8)

    def ensure() -> None:
        start.wait()
        made.append(SiteKeys.ensure(tmp_path / "keys"))

    threads = [threading.Thread(target=ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({keys.public_key_pem for keys in made}) == 1
    token = made[0].encrypt("secret")
    assert [keys.decrypt(token) for keys in made] == ["secret"] * 8
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == [ENCRYPTION_KEY, SIGNING_KEY]


@pytest.mark.parametrize("name", [ENCRYPTION_KEY, SIGNING_KEY])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    SiteKeys.ensure(tmp_path)
    (tmp_path / name).chmod(0o640)
    with pytest.raises(TrustError) as caught:
        SiteKeys.ensure(tmp_path)
    assert caught.value.hint == f"chmod 0600 {tmp_path / name}"


@pytest.mark.parametrize("name", [ENCRYPTION_KEY, SIGNING_KEY])
def test_a_damaged_key_is_an_error_that_shows_nothing_of_it(tmp_path: Path, name: str) -> None:
    SiteKeys.ensure(tmp_path)
    (tmp_path / name).write_bytes(b"half a k")
    with pytest.raises(TrustError) as caught:
        SiteKeys.ensure(tmp_path)
    assert "half a k" not in str(caught.value.to_dict())


def test_what_another_site_encrypted_does_not_open(tmp_path: Path) -> None:
    ours, theirs = SiteKeys.ensure(tmp_path / "ours"), SiteKeys.ensure(tmp_path / "theirs")
    for token in (theirs.encrypt("x"), "", "no token", ours.encrypt("x")[:-4] + "AAA="):
        with pytest.raises(TrustError):
            ours.decrypt(token)


def test_a_signature_holds_for_its_data_and_its_site_only(tmp_path: Path) -> None:
    ours, theirs = SiteKeys.ensure(tmp_path / "ours"), SiteKeys.ensure(tmp_path / "theirs")
    signature = ours.sign(b"manifest")
    ours.verify(b"manifest", signature)
    for keys, data, given in (
        (ours, b"manifes7", signature),
        (theirs, b"manifest", signature),
        (ours, b"manifest", b""),
    ):
        with pytest.raises(TrustError):
            keys.verify(data, given)


def test_tokens_and_secrets_are_fresh_and_safe_to_write_anywhere() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{16}\.[A-Za-z0-9_-]{43}", new_token()) for _ in range(50))
    assert all(re.fullmatch(r"[A-Za-z0-9]{24,}", new_secret()) for _ in range(50))
    assert len({new_token() for _ in range(50)} | {new_secret() for _ in range(50)}) == 100
