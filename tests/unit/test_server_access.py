"""Operators from elsewhere: who they are, what they may, how often, and what is on record of it."""

from __future__ import annotations

import datetime
import http.client
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from served import FakeConductor, make_node, served, served_elsewhere

from provisioner.cli.main import main
from provisioner.client.client import Client, Remote
from provisioner.errors import NotFound, ServerUnreachable, TrustError, UsageError
from provisioner.model.operator import Operator, OperatorRole
from provisioner.model.states import NodeState
from provisioner.server.access import BURST, GUESS_BURST, LARGEST_BODY, needed_role
from provisioner.server.limits import Bucket
from provisioner.store.store import Store
from provisioner.trust.ca import CA_CERTIFICATE, CA_KEY, SERVER_KEY, ensure_ca, ensure_server
from provisioner.trust.keys import SiteKeys, new_token

NOW = 1_900_000_000.0


@pytest.fixture
def conductor() -> FakeConductor:
    conductor = FakeConductor()
    conductor.node_list = [make_node(state=NodeState.ACTIVE)]
    for role in OperatorRole:
        conductor.add_operator(f"the-{role}", role, 1)
    return conductor


def remote(url: str, keys: Path, role: str) -> Client:
    return Client(Remote(url, f"the-{role}.secret", keys / CA_CERTIFICATE))


def test_each_role_may_what_it_may(conductor: FakeConductor, tmp_path: Path) -> None:
    with served_elsewhere(conductor, tmp_path) as url:
        with remote(url, tmp_path, "view") as client:
            assert [node.name for node in client.nodes()] == ["node1"]
            with pytest.raises(TrustError, match="the-view may not do this") as caught:
                client.release("node1")
            assert caught.value.cause == "it needs the role operate; this token has view"
        with remote(url, tmp_path, "operate") as client:
            client.release("node1")
            store = lambda: client.store_secret("lab", "word", "x")  # noqa: E731
            for secret in (lambda: client.cloud_secret("lab", "galera_app_password"), store, client.operators):
                with pytest.raises(TrustError, match="may not do this"):
                    secret()
        with remote(url, tmp_path, "admin") as client:
            assert client.cloud_secret("lab", "galera_app_password") == "s3cret"
            assert client.add_operator("fresh", OperatorRole.VIEW, 1) == "fresh.secret"
            client.remove_operator("fresh")
            assert {operator.name for operator in client.operators()} == {"the-view", "the-operate", "the-admin"}


def test_what_was_done_and_refused_is_on_record_and_what_was_only_looked_at_is_not(
    conductor: FakeConductor, tmp_path: Path
) -> None:
    with served_elsewhere(conductor, tmp_path) as url, remote(url, tmp_path, "view") as client:
        client.nodes()
        with pytest.raises(TrustError):
            client.release("node1")
        with remote(url, tmp_path, "operate") as other:
            other.release("node1")
    said = [event.message for event in conductor.observed]
    assert said == ["the-view: POST /v1/nodes/node1/release → 403", "the-operate: POST /v1/nodes/node1/release → 200"]
    assert conductor.observed[1].data["peer"] == "127.0.0.1"


def test_root_on_the_socket_may_everything_and_is_on_record_too(conductor: FakeConductor, tmp_path: Path) -> None:
    with served(conductor, tmp_path / "api.sock"), Client(tmp_path / "api.sock") as client:
        client.release("node1")
        client.operators()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(tmp_path / "api.sock"))) as keys:
            keys.post("http://service/v1/consoles/1")
    assert [event.message for event in conductor.observed] == ["root: POST /v1/nodes/node1/release → 200"]


def test_without_a_valid_token_nothing_is_said_and_guessing_is_slow(conductor: FakeConductor, tmp_path: Path) -> None:
    with served_elsewhere(conductor, tmp_path) as url:
        trust = ssl.create_default_context(cafile=str(tmp_path / CA_CERTIFICATE))
        with httpx.Client(verify=trust, base_url=url, trust_env=False) as asked:
            codes = [
                asked.get("/v1/nodes", headers={"authorization": f"Bearer {guess}.x"}).status_code
                for guess in range(int(GUESS_BURST) + 5)
            ]
            assert asked.get("/v1/nodes").status_code in (401, 429)
        assert codes[0] == 401 and 429 in codes and set(codes) == {401, 429}
        with remote(url, tmp_path, "view") as client:
            assert client.nodes(), "who has a token is not kept out by who has none"
    assert {event.kind for event in conductor.observed} == {"operator.unknown"}
    assert len(conductor.observed) <= GUESS_BURST + 5


def test_a_service_of_another_site_is_not_believed(conductor: FakeConductor, tmp_path: Path) -> None:
    ensure_ca(tmp_path / "other")
    with (
        served_elsewhere(conductor, tmp_path / "site") as url,
        remote(url, tmp_path / "other", "view") as client,
        pytest.raises(ServerUnreachable) as caught,
    ):
        client.nodes()
    assert "certificate" in str(caught.value.cause) and "PROVISIONER_CA" in str(caught.value.hint)


def test_a_body_without_end_is_not_read(conductor: FakeConductor, tmp_path: Path) -> None:
    with served_elsewhere(conductor, tmp_path) as url:
        trust = ssl.create_default_context(cafile=str(tmp_path / CA_CERTIFICATE))
        connection = http.client.HTTPSConnection(url.removeprefix("https://"), context=trust, timeout=10)
        connection.putrequest("POST", "/v1/plan")
        connection.putheader("authorization", "Bearer the-admin.secret")
        connection.putheader("content-length", str(LARGEST_BODY + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/v1/nodes", "view"),
        ("GET", "/v1/events", "view"),
        ("POST", "/v1/plan", "view"),
        ("GET", "/v1/nodes/n1/config", "view"),
        ("POST", "/v1/config/diff", "view"),
        ("POST", "/v1/apply", "operate"),
        ("POST", "/v1/nodes/n/forget", "operate"),
        ("POST", "/v1/consoles/1", "operate"),
        ("GET", "/v1/clouds/c/secrets/s", "admin"),
        ("POST", "/v1/nodes/n/credentials", "admin"),
        ("GET", "/v1/operators", "admin"),
        ("DELETE", "/v1/operators/x", "admin"),
    ],
)
def test_what_a_request_needs(method: str, path: str, role: str) -> None:
    assert needed_role(method, path) == role


def test_a_bucket_is_empty_after_a_burst_and_fills_again() -> None:
    bucket = Bucket(2.0, BURST, at=0.0)
    assert all(bucket.take(0.0) for _ in range(int(BURST))) and not bucket.take(0.0)
    assert bucket.take(0.5) and not bucket.take(0.5)


def test_a_token_is_on_no_record_and_ends(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}", SiteKeys.ensure(tmp_path / "keys"))
    token = new_token()
    store.operators.add(Operator(name="ci", role=OperatorRole.VIEW, created=NOW, expires=NOW + 10), token)
    found = store.operators.recognise(token, NOW)
    assert found is not None and found.name == "ci"
    assert store.operators.all()[0].used == NOW
    assert store.operators.recognise(token, NOW + 11) is None, "it has run out"
    ident = token.partition(".")[0]
    for wrong in (f"{ident}.wrong", ident, "", f"{token}x"):
        assert store.operators.recognise(wrong, NOW) is None
    store.operators.remove("ci")
    assert store.operators.recognise(token, NOW) is None
    with pytest.raises(NotFound):
        store.operators.remove("ci")
    store.close()
    assert token.partition(".")[2].encode() not in (tmp_path / "x.db").read_bytes()


def test_certificates_are_kept_while_they_fit(tmp_path: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).timestamp()
    certificate, key = ensure_server(tmp_path, tmp_path, ["127.0.0.1", "seed"], now)
    first = certificate.read_bytes()
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in (CA_KEY, SERVER_KEY)} == {0o600} and key.exists()
    assert ensure_server(tmp_path, tmp_path, ["127.0.0.1", "seed"], now)[0].read_bytes() == first
    assert ensure_server(tmp_path, tmp_path, ["127.0.0.1", "other"], now)[0].read_bytes() != first
    later = certificate.read_bytes()
    assert ensure_server(tmp_path, tmp_path, ["127.0.0.1", "other"], now + 380 * 86400)[0].read_bytes() != later
    ca = x509.load_pem_x509_certificate((tmp_path / CA_CERTIFICATE).read_bytes())
    x509.load_pem_x509_certificate(certificate.read_bytes()).verify_directly_issued_by(ca)


def test_the_command_line_asks_the_service_that_the_environment_names(
    conductor: FakeConductor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return int(ended.value.code or 0)

    with served_elsewhere(conductor, tmp_path) as url:
        (tmp_path / "token").write_text("the-admin.secret\n")
        monkeypatch.setenv("PROVISIONER_SERVER", url)
        monkeypatch.setenv("PROVISIONER_CA", str(tmp_path / CA_CERTIFICATE))
        assert call("node", "list") == 64 and "PROVISIONER_TOKEN_FILE names no file" in capsys.readouterr().err
        monkeypatch.setenv("PROVISIONER_TOKEN_FILE", str(tmp_path / "token"))
        assert call("node", "list") == 0 and "node1" in capsys.readouterr().out
        assert call("operator", "add", "dashboard") == 0 and capsys.readouterr().out == "dashboard.secret\n"
        assert call("operator", "list") == 0 and "dashboard" in capsys.readouterr().out
        assert call("operator", "remove", "dashboard") == 0
        monkeypatch.setenv("PROVISIONER_SERVER", url.replace("https", "http"))
        assert call("node", "list") == 64


def test_a_name_that_is_none_is_refused(tmp_path: Path) -> None:
    from conductor_rack import Rack

    with pytest.raises(UsageError):
        Rack(tmp_path).conductor.add_operator("No Name", OperatorRole.VIEW, 1)
