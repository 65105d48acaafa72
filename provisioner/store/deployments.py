"""Deployments, the journal of their steps, and the one order that each has outstanding."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Text, bindparam, cast, delete, func, insert, select, update

from provisioner.errors import Conflict, NotFound
from provisioner.model.deployment import STEPS as STEP_NAMES
from provisioner.model.deployment import Deployment, DeploymentState, Placement, Step, StepName, StepState
from provisioner.store.database import Cipher, Database
from provisioner.store.schema import DEPLOYMENTS, ORDERS, STEPS

LIVE = (DeploymentState.RUNNING, DeploymentState.ACTIVE, DeploymentState.FAILED)
"""States in which a deployment holds its slot."""


KEPT_PLACEMENTS = 50_000
# What is asked and written for each step of each node is put together once, not each time.
STEP = (STEPS.c.deployment == bindparam("ident")) & (STEPS.c.name == bindparam("step"))
PLACEMENT = cast(DEPLOYMENTS.c.placement, Text).label("placement")
"""As text, since it is parsed once."""
FIELDS = [PLACEMENT if column.name == "placement" else column for column in DEPLOYMENTS.c]
FIND = select(*FIELDS).where(DEPLOYMENTS.c.id == bindparam("ident"))
JOURNAL = select(STEPS).where(STEPS.c.deployment == bindparam("ident")).order_by(STEPS.c.position)
DETAIL = select(STEPS.c.detail).where(STEP)
TOUCHED = select(STEPS.c.touched).where(STEP)
SET_DETAIL = update(STEPS).where(STEP).values(detail=bindparam("merged"))
COME_ON = SET_DETAIL.values(touched=bindparam("now"))
START_STEP = (
    update(STEPS)
    .where(STEP)
    .values(
        state=StepState.RUNNING,
        started=bindparam("now"),
        touched=bindparam("now"),
        ended=None,
        attempts=STEPS.c.attempts + 1,
    )
)
END_STEP = update(STEPS).where(STEP).values(state=bindparam("end"), ended=bindparam("now"), detail=bindparam("merged"))
DROP_ORDER = delete(ORDERS).where(ORDERS.c.deployment == bindparam("ident"))
ORDER = select(ORDERS.c.id, ORDERS.c.step, ORDERS.c.result).where(ORDERS.c.deployment == bindparam("ident"))
ORDER_BODY = select(ORDERS.c.body_sealed).where(
    ORDERS.c.deployment == bindparam("ident"), ORDERS.c.id == bindparam("id")
)


@dataclass(frozen=True)
class Order:
    """What the ramdisk agent is to do, and what it answered: ``{"ok", "detail", "error"}``, None until then."""

    id: str
    step: StepName
    result: Mapping[str, Any] | None


@dataclass(frozen=True)
class Slot:
    """A place in a cloud and how far it is: a deployment without its journal.

    ``step``: the first that is not done. ``ended``: when the last one ended, seconds since the epoch.
    """

    id: str
    placement: Placement
    state: DeploymentState
    created: float
    failure: Mapping[str, Any] | None
    step: Step | None
    ended: float | None


class Deployments:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._db = database
        self._cipher = cipher
        self._placements: dict[str, Placement] = {}

    def add(self, ident: str, placement: Placement, now: float, steps: Sequence[StepName] = STEP_NAMES) -> None:
        """Record a deployment, or an inspection, with all its steps waiting.

        :raises Conflict: the slot is taken by another deployment.
        """
        with self._db.write(ident) as tx:
            taken: str | None = tx.execute(
                select(DEPLOYMENTS.c.node)
                .where(DEPLOYMENTS.c.cloud == placement.cloud, DEPLOYMENTS.c.hostname == placement.hostname)
                .where(DEPLOYMENTS.c.state.in_(LIVE))
            ).scalar()
            if taken is not None:
                raise Conflict(
                    f"{placement.hostname} is deployed already",
                    where=placement.node,
                    cause=f"{taken} has this place in the cloud {placement.cloud}",
                    hint=f"provisioner node show {taken}",
                )
            values = {
                "id": ident,
                "cloud": placement.cloud,
                "role": placement.role,
                "node": placement.node,
                "hostname": placement.hostname,
                "placement": placement.model_dump(mode="json"),
                "state": DeploymentState.RUNNING,
                "created": now,
                "run": 1,
            }
            tx.execute(insert(DEPLOYMENTS).values(values))
            rows = [
                {
                    "deployment": ident,
                    "position": position,
                    "name": name,
                    "state": StepState.WAITING,
                    "attempts": 0,
                    "detail": {},
                }
                for position, name in enumerate(steps)
            ]
            tx.execute(insert(STEPS), rows)

    def forget(self) -> None:
        """Drop what was parsed: it is parsed again when it is asked for."""
        self._placements = {}  # whoever reads the old one goes on with it

    def get(self, ident: str) -> Deployment:
        """:raises NotFound: there is none."""
        found = self.find(ident)
        if found is None:
            raise NotFound("there is no such deployment", where=ident, hint="provisioner node list")
        return found

    def find(self, ident: str) -> Deployment | None:
        with self._db.read() as tx:
            row = tx.execute(FIND, {"ident": ident}).one_or_none()
            return None if row is None else self._with_steps(row)

    def live(self, cloud: str | None = None, *, journals: bool = True) -> list[Deployment]:
        """Those that hold a slot of a cloud: running, active or failed; by host name.

        :param journals: whether their steps are wanted, which takes long for many.
        """
        slots = (DEPLOYMENTS.c.state.in_(LIVE), DEPLOYMENTS.c.cloud != "")
        query = select(*FIELDS).where(*slots).order_by(DEPLOYMENTS.c.hostname)
        if cloud is not None:
            query = query.where(DEPLOYMENTS.c.cloud == cloud)
        mine = STEPS.c.deployment.in_(query.with_only_columns(DEPLOYMENTS.c.id).order_by(None))
        all_steps = select(STEPS).where(mine).order_by(STEPS.c.deployment, STEPS.c.position)
        with self._db.read() as tx:
            rows = tx.execute(query).all()
            steps: dict[str, list[Row[Any]]] = {row.id: [] for row in rows}
            for step in tx.execute(all_steps) if journals else ():
                steps[step.deployment].append(step)
        return [self._deployment(row, steps[row.id]) for row in rows]

    def slots(self, cloud: str) -> list[Slot]:
        """Those of :meth:`live`, by host name; cheap, since everybody who waits for a cloud asks again and again."""
        mine = (DEPLOYMENTS.c.state.in_(LIVE), DEPLOYMENTS.c.cloud == cloud)
        idents = select(DEPLOYMENTS.c.id).where(*mine)
        ends = select(STEPS.c.deployment, func.max(STEPS.c.ended)).group_by(STEPS.c.deployment)
        first = select(STEPS.c.deployment, func.min(STEPS.c.position).label("first")).group_by(STEPS.c.deployment)
        at = first.where(STEPS.c.state != StepState.DONE, STEPS.c.deployment.in_(idents)).subquery()
        here = (STEPS.c.deployment == at.c.deployment) & (STEPS.c.position == at.c.first)
        with self._db.read() as tx:
            rows = tx.execute(select(*FIELDS).where(*mine).order_by(DEPLOYMENTS.c.hostname)).all()
            steps = {row.deployment: _step(row) for row in tx.execute(select(STEPS).join(at, here))}
            ended = {row[0]: row[1] for row in tx.execute(ends.where(STEPS.c.deployment.in_(idents)))}
        return [
            Slot(
                id=row.id,
                placement=self._placement(row.id, row.placement),
                state=DeploymentState(row.state),
                created=row.created,
                failure=row.failure,
                step=steps.get(row.id),
                ended=ended.get(row.id),
            )
            for row in rows
        ]

    def placements(self, cloud: str) -> list[Placement]:
        """Those of :meth:`live`, by host name, without what became of them."""
        slots = (DEPLOYMENTS.c.state.in_(LIVE), DEPLOYMENTS.c.cloud == cloud)
        with self._db.read() as tx:
            idents = list(tx.execute(select(DEPLOYMENTS.c.id).where(*slots).order_by(DEPLOYMENTS.c.hostname)).scalars())
            known = self._placements
            if any(ident not in known for ident in idents):
                rows = tx.execute(select(DEPLOYMENTS.c.id, PLACEMENT).where(*slots))
                known = {row.id: self._placement(row.id, row.placement) for row in rows}
        return [known[ident] for ident in idents]

    def placement(self, ident: str) -> Placement:
        """:raises NotFound: there is no such deployment."""
        known = self._placements.get(ident)
        return self.get(ident).placement if known is None else known

    def nodes_of(self, topics: Collection[str]) -> dict[str, str]:
        """The node that each topic is about: itself, unless it is the id of a deployment."""
        known = self._placements
        found = {topic: known[topic].node for topic in topics if topic in known}
        unknown = [topic for topic in topics if topic not in found]
        if unknown:
            query = select(DEPLOYMENTS.c.id, PLACEMENT).where(DEPLOYMENTS.c.id.in_(unknown))
            with self._db.read() as tx:
                found |= {row.id: self._placement(row.id, row.placement).node for row in tx.execute(query)}
        return {topic: topic for topic in unknown} | found

    def never_active(self, node: str) -> list[str]:
        """Ids of a node's deployments that never became active: their disks hold nothing of anyone's."""
        query = select(DEPLOYMENTS.c.id).where(DEPLOYMENTS.c.node == node, DEPLOYMENTS.c.activated.is_(None))
        with self._db.read() as tx:
            return list(tx.execute(query).scalars())

    def since_active(self, node: str) -> list[str]:
        """Ids of a node's deployments since the last one that became active, without it; all when none did."""
        mine = DEPLOYMENTS.c.node == node
        last = select(func.max(DEPLOYMENTS.c.created)).where(mine, DEPLOYMENTS.c.activated.is_not(None))
        query = select(DEPLOYMENTS.c.id).where(mine, DEPLOYMENTS.c.created > func.coalesce(last.scalar_subquery(), 0.0))
        with self._db.read() as tx:
            return list(tx.execute(query).scalars())

    def set_console(self, ident: str, text: str) -> None:
        """The last lines of the node's console; a deployment that is gone keeps nothing."""
        with self._db.write(ident) as tx:
            tx.execute(update(DEPLOYMENTS).where(DEPLOYMENTS.c.id == ident).values(console=text))

    def console(self, ident: str) -> str | None:
        with self._db.read() as tx:
            found: str | None = tx.execute(select(DEPLOYMENTS.c.console).where(DEPLOYMENTS.c.id == ident)).scalar()
        return found

    def last_of(self, node: str, before: str | None = None, *, of_cloud: bool = False) -> str | None:
        """The id of a node's newest deployment, but for ``before``. :param of_cloud: that had a place in one."""
        query = select(DEPLOYMENTS.c.id).where(DEPLOYMENTS.c.node == node, DEPLOYMENTS.c.id != (before or ""))
        if of_cloud:
            query = query.where(DEPLOYMENTS.c.cloud != "")
        with self._db.read() as tx:
            found: str | None = tx.execute(query.order_by(DEPLOYMENTS.c.created.desc()).limit(1)).scalar()
        return found

    def run_of(self, ident: str) -> int:
        """How often the deployment was begun: 1, and one more for each retry."""
        with self._db.read() as tx:
            return int(tx.execute(select(DEPLOYMENTS.c.run).where(DEPLOYMENTS.c.id == ident)).scalar_one())

    def boot_id(self, ident: str) -> str | None:
        """Which boot of the ramdisk said hello; None when none has."""
        with self._db.read() as tx:
            found: str | None = tx.execute(select(DEPLOYMENTS.c.boot_id).where(DEPLOYMENTS.c.id == ident)).scalar_one()
        return found

    def set_boot_id(self, ident: str, boot_id: str | None) -> None:
        with self._db.write(ident) as tx:
            tx.execute(update(DEPLOYMENTS).where(DEPLOYMENTS.c.id == ident).values(boot_id=boot_id))

    def set_state(
        self,
        ident: str,
        old: Collection[DeploymentState],
        new: DeploymentState,
        *,
        now: float,
        failure: Mapping[str, Any] | None = None,
    ) -> bool:
        """Move a deployment on if it is in one of ``old``; whether it was."""
        values: dict[str, Any] = {"state": new, "failure": None if failure is None else dict(failure)}
        if new is DeploymentState.ACTIVE:
            values["activated"] = now
        with self._db.write(ident) as tx:
            done = tx.execute(
                update(DEPLOYMENTS).where(DEPLOYMENTS.c.id == ident, DEPLOYMENTS.c.state.in_(old)).values(values)
            )
            return done.rowcount == 1

    def begin_again(self, ident: str) -> None:
        """A retry: every step waits again; what was attempted stays counted."""
        with self._db.write(ident) as tx:
            tx.execute(
                update(DEPLOYMENTS)
                .where(DEPLOYMENTS.c.id == ident)
                .values(state=DeploymentState.RUNNING, failure=None, boot_id=None, run=DEPLOYMENTS.c.run + 1)
            )
            self.reset_steps(ident, STEP_NAMES[0])

    def start_step(self, ident: str, name: StepName, now: float) -> None:
        """Journal that a step begins, before anything of it is done."""
        with self._db.write(ident) as tx:
            tx.execute(START_STEP, {"ident": ident, "step": name, "now": now})

    def end_step(self, ident: str, name: StepName, state: StepState, detail: Mapping[str, Any], now: float) -> None:
        """Journal how a step ended, after all of it was done. ``detail`` is merged as in :meth:`set_detail`."""
        with self._db.write(ident) as tx:
            merged = self._merged(ident, name, detail)
            tx.execute(END_STEP, {"ident": ident, "step": name, "now": now, "end": state, "merged": merged})

    def set_detail(self, ident: str, name: StepName, detail: Mapping[str, Any], touched: float | None = None) -> None:
        """Merge what a step says of itself; None removes a key. ``touched``: when it last came on, for its deadline.

        Nobody is woken by it: it is for whoever looks, not for what comes next.
        """
        with self._db.write() as tx:
            values = {"ident": ident, "step": name, "merged": self._merged(ident, name, detail)}
            if touched is None:
                tx.execute(SET_DETAIL, values)
            else:
                tx.execute(COME_ON, values | {"now": touched})

    def _merged(self, ident: str, name: StepName, detail: Mapping[str, Any]) -> dict[str, Any]:
        with self._db.read() as tx:
            known: dict[str, Any] = tx.execute(DETAIL, {"ident": ident, "step": name}).scalar_one()
        return {key: value for key, value in (known | dict(detail)).items() if value is not None}

    def touched(self, ident: str, name: StepName) -> float:
        """When a step that has begun last came on."""
        with self._db.read() as tx:
            return float(tx.execute(TOUCHED, {"ident": ident, "step": name}).scalar_one() or 0.0)

    def touch(self, ident: str) -> None:
        """Whoever waits for a change of this deployment looks again."""
        with self._db.write(ident):
            self._db.announce()

    def sum_at_step(self, name: StepName, what: str) -> int:
        """The sum of a number in the details of all runs that are at a step."""
        here = (STEPS.c.name == name, STEPS.c.state == StepState.RUNNING)
        query = select(func.coalesce(func.sum(STEPS.c.detail[what].as_numeric(20, 0, asdecimal=False)), 0)).where(*here)
        with self._db.read() as tx:
            return int(tx.execute(query).scalar_one())

    def at_step(self, name: StepName) -> list[tuple[str, float, bool, Mapping[str, Any]]]:
        """(id, when the step began, whether its order was given, its detail) of each run that is at a step."""
        given = (ORDERS.c.deployment == STEPS.c.deployment) & (ORDERS.c.step == STEPS.c.name)
        query = (
            select(STEPS.c.deployment, STEPS.c.started, ORDERS.c.id, STEPS.c.detail)
            .outerjoin(ORDERS, given)
            .where(STEPS.c.name == name, STEPS.c.state == StepState.RUNNING)
        )
        with self._db.read() as tx:
            return [(row.deployment, row.started, row.id is not None, row.detail) for row in tx.execute(query)]

    def reset_steps(self, ident: str, first: StepName) -> None:
        """``first`` and all steps after it wait again; the order outstanding is dropped."""
        with self._db.write(ident) as tx:
            tx.execute(
                update(STEPS)
                .where(STEPS.c.deployment == ident, STEPS.c.position >= STEP_NAMES.index(first))
                .values(state=StepState.WAITING, started=None, ended=None, touched=None, detail={})
            )
            self.drop_order(ident)

    def put_order(self, ident: str, order_id: str, step: StepName, body: Mapping[str, Any]) -> None:
        """Make this the one order outstanding. It is sealed: files of an instance hold its token."""
        with self._db.write(ident) as tx:
            self.drop_order(ident)
            sealed = self._cipher.encrypt(json.dumps(body))
            tx.execute(insert(ORDERS).values(deployment=ident, id=order_id, step=step, body_sealed=sealed, result=None))

    def order(self, ident: str) -> Order | None:
        with self._db.read() as tx:
            row = tx.execute(ORDER, {"ident": ident}).one_or_none()
        if row is None:
            return None
        return Order(row.id, StepName(row.step), row.result)

    def order_body(self, ident: str, order_id: str) -> dict[str, Any]:
        """What the agent is told: some of it is long, and only the agent needs it. Empty when the order is gone."""
        with self._db.read() as tx:
            sealed = tx.execute(ORDER_BODY, {"ident": ident, "id": order_id}).scalar_one_or_none()
        body: dict[str, Any] = {} if sealed is None else json.loads(self._cipher.decrypt(sealed))
        return body

    def set_result(self, ident: str, order_id: str, result: Mapping[str, Any]) -> bool:
        """Record the answer to the order outstanding; False when it is another, or was answered."""
        with self._db.write(ident) as tx:
            outstanding = self.order(ident)
            if outstanding is None or outstanding.id != order_id or outstanding.result is not None:
                return False
            tx.execute(
                update(ORDERS).where(ORDERS.c.deployment == ident, ORDERS.c.id == order_id).values(result=dict(result))
            )
            return True

    def drop_order(self, ident: str) -> None:
        with self._db.write(ident) as tx:
            tx.execute(DROP_ORDER, {"ident": ident})

    def _with_steps(self, row: Row[Any]) -> Deployment:
        with self._db.read() as tx:
            steps = tx.execute(JOURNAL, {"ident": row.id}).all()
        return self._deployment(row, steps)

    def _deployment(self, row: Row[Any], steps: Sequence[Row[Any]]) -> Deployment:
        """What we wrote ourselves is not validated again: it is read several times for each step of each node."""
        return Deployment.model_construct(
            id=row.id,
            placement=self._placement(row.id, row.placement),
            state=DeploymentState(row.state),
            created=row.created,
            failure=row.failure,
            steps=tuple(map(_step, steps)),
        )

    def _placement(self, ident: str, text: str) -> Placement:
        """A placement never changes, so it is parsed once."""
        known = self._placements.get(ident)
        if known is None:
            if len(self._placements) >= KEPT_PLACEMENTS:
                self.forget()
            known = self._placements[ident] = Placement.model_validate_json(text)
        return known


def _step(row: Row[Any]) -> Step:
    return Step.model_construct(
        name=StepName(row.name),
        state=StepState(row.state),
        started=row.started,
        ended=row.ended,
        attempts=row.attempts,
        detail=row.detail,
    )
