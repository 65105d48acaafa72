"""Whatever the policies, in whatever order agents ask, change, fail, fall ill and are let alone: no policy is broken.

And in the end every change is in force."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from conductor_rack import role
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from members import Members

from provisioner.model.policy import Policy

EXAMPLES = int(os.environ.get("EXAMPLES", "15"))
"""Enough for half a minute, always the same ones; with another number, other ones each time."""
STEPS = 40
ROUNDS = 200
ROLES = ("alpha", "beta", "gamma")
"""Each may change after those before it: a circle is refused where the files are read."""

numbers = st.integers(0, 1000)


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, ...]:
    return tuple(
        Policy(
            at_a_time=draw(st.sampled_from((1, 2, 3, "25%", "50%", "100%"))),
            canary=draw(st.sampled_from((0, 0, 1, 3))),
            settle=draw(st.sampled_from((0.0, 5.0, 60.0))),
            after=draw(st.sampled_from(((), (), ROLES[:number]))),
            apart=draw(st.sampled_from(((), ("quorum",), ("disks", "quorum")))),
            max_failures=draw(st.integers(0, 2)),
        )
        for number in range(len(ROLES))
    )


class Order(RuleBasedStateMachine):
    """What it knows of the members is what it did to them itself."""

    @initialize(found=policies(), count=st.integers(1, 4))
    def begin(self, found: tuple[Policy, ...], count: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="order-")
        self.policies = dict(zip(ROLES, found, strict=True))
        self.count = count
        chosen = tuple(role(name, change=policy) for name, policy in self.policies.items())
        self.world = Members(Path(self.folder.name), chosen, count)
        self.names = list(self.world.members)
        self.green = dict.fromkeys(self.names, self.world.clock.now())
        self.failed: set[str] = set()
        self.resting: set[str] = set()
        self.changes = 0
        self.change()

    def one(self, number: int, names: list[str]) -> str:
        return names[number % len(names)]

    def of(self, wanted: str) -> list[str]:
        return [name for name in self.names if self.world.members[name].role == wanted]

    def holders(self, *roles: str) -> list[str]:
        return [name for found in roles for name in self.of(found) if self.world.members[name].holds]

    def idle(self) -> list[str]:
        return [name for name in self.names if not self.world.members[name].holds]

    @rule()
    def change(self) -> None:
        """All have a newer generation; what failed is taken back by it."""
        if not self.holders(*ROLES):  # an agent takes up nothing newer before it has given its permit back
            self.changes += 1
            self.world.change(f"word-{self.changes}")
            self.failed.clear()

    @rule(number=numbers)
    def ask(self, number: int) -> None:
        """Everybody asks, as they do whenever something happens, in an order of their own."""
        first = number % len(self.names)
        for name in [*self.names[first:], *self.names[:first]]:
            before = self.world.members[name].holds
            if self.world.ask(name) == "" and not before:
                self.check(name)

    @precondition(lambda self: self.holders(*ROLES))
    @rule(number=numbers)
    def finish(self, number: int) -> None:
        name = self.one(number, self.holders(*ROLES))
        self.world.finish(name)
        self.green[name] = self.world.clock.now()

    def changing(self) -> list[str]:
        """Without those that put back what was changed by hand: they have their newest generation in force."""
        return [name for name in self.holders(*ROLES) if self.world.behind(name)]

    @precondition(lambda self: self.changing())
    @rule(number=numbers, state=st.sampled_from(("rolled-back", "broken")))
    def fail(self, number: int, state: str) -> None:
        name = self.one(number, self.changing())
        self.world.fail(name, state)
        self.world.members[name].holds = False
        self.failed.add(name)
        self.green[name] = self.world.clock.now()

    @precondition(lambda self: self.idle())
    @rule(number=numbers, well=st.booleans())
    def probe(self, number: int, well: bool) -> None:
        name = self.one(number, [name for name in self.idle() if name not in self.failed] or self.idle())
        if name not in self.failed:
            if self.world.members[name].well is not well:
                self.green[name] = self.world.clock.now()
            self.world.sicken(name, well=well)

    @rule(number=numbers, rests=st.booleans())
    def maintenance(self, number: int, rests: bool) -> None:
        name = self.one(number, self.names)
        (self.resting.add if rests else self.resting.discard)(name)
        reason = {"reason": "a fan"} if rests else None
        self.world.store.nodes.set_maintenance(self.world.members[name].node, reason, self.world.clock.now())

    @rule(seconds=st.sampled_from((1.0, 10.0, 70.0)))
    def time_goes_by(self, seconds: float) -> None:
        self.world.sleep(seconds)

    def current(self, name: str) -> bool:
        return not self.world.behind(name) and self.world.members[name].well

    def check(self, name: str) -> None:
        """Whether the permit that was just given was due by what the policy says."""
        member = self.world.members[name]
        policy, others = self.policies[member.role], [other for other in self.of(member.role) if other != name]
        width = policy.width(self.count)
        assert name not in self.resting and len(self.holders(member.role)) <= width
        for group in policy.apart:
            assert self.holders(*(found for found in ROLES if group in self.policies[found].apart)) == [name]
        assert sum(other in self.failed for other in self.of(member.role)) <= policy.max_failures
        assert name not in self.failed
        if not member.well:
            return
        changing = [other for other in others if self.world.members[other].holds]
        down = [
            other
            for other in others
            if not self.world.members[other].well and other not in self.failed and other not in changing
        ]
        assert not down or len(changing) + len(down) < width
        canaries = [other for other in self.of(member.role) if other not in self.resting][: policy.canary]
        if name not in canaries:
            for canary in canaries:
                assert self.current(canary) and self.world.clock.now() - self.green[canary] >= policy.settle
        for earlier in policy.after:
            assert all(self.current(other) for other in self.of(earlier))

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.end()
        finally:
            self.world.store.close()
            self.folder.cleanup()

    def end(self) -> None:
        """Nobody fails any more, nobody is let alone, and whoever is ill is mended by its change, or by itself."""
        for name in sorted(self.resting):
            self.world.store.nodes.set_maintenance(self.world.members[name].node, None, self.world.clock.now())
        self.resting.clear()
        for name in self.holders(*ROLES):
            self.world.finish(name)
            self.green[name] = self.world.clock.now()
        self.change()
        for _ in range(ROUNDS):
            behind = [name for name in self.names if self.world.behind(name)]
            if not behind:
                return
            for name in behind:
                if self.world.ask(name) == "":
                    self.check(name)
                    self.world.finish(name)
                    self.green[name] = self.world.clock.now()
            self.world.clock.sleep(13)  # whoever waits does not report
            for name in set(self.names) - set(behind):
                if not self.world.members[name].well:
                    self.green[name] = self.world.clock.now()
                self.world.sicken(name, well=True)
        raise AssertionError(f"not within {ROUNDS} rounds: {self.policies}: {self.world.waiting()}")


@pytest.mark.timeout(1800)
def test_every_change_keeps_to_the_policies_and_comes_to_its_end() -> None:
    options = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize="EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Order, settings=options)  # type: ignore[no-untyped-call]
