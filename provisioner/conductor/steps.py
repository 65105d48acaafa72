"""What each step of a deployment does. A step may be begun again at any point of it, and looks before it acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioner.conductor.boot_steps import boot_device, boot_disk, boot_files, hello, power, reserve, restart
from provisioner.conductor.instance_steps import configure, probe
from provisioner.conductor.ramdisk_steps import (
    choose,
    erase,
    inspect,
    order_agent,
    rescue,
    seed_instance,
    test,
    write_image,
)
from provisioner.conductor.work import Outcome, Work
from provisioner.model.deployment import TESTS, StepName

ACTIONS: Mapping[StepName, Callable[[Work], Outcome]] = {
    StepName.RESERVE: reserve,
    StepName.BOOT_FILES: boot_files,
    StepName.BOOT_DEVICE: boot_device,
    StepName.POWER: power,
    StepName.HELLO: hello,
    StepName.CHOOSE_DISK: choose,
    StepName.STORAGE: order_agent,
    StepName.WRITE_IMAGE: write_image,
    StepName.SEED_INSTANCE: seed_instance,
    StepName.BOOT_LOADER: order_agent,
    StepName.BOOT_DISK: boot_disk,
    StepName.RESTART: restart,
    StepName.CONFIGURE: configure,
    StepName.PROBE: probe,
    StepName.INSPECT: inspect,
    StepName.ERASE: erase,
    StepName.RESCUE: rescue,
    **dict.fromkeys(TESTS, test),
}
