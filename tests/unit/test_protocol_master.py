"""Who is the master: a guest goes on with the next address, learns new ones, and never obeys an older epoch."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from agent_server import TOKEN, AgentServer, served

from provisioner_agent.instance import places
from provisioner_agent.instance.host import LinuxHost
from provisioner_agent.instance.run import open_link
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import ForgedAnswer, HttpLink, ServerAway
from provisioner_agent.protocol.servers import Servers


def ask(link: HttpLink) -> None:
    link.call("POST", messages.REPORT, {}, timeout=5)


def said(server: AgentServer, epoch: int, *others: AgentServer) -> None:
    server.master = f"{epoch} {','.join(one.url for one in (server, *others))}"


def test_an_agent_learns_where_the_master_will_be_and_finds_it_there(tmp_path: Path) -> None:
    """Also one that was asleep when it moved: what it heard last is on its disk."""
    host = LinuxHost(tmp_path)
    with served() as first, served() as second:
        first.master = f"1 {second.url},{first.url}"
        config = {"url": first.url, "token": TOKEN}
        with closing(open_link(host, config)) as link:
            ask(link)
        assert host.read(places.MASTER) is not None
        said(second, 2)
        first.deaf = lambda: True
        with closing(open_link(host, config)) as asleep:
            ask(asleep)  # the address that it was told of comes before the one that it was made with
        assert len(second.reports) == 1
        state = host.read(places.MASTER)
        assert state is not None and state.data.decode() == f"2 {second.url}"


def test_who_was_the_master_is_not_obeyed_any_more(tmp_path: Path) -> None:
    host = LinuxHost(tmp_path)
    with served() as old, served() as new:
        said(old, 1)
        said(new, 2, old)
        config = {"url": f"{new.url},{old.url}", "token": TOKEN}
        with closing(open_link(host, config)) as link:
            ask(link)
            new.deaf = lambda: True
            link.close()
            with pytest.raises(ServerAway):
                ask(link)
            with pytest.raises(ServerAway, match="at epoch 1, and 2 was heard"):
                ask(link)
            new.deaf = bool
            ask(link)
        with closing(open_link(host, config)) as again:  # it remembers
            again._servers.is_away(again._servers.at_hand)
            with pytest.raises(ServerAway, match="at epoch 1"):
                ask(again)


def test_what_is_said_of_the_master_cannot_be_taken_out_of_an_answer() -> None:
    with served() as server:
        said(server, 3)
        server.forge = "master"
        with closing(HttpLink(Servers(server.url), TOKEN)) as link, pytest.raises(ForgedAnswer):
            ask(link)


def test_a_service_of_before_epochs_is_heard_also_by_an_agent_that_knows_one(tmp_path: Path) -> None:
    with served() as server, closing(HttpLink(Servers(server.url, known="2 http://127.0.0.1:1"), TOKEN)) as link:
        with pytest.raises(ServerAway):
            ask(link)
        ask(link)
        assert server.reports


@pytest.mark.parametrize("text", ["x", "", "2", "999999999999999999999 ", "2 ,"])
def test_a_file_that_was_cut_off_costs_nothing(text: str) -> None:
    with served() as server, closing(HttpLink(Servers(server.url, known=text), TOKEN)) as link:
        ask(link)


def test_an_answer_that_nobody_signed_sends_the_agent_to_the_next_address() -> None:
    """As a service gives it that is the master no more."""
    with served() as stranger, served() as server:
        servers = Servers(f"{stranger.url},{server.url}")
        with closing(HttpLink(servers, "agent-1.another")) as link, pytest.raises(ServerAway, match="401"):
            ask(link)
        assert servers.at_hand.geturl() == server.url


def test_who_means_one_server_does_not_follow_it_elsewhere() -> None:
    with served() as first, served() as second:
        said(first, 1, second)
        servers = Servers(first.url, follows=False)
        with closing(HttpLink(servers, TOKEN)) as link:
            ask(link)
            servers.is_away(servers.at_hand)
            ask(link)
        assert len(first.reports) == 2 and not second.reports and servers.epoch == 1
