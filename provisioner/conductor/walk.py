"""Walks one node on: looks at its records, does the next step, journals before and after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from provisioner.conductor.afterwards import BMC_TRIES, PURPOSES, Afterwards
from provisioner.conductor.clouds import end_deployment
from provisioner.conductor.departures import advance
from provisioner.conductor.doors import Doors
from provisioner.conductor.evidence import build_failure
from provisioner.conductor.instance_steps import CONFIGURE_SECONDS
from provisioner.conductor.presence import LEASE_SECONDS
from provisioner.conductor.steps import ACTIONS
from provisioner.conductor.tapes import Tapes
from provisioner.conductor.work import DARK, LATER, SOON, Outcome, Work
from provisioner.errors import BmcError, Conflict, DeployError, LeaseLost, ProvisionerError, RecordsAway
from provisioner.model.deployment import CLEANING, TEST, Deployment, DeploymentState, Node, Step, StepName, StepState
from provisioner.model.role import ImageSpec, Role
from provisioner.model.states import NodeState

PASSING: Mapping[str, Any] = dict.fromkeys(
    ("waiting", "not_before", "looked", DARK, "phase", "remaining", "resumed", "fetch")
)
"""Parts of a step's detail that mean something only while it runs."""

BEFORE_POWER = frozenset({StepName.RESERVE, StepName.BOOT_FILES, StepName.BOOT_DEVICE, StepName.POWER})
"""Steps in which the node writes nothing to its console."""
INSPECTION = Role(role="inspection", image=ImageSpec(elements=("base",)), networks=("none",))
"""In the place of a role while a node is inspected: nothing of it is used."""

LOG = logging.getLogger(__name__)


class Walker:
    """:param stopping: true when nothing new is to be begun. :param tapes: of the consoles of nodes that are walked."""

    def __init__(self, doors: Doors, stopping: Callable[[], bool], tapes: Tapes) -> None:
        self._doors = doors
        self._tapes = tapes
        self._stopping = stopping
        self._store = doors.store
        self._afterwards = Afterwards(doors, tapes)

    def walk(self, name: str) -> float | None:
        """Take a node as far as it goes without waiting. Meant for one thread per node at a time.

        :returns: seconds after which it should be looked at again though nobody else records anything of it; None for
            never.
        """
        node = self._store.nodes.find(name)
        if node is None or node.maintenance is not None:
            return None
        try:
            if node.state in PURPOSES:
                fence = self._lease(node, PURPOSES[node.state])
                if node.deployment is None:
                    return self._afterwards.clean(node, fence)
                if node.state is NodeState.RESCUE and not self._store.deployments.placement(node.deployment).inspects:
                    return self._afterwards.return_from_rescue(node, fence)
                return self._deploy(node.name, fence)
            leaves = advance(self._doors, name)
            if leaves is None and node.state is NodeState.ACTIVE and self._changes(node):
                self._watch(node)
                return LATER
            return leaves
        except (LeaseLost, RecordsAway) as error:
            LOG.info("%s", error)
            return LATER
        return None

    def _lease(self, node: Node, purpose: str) -> int:
        """The fence number of ours."""
        now = self._doors.clock.now()
        holder, known, expiry, fence = self._store.leases.get(node.name)
        if (holder, known) == (self._doors.holder, purpose) and expiry - now >= LEASE_SECONDS / 2:
            return fence
        return self._store.leases.take(node.name, self._doors.holder, purpose, now, LEASE_SECONDS)

    def _deploy(self, name: str, fence: int) -> float | None:
        """As :meth:`walk`."""
        work = self._first(name, fence)
        while work is not None and not self._stopping():
            try:
                after = self._advance(work)
            except BmcError as error:
                pause = self._later(work, error)
                if pause is None:
                    self._fail(work, error)
                return pause
            except (LeaseLost, RecordsAway):
                raise
            except ProvisionerError as error:
                self._fail(work, error)
                return None
            except Exception as error:
                LOG.exception("%s: the step %s ended with a fault of the program", name, work.step.name)
                self._fail(work, DeployError("a fault in the program", where=name, cause=repr(error)))
                return None
            if isinstance(after, float):
                return after
            work = after
        return 0.0  # the run is over: the node may have to be cleaned now, or has nothing to do

    def _first(self, name: str, fence: int) -> Work | None:
        """The step at hand; None when the node is not deployed any more, or has just become active."""
        with self._store.view():
            node = self._store.nodes.find(name)
            if node is None or node.state not in PURPOSES or node.deployment is None or node.maintenance is not None:
                return None
            deployment = self._store.deployments.get(node.deployment)
            step = _first_open(deployment)
            if step is not None:
                return self._work(node, deployment, self._role(deployment), step, fence)
        self._close(node, deployment)
        return None

    def _work(self, node: Node, deployment: Deployment, role: Role, step: Step, fence: int) -> Work:
        return Work(self._doors, node, deployment, role, step, self._doors.clock.now(), fence)

    def _close(self, node: Node, deployment: Deployment) -> None:
        """All steps are done."""
        (self._end_inspection if deployment.placement.inspects else self._activate)(node, deployment)

    def _role(self, deployment: Deployment) -> Role:
        placement = deployment.placement
        if placement.inspects:
            return INSPECTION
        return self._store.clouds.get(placement.cloud).roles[placement.role]

    def _advance(self, work: Work) -> float | Work | None:
        """Do the step at hand. :returns: seconds until it is looked at again, or the next one; None after the last."""
        not_before = float(work.step.detail.get("not_before", 0.0))
        if work.now < not_before:
            return not_before - work.now
        if work.step.state is StepState.WAITING:
            work = self._begin_alone(work)
        if work.step.name not in BEFORE_POWER:
            self._tapes.ensure(work.node)
        outcome = ACTIONS[work.step.name](work)
        if not outcome.done:
            self._waits(work, outcome)
            return outcome.again
        return self._end(work, outcome.detail)

    def _begin_alone(self, work: Work) -> Work:
        with self._store.transaction():
            self._check_current(work)
            return self._begin(work)

    def _begin(self, work: Work) -> Work:
        """Within a transaction that has looked whether the work is still to be done."""
        self._store.deployments.start_step(work.deployment.id, work.step.name, work.now)
        if "waiting" in work.step.detail:
            self._store.deployments.set_detail(work.deployment.id, work.step.name, {"waiting": None})
        self._doors.tell(
            "step.started", f"{work.step.name}", work.node.name, work.deployment.id, conductor=self._doors.holder
        )
        news = {"state": StepState.RUNNING, "started": work.now, "ended": None, "attempts": work.step.attempts + 1}
        return replace(work, step=work.step.model_copy(update=news))

    def _end(self, work: Work, detail: Mapping[str, Any]) -> float | Work | None:
        """Journal that the step is done and, in the same transaction, that the next one begins. :returns: as
        :meth:`_advance`."""
        now = self._doors.clock.now()
        seconds = round(now - (work.step.started or now), 3)
        try:
            with self._store.transaction():
                node = self._check_current(work)
                self._store.deployments.end_step(
                    work.deployment.id, work.step.name, StepState.DONE, {**detail, **PASSING}, now
                )
                self._doors.tell(
                    "step.done",
                    f"{work.step.name} took {seconds:.1f} s",
                    work.node.name,
                    work.deployment.id,
                    step=str(work.step.name),
                    seconds=seconds,
                )
                if node.maintenance is not None:
                    return None
                deployment = self._store.deployments.get(work.deployment.id)
                step = _first_open(deployment)
                if step is not None:
                    return self._begin(self._work(node, deployment, work.role, step, work.fence))
        except Conflict as error:
            LOG.info("%s", error)
            return SOON
        self._close(node, deployment)
        return None

    def _waits(self, work: Work, outcome: Outcome) -> None:
        news = {**outcome.detail, "waiting": outcome.waiting}
        if any(work.step.detail.get(key) != value for key, value in news.items()):
            self._store.deployments.set_detail(work.deployment.id, work.step.name, news)

    def _later(self, work: Work, error: BmcError) -> float | None:
        """Note when a BMC is asked again. :returns: in how many seconds; None when it was asked often enough."""
        errors = int(self._step(work).detail.get("errors", 0)) + 1
        if errors >= BMC_TRIES:
            return None
        pause = 2.0**errors
        news = {"errors": errors, "not_before": self._doors.clock.now() + pause, "waiting": f"{error}"}
        with self._store.transaction():
            self._store.deployments.set_detail(work.deployment.id, work.step.name, news)
            message = f"{work.step.name}: {error}; asked again in {pause:.0f} s"
            self._doors.tell("bmc.error", message, work.node.name, work.deployment.id, tries=errors)
        return pause

    def _step(self, work: Work) -> Step:
        """The step as it is on record now."""
        steps = self._store.deployments.get(work.deployment.id).steps
        return next(step for step in steps if step.name is work.step.name)

    def _check_current(self, work: Work) -> Node:
        """The node as it is now. :raises Conflict: it was taken out of this deployment while the step ran."""
        node = self._store.nodes.find(work.node.name)
        if node is None or node.state not in PURPOSES or node.deployment != work.deployment.id:
            raise Conflict("the node was taken out of its deployment", where=work.node.name)
        return node

    def _fail(self, work: Work, error: ProvisionerError) -> None:
        now = self._doors.clock.now()
        failure = build_failure(self._doors, work.node.name, error, now, self._tapes.end(work.node.name))
        ident = work.deployment.id
        with self._store.transaction():
            try:
                self._check_current(work)
            except Conflict:
                return  # aborted meanwhile: how the step ended concerns nobody any more
            self._store.deployments.end_step(ident, work.step.name, StepState.FAILED, PASSING, now)
            running = (DeploymentState.RUNNING,)
            self._store.deployments.set_state(ident, running, DeploymentState.FAILED, now=now, failure=failure)
            node = self._store.nodes.get(work.node.name)
            self._store.nodes.move(node, NodeState.FAILED, now=now, deployment=ident, failure=failure)
            self._store.permits.fail(ident)
            self._store.nodes.close_window(node.name)
            self._store.leases.end(node.name, self._doors.holder)
            self._doors.tell(
                "deployment.failed", f"{work.step.name}: {error}", node.name, ident, step=str(work.step.name)
            )

    def _activate(self, node: Node, deployment: Deployment) -> None:
        now = self._doors.clock.now()
        self._tapes.end(node.name)
        with self._store.transaction():
            running = (DeploymentState.RUNNING,)
            self._store.deployments.set_state(deployment.id, running, DeploymentState.ACTIVE, now=now)
            self._store.nodes.move(node, NodeState.ACTIVE, now=now, deployment=deployment.id)
            self._store.leases.end(node.name, self._doors.holder)
            seconds = round(now - deployment.created, 1)
            hostname = deployment.placement.hostname
            message = f"{hostname} is active after {seconds:.0f} s"
            self._doors.tell("deployment.active", message, node.name, deployment.id, seconds=seconds)

    def _end_inspection(self, node: Node, deployment: Deployment) -> None:
        """The ramdisk is told to halt, and cleaning sees to it that the power is off; or it stays as it is."""
        self._tapes.end(node.name)
        stays = deployment.placement.stays
        with self._store.transaction():
            what = {TEST: "tested", CLEANING: "cleaned"}.get(deployment.placement.role, "inspected")
            if stays:
                what += "; it stays in the ramdisk"
            end_deployment(self._doors, node, NodeState.AVAILABLE if stays else NodeState.CLEANING, what)
            self._store.leases.end(node.name, self._doors.holder)

    def _changes(self, node: Node) -> bool:
        """Whether an active node has not its newest generation, or was not healthy with it yet."""
        if node.generation > node.applied:
            return True
        return node.deployment is not None and self._store.permits.held_by(node.deployment) is not None

    def _watch(self, node: Node) -> None:
        """An active node whose newest generation does not come into force: not for ever."""
        newest = self._store.clouds.newest(node.name)
        if newest is None or node.deployment is None or node.failure is not None:
            return
        deployment = self._store.deployments.get(node.deployment)
        if deployment.placement.role not in self._store.clouds.get(deployment.placement.cloud).roles:
            return  # it was let stay, and gets no permit
        permit = self._store.permits.held_by(deployment.id)
        _, asked = self._store.nodes.waiting(node.name)
        since = max(newest.created, asked, permit.granted if permit else 0.0, self._doors.opened)
        limit = CONFIGURE_SECONDS + self._role(deployment).health.wait
        now = self._doors.clock.now()
        if now - since <= limit:
            return
        what = "reported as applied" if node.applied < newest.generation else "healthy"
        error = DeployError(f"generation {newest.generation} was not {what} within {limit:.0f} s", where=node.name)
        with self._store.transaction():
            failure = build_failure(self._doors, node.name, error, now)
            self._store.permits.fail(deployment.id)
            self._store.nodes.move(node, NodeState.FAILED, now=now, deployment=deployment.id, failure=failure)
            self._doors.tell("configuration.failed", str(error), node.name, deployment.id)


def _first_open(deployment: Deployment) -> Step | None:
    """The first step that is not done."""
    return next((step for step in deployment.steps if step.state is not StepState.DONE), None)
