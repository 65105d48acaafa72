"""The one table of commands: word → where it is and what it does. Nothing of it is imported before it is used."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """``place``: ``module:name`` of a click command. ``does``: its line in the list of commands."""

    place: str
    does: str


GROUPS: dict[str, str] = {
    "node": "Servers on record: enroll, list, show, power, and the ways out of each state.",
    "deployment": "Deployments: where their time went.",
    "cloud": "Clouds: how they stand, and their secrets.",
    "image": "Images: build what has changed, test, compare, exchange.",
    "config": "What the instances of a cloud are told.",
    "conductor": "Conductors that share the records.",
    "operator": "Who may reach the service from elsewhere, and as what.",
    "backup": "Records and keys of this site in one file, and back.",
    "lab": "A virtual rack on this machine: no hardware needed.",
}

COMMANDS: dict[str, Entry] = {
    "serve": Entry("provisioner.cli.serve:serve_command", "Run the service in the foreground."),
    "node enroll": Entry(
        "provisioner.cli.enroll:enroll", "Log in to each BMC of hardware files, take the nodes on record."
    ),
    "node import": Entry("provisioner.cli.imports:import_command", "Write a hardware file from instackenv.json, CSV."),
    "node sweep": Entry("provisioner.cli.node:sweep", "Ask all BMCs for the power at once; name what drifted or died."),
    "node inspect": Entry("provisioner.cli.hardware:inspect", "Boot nodes once and record what they are made of."),
    "node test": Entry("provisioner.cli.hardware:test", "Put processors, memory, disks and network to the test."),
    "node list": Entry("provisioner.cli.node:list_nodes", "List the nodes and how they are."),
    "node show": Entry("provisioner.cli.node:show", "Show a node and the timeline of its deployment."),
    "node power": Entry("provisioner.cli.node:power", "Ask or change the power of a node."),
    "node boot-device": Entry("provisioner.cli.bmc:boot_device", "Choose what a node boots from next, or always."),
    "node identify": Entry("provisioner.cli.bmc:identify", "Light the identify light of a node."),
    "node sensors": Entry("provisioner.cli.bmc:sensors", "Read the sensors of a node."),
    "node log": Entry("provisioner.cli.bmc:log", "Read the event log of a node's BMC."),
    "node inventory": Entry("provisioner.cli.bmc:inventory", "List the parts of a node that its BMC knows."),
    "node console": Entry("provisioner.cli.console:console", "Look at and type on the serial console of a node."),
    "node audit": Entry("provisioner.cli.bmc:audit", "Find out what makes BMCs unsafe, and what mends it."),
    "node rotate-credentials": Entry("provisioner.cli.bmc:rotate", "Give BMCs new passwords, kept by the service."),
    "node retry": Entry("provisioner.cli.verbs:retry", "Try again what failed."),
    "node abort": Entry("provisioner.cli.verbs:abort", "Give up what the node is doing."),
    "node release": Entry("provisioner.cli.verbs:release", "Take an active node out of its cloud."),
    "node rebuild": Entry("provisioner.cli.verbs:rebuild", "Deploy a node again in its place, with the newest image."),
    "node rescue": Entry("provisioner.cli.rescue:rescue", "Look at a node from the ramdisk; its disks stay."),
    "node maintenance": Entry("provisioner.cli.verbs:maintenance", "Leave a node alone for a time, and say why."),
    "node erase": Entry("provisioner.cli.verbs:erase", "Erase all disks of a node."),
    "node forget": Entry("provisioner.cli.verbs:forget", "Take a node off the record."),
    "plan": Entry("provisioner.cli.apply:plan", "Show what would change; 0: nothing, 2: changes."),
    "apply": Entry("provisioner.cli.apply:apply", "Make a cloud what its file says."),
    "deployment report": Entry("provisioner.cli.report:report", "Say which step of a deployment is out of line."),
    "cloud status": Entry("provisioner.cli.cloud:status", "Show the members of a cloud and whether it is ready."),
    "cloud authority": Entry("provisioner.cli.cloud:authority", "Print the certificate that clients of a cloud trust."),
    "cloud replace": Entry("provisioner.cli.replace:replace", "Give the place of a member to another node."),
    "cloud recover": Entry(
        "provisioner.cli.recover:recover", "Say who of a role that was down as a whole begins again; without whom."
    ),
    "cloud rebuild": Entry("provisioner.cli.departures:rebuild", "Give a role another image, a few members at a time."),
    "cloud resume": Entry("provisioner.cli.departures:resume", "Go on with members whose drain failed."),
    "cloud abort": Entry("provisioner.cli.departures:abort", "Let members stay that are to leave."),
    "cloud secret": Entry("provisioner.cli.cloud:secret", "Print a secret of a cloud, or store one."),
    "events": Entry("provisioner.cli.service:events", "Print what happened, or follow what happens."),
    "image build": Entry("provisioner.cli.build:build", "Build the images whose inputs have changed."),
    "image list": Entry("provisioner.cli.image:list_images", "List the images of the catalogue."),
    "image show": Entry("provisioner.cli.image:show", "Show one image: files, elements, packages."),
    "image test": Entry("provisioner.cli.build:test", "Boot images and run their roles' checks."),
    "image diff": Entry("provisioner.cli.image:diff", "Say which packages and files differ between two images."),
    "image export": Entry(
        "provisioner.cli.exchange:export_command", "Write an image to a file: archive, raw or qcow2."
    ),
    "image import": Entry("provisioner.cli.exchange:import_command", "Take in an archive, or a raw or qcow2 file."),
    "image prune": Entry("provisioner.cli.image:prune_command", "Remove images and layers that nobody needs."),
    "config status": Entry(
        "provisioner.cli.config_status:status",
        "How many instances have their newest generation, and why the others not.",
    ),
    "config explain": Entry("provisioner.cli.explain:explain", "Say which layer, file and line each value comes from."),
    "config report": Entry("provisioner.cli.config_report:report", "Show what an instance last said, whole."),
    "config render": Entry("provisioner.cli.config:render", "Render the files of an instance without touching any."),
    "config diff": Entry("provisioner.cli.config_node:diff", "Show what changes in files of instances; 2: changes."),
    "conductor list": Entry(
        "provisioner.cli.conductor:list_conductors", "Say which live, and on how many nodes each works."
    ),
    "operator add": Entry("provisioner.cli.operator:add", "Give somebody a token, with a role."),
    "operator list": Entry("provisioner.cli.operator:list_operators", "List those who have a token."),
    "operator remove": Entry("provisioner.cli.operator:remove", "End a token."),
    "operator ca": Entry("provisioner.cli.operator:ca", "Print the certificate by which other hosts know the service."),
    "handover": Entry("provisioner.cli.handover:handover", "Make the service on a node the master of the site."),
    "receive": Entry("provisioner.cli.receive:receive", "On that node: wait for the duty, and take it over."),
    "upgrade": Entry("provisioner.cli.upgrade:upgrade", "Bring records of an older version up to date, or back."),
    "backup create": Entry("provisioner.cli.backup:create", "Write records and keys of this site to a file."),
    "backup show": Entry("provisioner.cli.backup:show", "Say what a backup holds."),
    "backup restore": Entry("provisioner.cli.backup:restore", "Put records and keys back where there are none."),
    "lab up": Entry("provisioner.cli.lab:up", "Build the virtual rack; its nodes stay off."),
    "lab status": Entry("provisioner.cli.lab:status", "Show the machines of the rack."),
    "lab console": Entry("provisioner.cli.lab:console", "Print what a machine wrote to its serial console."),
    "lab fleet": Entry("provisioner.cli.fleet:fleet", "Run a fleet of simulated servers, for planning."),
    "lab save": Entry("provisioner.cli.lab:save", "Keep the rack as it is now: disks and memory."),
    "lab restore": Entry("provisioner.cli.lab:restore", "Put the rack back to where it was kept."),
    "lab saves": Entry("provisioner.cli.lab:saves", "List what was kept."),
    "lab forget": Entry("provisioner.cli.lab:forget", "Delete what was kept."),
    "lab down": Entry("provisioner.cli.lab:down", "End the rack and remove what it made."),
    "version": Entry("provisioner.cli.service:version", "Print the version."),
}
