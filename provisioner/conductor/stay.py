"""What operators say of members that are to leave: go on with those that have stopped, or let them stay."""

from __future__ import annotations

from collections.abc import Collection

from provisioner.conductor.clouds import renew_metadata
from provisioner.conductor.departures import leave, may_leave, take_back_failure, tell_agent
from provisioner.conductor.doors import Doors
from provisioner.errors import Conflict, NotFound
from provisioner.model.departure import Departure, DepartureState
from provisioner.model.deployment import Node


def resume(doors: Doors, cloud: str, without_drain: Collection[str] = ()) -> None:
    """What was not drained has its turn again. :param without_drain: nodes that leave without it.

    :raises Conflict: nothing of the cloud waits for that. :raises NotFound: no such cloud, or a node of these does not
        leave.
    """
    store = doors.store
    with store.transaction():
        store.clouds.get(cloud)
        going = [departure for departure in store.departures.all(cloud) if departure.going]
        for name in without_drain:
            if name not in [departure.node for departure in going]:
                hint = f"provisioner cloud status {cloud}"
                raise NotFound(f"nothing on {name} is to leave", where=cloud, hint=hint)
        chosen = [one for one in going if one.state is DepartureState.FAILED or one.node in without_drain]
        if not chosen:
            raise Conflict("nothing of it has stopped", where=cloud, hint=f"provisioner cloud status {cloud}")
        for departure in chosen:
            node, drain = store.nodes.get(departure.node), departure.drain and departure.node not in without_drain
            news = {"state": DepartureState.WAITING, "failure": None, "drain": drain}
            again = departure.model_copy(update=news)
            if departure.state is DepartureState.FAILED:
                take_back_failure(doors, node, departure.deployment)
            store.departures.put(again)
            how = "" if drain else "without being drained, "
            doors.tell(
                "departure.resumed", f"{departure.hostname} {departure.what} {how}when its turn comes", node.name
            )
            if not drain and not departure.rolls and may_leave(node):
                leave(doors, again, node, store.deployments.get(departure.deployment))
        renew_metadata(doors, cloud)


def abort(doors: Doors, cloud: str, members: Collection[str] = ()) -> None:
    """Who has not left stays, and who was drained is let back in. :param members: host names; none for all.

    What took the place of others is deployed to its end. :raises NotFound: no such cloud, or no such member leaves.
    :raises Conflict: nobody of the cloud does.
    """
    store = doors.store
    with store.transaction():
        store.clouds.get(cloud)
        known = store.departures.all(cloud)
        for hostname in members:
            if hostname not in [departure.hostname for departure in known if departure.going]:
                hint = f"provisioner cloud status {cloud}"
                raise NotFound(f"{hostname} is not to leave", where=cloud, hint=hint)
        if not known:
            raise Conflict("nobody of it is to leave", where=cloud, hint=f"provisioner cloud status {cloud}")
        for departure in known:
            if members and departure.hostname not in members:
                continue
            store.departures.drop(departure)
            if departure.going:
                _let_back(doors, departure, store.nodes.get(departure.node))
        renew_metadata(doors, cloud)


def _let_back(doors: Doors, departure: Departure, node: Node) -> None:
    store, ident = doors.store, departure.deployment
    if departure.state is DepartureState.FAILED:
        take_back_failure(doors, node, ident)
    if store.nodes.waiting(node.name)[0] is not None:
        store.nodes.set_waiting(node.name, None, doors.clock.now())
    if departure.order:
        tell_agent(doors, node, ident, None)
    doors.tell("departure.aborted", f"{departure.hostname} stays", node.name, ident)
