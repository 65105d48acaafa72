"""The table of drivers: the word in a hardware file → how to log in."""

from __future__ import annotations

from provisioner.bmc import ipmi, redfish
from provisioner.bmc.driver import Drivers

DRIVERS: Drivers = {"ipmi": ipmi.connect, "redfish": redfish.connect}
