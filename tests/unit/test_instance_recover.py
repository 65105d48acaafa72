"""``provisioner-agent recover``: what a phase script says to the server, and what it hears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from provisioner_agent.instance.recover import ask, main
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import FakeLink, Refused, ServerAway

LEAD = {"verdict": "lead", "why": "it had come furthest", "fence": 3}


def link(answer: Any) -> FakeLink:
    def call(method: str, target: str, body: dict[str, Any]) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return FakeLink(call)


def test_the_servers_answer_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    server = link(LEAD)
    assert ask(server, "a", 7, 10.0) == 0
    assert json.loads(capsys.readouterr().out) == LEAD
    assert server.calls == [("POST", messages.RECOVER, {"history": "a", "sequence": 7, "wait": 10.0})]


@pytest.mark.parametrize(
    "answer", [ServerAway("it is off"), Refused("not found"), {}, {"verdict": "begin"}, None, ["lead"]]
)
def test_a_server_that_is_away_or_older_is_told_from_an_answer(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(link(answer), "a", 7, 10.0) == 75
    said = capsys.readouterr()
    assert said.out == "" and said.err


@pytest.mark.parametrize(("words", "code"), [([], 64), (["a", "x"], 64), (["--help"], 0), (["--", "", "-1"], 1)])
def test_words(words: list[str], code: int, tmp_path: Path) -> None:
    """The last without a configuration of the agent."""
    with pytest.raises(SystemExit) as end:
        main(["--root", str(tmp_path), *words] if code == 1 else words, "provisioner-agent recover")
    assert end.value.code == code
