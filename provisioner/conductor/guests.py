"""What guests ask and tell: the ramdisk agent, the config agent, and iPXE before both."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from provisioner.boot.ipxe import render_boot_script, render_local_script
from provisioner.conductor.doors import Doors
from provisioner.conductor.metadata import Answer, Ask, answer_metadata
from provisioner.conductor.permits import Applicant, acquire
from provisioner.conductor.presence import alive, guest_urls
from provisioner.conductor.recovery import Speaker, answer, note_healthy, parse_position
from provisioner.conductor.told import BAD_STATES, check_report, find_news, report_error, split_report
from provisioner.conductor.work import TOKEN_SECONDS
from provisioner.errors import TrustError, UsageError
from provisioner.model.departure import DepartureState
from provisioner.model.deployment import TESTS, Deployment, DeploymentState, Node, Step, StepName, StepState
from provisioner.model.hardware import HardwareReport, Port, Verdict
from provisioner.model.states import AT_WORK, NodeState
from provisioner.plan.identity import same_machine
from provisioner.store.nodes import ANY_MAC
from provisioner.store.tokens import BOOT, TokenRecord
from provisioner.trust.keys import new_token
from provisioner_agent.protocol.auth import build_record
from provisioner_agent.protocol.messages import DRAIN

RAMDISK_STEPS = (
    StepName.CHOOSE_DISK,
    StepName.STORAGE,
    StepName.WRITE_IMAGE,
    StepName.SEED_INSTANCE,
    StepName.BOOT_LOADER,
)
"""Steps whose work is lost when the ramdisk boots anew."""
STANDBY = (NodeState.AVAILABLE, NodeState.DEPLOYING, NodeState.INSPECTING, NodeState.CLEANING, NodeState.RESCUE)
"""States in which a ramdisk that stays waits for what comes next."""
SECRET = re.compile(r"^[A-Za-z0-9_-]{32,128}$")
"""What a ramdisk may make up."""
PROGRESS_KEYS = ("bytes", "total", "rate", "remaining")
PROGRESS_PHASES = frozenset({"write", "read back", "erase", *TESTS.values()})
RESTARTED: Mapping[str, Any] = {
    "ok": True,
    "detail": {"verdict": Verdict.FAILED, "summary": "the server restarted by itself while it was tested"},
}


class Guests:
    """``token_id`` is the id of a token whose message has been authenticated with the secret of :meth:`guest`."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._store = doors.store
        self._service = uuid.uuid4().hex

    def guest(self, token_id: str, kind: str) -> tuple[str, frozenset[str]]:
        """As :meth:`guests`, of one. :raises TrustError: there is no such token of that kind, or it has run out."""
        (found,) = self.guests([(token_id, kind)])
        if isinstance(found, TrustError):
            raise found
        return found

    def guests(self, asks: Sequence[tuple[str, str]]) -> list[tuple[str, frozenset[str]] | TrustError]:
        """(the secret under which a guest speaks, the topics of changes that concern it: its node and its deployment).

        :param asks: the id of a token, and its kind: ``hello`` and ``boot`` of a ramdisk, ``instance`` of an instance.
        """
        opened = self._store.tokens.open(asks, self._doors.clock.now())
        return [
            found if isinstance(found, TrustError) else (found[1], frozenset((found[0].node, found[0].deployment)))
            for found in opened
        ]

    def boot_script(self, mac: str, peer: str = "") -> str | None:
        """The iPXE script for a port: the ramdisk's while it is due, else one that boots from disk.

        It carries the token, so it is served once each time that we switch the node on: a second fetch ends the
        deployment, since nobody can say which of the two is the node.

        :param peer: the address that asks. :returns: None for a MAC that is not on record, unless a node's ports are
            being found out just now; then more than one server may ask.
        """
        with self._store.transaction():
            return self._script(mac, peer)

    def _script(self, mac: str, peer: str) -> str | None:
        own = self._store.nodes.by_mac(mac)
        found = own or self._store.nodes.by_mac(ANY_MAC)
        if found is None:
            return None
        node, port = found
        deployment = None
        if node.state in STANDBY and node.deployment is not None:
            run = self._store.deployments.get(node.deployment)
            due = self._is_due(run)
            if (own is None or self._is_first(node, run, mac, peer)) and due:
                deployment = run
        token = None if deployment is None else self._store.tokens.token(deployment.id, BOOT)
        if deployment is None or token is None:
            self._doors.tell("boot.local", f"{mac} is told to boot from its disk", node.name, node.deployment)
            return render_local_script()
        ramdisk = next(step.detail["ramdisk"] for step in deployment.steps if step.name is StepName.BOOT_FILES)
        address = f"{port.address}/{self._doors.prefix}" if port.address else ""
        self._doors.tell("boot.script", f"{mac} fetches its boot script", node.name, deployment.id)
        return render_boot_script(
            url=self._doors.settings.url,
            services=guest_urls(self._doors),
            authority=self._doors.authority,
            token=token,
            mac=mac,
            address=address,
            image=str(ramdisk),
            now=self._doors.clock.now(),
            proves=self._doors.settings.prove_by_bmc,
        )

    def _is_first(self, node: Node, deployment: Deployment, mac: str, peer: str) -> bool:
        """Note who fetches the script of a run that waits for its ramdisk, or has it; whether nobody did before."""
        now = self._doors.clock.now()
        fetch = {"at": now, "mac": mac, "peer": peer, "served_by": self._service, "conductor": self._doors.holder}
        steps = {step.name: step for step in deployment.steps}
        power, restart = steps[StepName.POWER], steps.get(StepName.RESTART)
        if not _is_on(power) or (restart is not None and restart.state is not StepState.WAITING):
            return True
        before = power.detail.get("script")
        first = before is None and steps[StepName.HELLO].state is not StepState.DONE
        if before is not None and self._has_ended(before) and "script_again" not in power.detail:
            # The service ended meanwhile, maybe before its answer was out: what it carried is void.
            first = self._store.deployments.boot_id(deployment.id) is None
            if first:
                self._store.tokens.replace(new_token(), BOOT, node.name, deployment.id, now + TOKEN_SECONDS)
        self._store.deployments.set_detail(
            deployment.id, StepName.POWER, {"script" if first else "script_again": fetch}
        )
        if not first:
            self._store.deployments.touch(deployment.id)
            message = f"{mac} fetches its boot script again, from {peer or 'an unknown address'}"
            self._doors.tell("boot.again", message, node.name, deployment.id)
        return first

    def _has_ended(self, fetch: Mapping[str, Any]) -> bool:
        """Whether the service that served a boot script is not there any more."""
        if fetch["served_by"] == self._service:
            return False
        holder = fetch["conductor"]
        return holder == self._doors.holder or holder not in {other.name for other in alive(self._doors)}

    def _is_due(self, deployment: Deployment) -> bool:
        """Whether its ramdisk is to boot now."""
        steps = {step.name: step for step in deployment.steps}
        due = _is_on(steps[StepName.POWER]) and steps[StepName.HELLO].state is not StepState.DONE
        return due and self._store.deployments.boot_id(deployment.id) is None

    def seen_on_wire(self, address: str, kind: str, message: str) -> None:
        """Take on record how far the network boot of a node came; of nodes that are not worked on nothing is.

        :param address: the node's, from the range of the ramdisk.
        """
        node = self._store.nodes.by_address(address)
        if node is not None and node.state in AT_WORK:
            self._doors.tell(kind, message, node.name, node.deployment)

    def hello(self, token_id: str, message: Mapping[str, Any], peer: str = "") -> dict[str, Any]:
        """Take the hardware on record. A boot of the ramdisk that was not heard before begins its steps anew.

        :param peer: the address that it comes from. :raises UsageError: the message has another shape.
        :raises TrustError: another one has said hello with this token.
        """
        token = self._token(token_id)
        now = self._doors.clock.now()
        boot_id = str(message.get("boot_id") or "")
        try:
            hardware = HardwareReport.model_validate(message.get("hardware"))
        except ValidationError as error:
            raise UsageError("the hardware report cannot be understood", where=token.node, cause=str(error)) from None
        secret = message.get("secret")
        if not boot_id:
            raise UsageError("the hello has no boot_id", where=token.node)
        if not isinstance(secret, str) or not SECRET.match(secret):
            raise UsageError("the hello has no secret", where=token.node, cause="the ramdisk is older than the service")
        if not self._store.nodes.get(token.node).spec.ports:
            self._recognise(token, hardware)
        self._check_alone(token, secret, hardware.boot_mac, peer)
        with self._store.transaction():
            self._store.tokens.set_used(token_id, now)
            self._store.nodes.set_hardware(token.node, hardware, now)
            known = self._store.deployments.boot_id(token.deployment)
            if known != boot_id:
                if self._doors.settings.prove_by_bmc:
                    proof = {"proof": message.get("proof"), "record": build_record(secret).hex()}
                    self._store.deployments.set_detail(token.deployment, StepName.HELLO, proof)
                self._store.deployments.set_boot_id(token.deployment, boot_id)
                disks = ", ".join(f"{disk.name} {disk.size / 1e9:.1f} GB" for disk in hardware.disks) or "no disk"
                self._doors.tell("ramdisk.hello", f"the ramdisk runs; {disks}", token.node, token.deployment)
            if known not in (None, boot_id):
                self._begin_anew(token)
        return {"clock": now}

    def _check_alone(self, token: TokenRecord, secret: str, mac: str, peer: str) -> None:
        """Of all who have seen the boot script, the first who says hello is the node; a second one ends its deployment.

        :raises TrustError: this is the second.
        """
        with self._store.transaction():
            if self._store.tokens.bind(token.id, secret):
                return
            again = {"at": self._doors.clock.now(), "mac": mac, "peer": peer}
            self._store.deployments.set_detail(token.deployment, StepName.POWER, {"hello_again": again})
            self._store.deployments.touch(token.deployment)
            message = f"another ramdisk says hello with its token, from {peer or 'an unknown address'}"
            self._doors.tell("ramdisk.stranger", message, token.node, token.deployment)
        raise TrustError("another ramdisk has said hello with this token", where=token.node)

    def _recognise(self, token: TokenRecord, hardware: HardwareReport) -> None:
        """Whoever boots in a node's window is that node only when its own controller's number or address says so.

        :raises TrustError: it is another server, or cannot be told.
        """
        node = self._store.nodes.get(token.node)
        same = same_machine(node.bmc_facts.get("guid"), hardware.uuid)
        if same is None and hardware.bmc_address:
            same = hardware.bmc_address == node.spec.bmc.address
        macs = [nic.mac for nic in hardware.nics]
        if not same or not macs:
            why = "another server booted" if same is False else "the controller or the server tells no UUID"
            message = f"{why}: {hardware.product}, UUID {hardware.uuid or 'none'}, {', '.join(macs) or 'no port'}"
            self._doors.tell("window.stranger", message, node.name, token.deployment)
            raise TrustError("this is not the server that is waited for", where=node.name, cause=why)
        first = [mac for mac in macs if mac == hardware.boot_mac]
        ports = [Port(mac=mac) for mac in dict.fromkeys([*first, *macs])]
        self._store.nodes.learn_ports(node.name, ports, self._doors.pool, self._doors.clock.now())
        message = f"recognised by its controller; its ports are {', '.join(port.mac for port in ports)}"
        self._doors.tell("window.recognised", message, node.name, token.deployment)

    def _begin_anew(self, token: TokenRecord) -> None:
        deployment = self._store.deployments.get(token.deployment)
        running = deployment.state is DeploymentState.RUNNING
        step = next((step for step in deployment.steps if step.state is not StepState.DONE), None)
        if running and step is not None and step.name in TESTS:
            order = self._store.deployments.order(deployment.id)
            if order is not None and order.step is step.name:
                self._store.deployments.set_result(deployment.id, order.id, RESTARTED)
        elif running and step is not None and step.name in RAMDISK_STEPS:
            self._store.deployments.reset_steps(deployment.id, StepName.CHOOSE_DISK)
            self._doors.tell(
                "ramdisk.rebooted",
                f"it booted anew during {step.name}; its steps begin again",
                token.node,
                deployment.id,
            )

    def order(self, token_id: str) -> dict[str, Any] | None:
        """The order outstanding, until its result came; the order to halt when the deployment was aborted."""
        token = self._token(token_id)
        deployment = self._store.deployments.get(token.deployment)
        if deployment.state is DeploymentState.ENDED:
            waits = deployment.placement.stays and self._store.nodes.get(token.node).state in STANDBY
            return None if waits else {"id": f"end-{deployment.id}", "step": "power-off"}
        order = self._store.deployments.order(token.deployment)
        if order is None or order.result is not None or deployment.state is not DeploymentState.RUNNING:
            return None
        return self._store.deployments.order_body(token.deployment, order.id) or None

    def progress(self, token_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
        token = self._token(token_id)
        with self._store.transaction():
            order = self._store.deployments.order(token.deployment)
            if order is not None and order.id == message.get("order") and order.result is None:
                news: dict[str, Any] = {
                    key: message[key] for key in PROGRESS_KEYS if isinstance(message.get(key), int | float)
                }
                if message.get("phase") in PROGRESS_PHASES:
                    news["phase"] = message["phase"]
                now = self._doors.clock.now()
                self._store.deployments.set_detail(token.deployment, order.step, news, touched=now)
                self._store.tokens.extend(token.deployment, BOOT, now + TOKEN_SECONDS)  # some work takes days
        return {}

    def result(self, token_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Record the answer to the order outstanding; any other answer is late and changes nothing."""
        token = self._token(token_id)
        said = {key: message.get(key) for key in ("ok", "detail", "error")}
        with self._store.transaction():
            order = self._store.deployments.order(token.deployment)
            taken = self._store.deployments.set_result(token.deployment, str(message.get("order")), said)
            if taken and order is not None:
                word = "done" if said["ok"] is True else "failed"
                self._doors.tell("order.result", f"{order.step}: {word}", token.node, token.deployment)
        return {}

    def metadata(self, asks: Sequence[Ask]) -> list[Answer]:
        """See :func:`provisioner.conductor.metadata.answer_metadata`."""
        return answer_metadata(self._doors, asks)

    def reports(self, asks: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any] | Exception]:
        """As :meth:`report`, of several in one transaction. One that is refused, or that a fault of ours meets, leaves
        the others as they are."""
        try:
            with self._store.transaction():
                return [self.report(*ask) for ask in asks]
        except Exception as error:
            if len(asks) == 1:
                return [error]
        return [answer for ask in asks for answer in self.reports([ask])]

    def report(self, token_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Take a report on record; give permits back, finish what is done once, or halt the role.

        :returns: ``{"heard": generation}`` to one that asks to be confirmed.
        :raises UsageError: the message has another shape.
        """
        token = self._token(token_id)
        check_report(message, token.node)
        generation = message["generation"]
        now = self._doors.clock.now()
        with self._store.transaction():
            node = self._store.nodes.get(token.node)
            if node.deployment != token.deployment:
                return {}
            before = self._store.clouds.report(node.name, token.deployment)
            body, detail = split_report(message, before, now)
            self._store.clouds.put_report(node.name, token.deployment, body, now, detail)
            self._tell_drain(node, token, body, {} if before is None else before.body)
            applied = generation if message["state"] == "applied" else int(message.get("applied") or node.applied)
            healthy = message.get("healthy") is True
            if (applied, healthy) != (node.applied, node.healthy):
                self._store.nodes.set_health(node.name, applied, healthy, now)
            news = (message["state"], generation, healthy)
            known = (
                None if before is None else tuple(before.body.get(key) for key in ("state", "generation", "healthy"))
            )
            if news != known:
                health = "healthy" if healthy else "not healthy"
                said = f"generation {generation} {message['state']}, {health}"
                self._doors.tell("instance.report", said, node.name, token.deployment, generation=generation)
            for kind, text in find_news(body, {} if before is None else before.body):
                self._doors.tell(kind, text, node.name, token.deployment)
            if message["state"] in BAD_STATES:
                self._bad(node, token, message)
            elif message["state"] == "applied" and healthy:
                self._good(node, token, generation)
        return {"heard": generation} if "confirming" in message else {}

    def _tell_drain(self, node: Node, token: TokenRecord, body: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        said, known = (found if isinstance(found, Mapping) else {} for found in (body.get(DRAIN), before.get(DRAIN)))
        news = [(found.get("state"), found.get("script")) for found in (said, known)]
        if said.get("state") and news[0] != news[1]:
            script = f": drain.d/{said['script']}" if said.get("script") else ""
            self._doors.tell("instance.drain", f"{said['state']}{script}", node.name, token.deployment)

    def _is_leaving(self, token: TokenRecord) -> bool:
        """Whether its permit is for that, and not for a change."""
        departure = self._store.departures.of(token.deployment)
        return departure is not None and departure.state in (DepartureState.DRAINING, DepartureState.FAILED)

    def _good(self, node: Node, token: TokenRecord, generation: int) -> None:
        note_healthy(self._doors, node, token.deployment)
        if self._is_leaving(token):
            return
        permit = self._store.permits.held_by(token.deployment)
        if permit is not None:
            if generation < permit.generation:
                return  # how it was before the change for which it holds that
            self._store.permits.give_back(token.deployment)
        run = self._store.deployments.run_of(token.deployment)
        for name in self._store.permits.finish_once(token.deployment, run):
            self._doors.tell("once.done", f"{name} is done, for the life of the cluster", node.name, token.deployment)
        if generation < node.generation:
            return
        now = self._doors.clock.now()
        was_active = self._store.deployments.get(token.deployment).state is DeploymentState.ACTIVE
        if was_active and (node.state is NodeState.FAILED or node.failure is not None):
            self._store.permits.clear(token.deployment)
            self._store.nodes.move(node, NodeState.ACTIVE, now=now, deployment=token.deployment)

    def _bad(self, node: Node, token: TokenRecord, message: Mapping[str, Any]) -> None:
        """A generation that is not in force halts the role. Only a broken instance is a failed node: another one
        goes on with the generation before. While it is deployed, the step at hand fails by itself."""
        if message["generation"] < node.generation or self._is_leaving(token):
            return
        self._store.permits.fail(token.deployment)
        if node.state is not NodeState.ACTIVE or node.failure is not None:
            return
        now = self._doors.clock.now()
        failure = report_error(node.name, message).to_dict()
        if message["state"] == "broken":
            failure["hint"] = f"provisioner node retry {node.name}"
            self._store.nodes.move(node, NodeState.FAILED, now=now, deployment=token.deployment, failure=failure)
        else:
            failure["hint"] = "correct it, in the cloud file or on the node, then provisioner apply"
            self._store.nodes.set_failure(node.name, failure, now)
        self._doors.tell("configuration.failed", str(failure["summary"]), node.name, token.deployment)

    def permit(self, token_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Answer at once; whoever was refused asks again.

        :raises UsageError: the message has another shape.
        """
        token = self._token(token_id)
        action, generation = message.get("action"), message.get("generation")
        if action not in ("acquire", "release") or not isinstance(generation, int):
            raise UsageError("a permit is acquired or released, for a generation", where=token.node)
        with self._store.transaction():  # a deployment that ends meanwhile would keep its permit
            node = self._store.nodes.get(token.node)
            if node.deployment != token.deployment:
                raise TrustError("the deployment has ended", where=token.node)
            if action == "release":
                if not self._is_leaving(token) and self._store.permits.give_back(token.deployment):
                    self._doors.tell("permit.released", f"generation {generation}", node.name, token.deployment)
                return {"granted": False, "why": "given back", "once": {}}
            deployment = self._store.deployments.get(token.deployment)
            desired = self._store.clouds.get(deployment.placement.cloud)
            return acquire(self._doors, Applicant(node, deployment, desired), generation)

    def recover(self, token_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Take how far a member had come that finds no other one alive; who is to wait asks again.

        :raises UsageError: the message has another shape.
        """
        token = self._token(token_id)
        position = parse_position(message, token.node)
        with self._store.transaction():
            node = self._store.nodes.get(token.node)
            if node.deployment != token.deployment:
                raise TrustError("the deployment has ended", where=token.node)
            deployment = self._store.deployments.get(token.deployment)
            desired = self._store.clouds.get(deployment.placement.cloud)
            return answer(self._doors, Speaker(node, deployment, desired), position)

    def _token(self, token_id: str) -> TokenRecord:
        """:raises TrustError: it ended since its message was authenticated."""
        return self._store.tokens.get(token_id)


def _is_on(power: Step) -> bool:
    """Whether we have switched the node on, or are about to: it was off before, so what asks since then is younger."""
    return power.state is StepState.DONE or bool(power.detail.get("seen_off"))
