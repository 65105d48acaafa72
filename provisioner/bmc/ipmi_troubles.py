"""What goes wrong with a controller, in our words: logins that pyghmi gives up, silence, completion codes.

Tables are those of the IPMI specification 2.0, revision 1.1.
"""

from __future__ import annotations

from pyghmi.ipmi.private.session import Session

from provisioner.bmc.trouble import CHECK_PASSWORD, CHECK_USER, Busy, Failed, Refused, Silent, Trouble

BUSY_CODES = frozenset({0xC0, 0xC3, 0xD2})
NO_PRIVILEGE = 0xD4
REFUSALS: tuple[tuple[str, type[Trouble], str, str, str], ...] = (
    (
        "Incorrect password",
        Refused,
        "the password is wrong",
        "the controller knows the user, but proved another password (RAKP message 2); some controllers answer so to"
        " users they do not know",
        CHECK_PASSWORD,
    ),
    (
        "Invalid integrity check value",
        Refused,
        "the password is wrong",
        "the controller did not accept our proof of the password (RAKP message 4)",
        CHECK_PASSWORD,
    ),
    (
        "Unauthorized name",
        Refused,
        "the user is unknown",
        "the controller has no user of this name who may log in over the network, neither as administrator nor as"
        " operator (RAKP message 2)",
        CHECK_USER,
    ),
    ("Invalid username length", Refused, "the user is unknown", "IPMI names have at most 16 bytes", CHECK_USER),
    (
        "role",
        Refused,
        "the user lacks the privilege",
        "the controller grants this user neither administrator nor operator",
        CHECK_USER,
    ),
    (
        "rivelege",
        Refused,
        "the user lacks the privilege",
        "logged in, but the controller grants neither administrator nor operator",
        CHECK_USER,
    ),
    (
        "Insufficient resources",
        Failed,
        "the controller has no session left",
        "it serves a few sessions at a time, and all are taken",
        "log others out, or wait a minute until it forgets idle ones",
    ),
    (
        "ipher suite",
        Refused,
        "no common cipher suite",
        "the controller accepts neither suite 17 (SHA-256) nor suite 3 (SHA-1)",
        "allow cipher suite 17 or 3 in the controller's settings",
    ),
    (
        "algorithm",
        Refused,
        "no common cipher suite",
        "the controller accepts neither suite 17 (SHA-256) nor suite 3 (SHA-1)",
        "allow cipher suite 17 or 3 in the controller's settings",
    ),
    (
        "MD5 required",
        Refused,
        "the controller does not offer IPMI 2.0",
        "version 1.5 has no encryption and is not used",
        "update the controller's firmware, or enable IPMI 2.0 (RMCP+) in its settings",
    ),
    (
        "wrong Kg",
        Refused,
        "the controller uses a second key (Kg)",
        "user and password are right, but the session key is not (RAKP message 4)",
        "set the controller's Kg key to empty",
    ),
)
"""What pyghmi says when a login fails, and what it means: (words of pyghmi's, error, summary, cause, hint)."""


def translate_login(words: str) -> Trouble:
    """The trouble that pyghmi's ``words`` mean."""
    for part, kind, summary, cause, hint in REFUSALS:
        if part in words:
            return kind(summary, cause, hint)
    return Refused("the login was refused", f"for an unusual reason, which pyghmi calls: {words}", CHECK_PASSWORD)


def not_ipmi(error: Exception) -> Failed:
    return Failed(
        "what answers there does not speak IPMI 2.0",
        f"its answer cannot be understood ({type(error).__name__})",
        "check address and port; by hand: {ipmitool}",
    )


def silent_login(seconds: float) -> Trouble:
    """What a login that did not end has reached, told by what pyghmi's session holds by then."""
    sessions = [session for by_port in Session.bmc_handlers.values() for session in by_port.values()]
    if any(hasattr(session, "pendingsessionid") for session in sessions):
        return Silent(
            "stopped answering during the login",
            f"a session was opened, then nothing followed the user's name for {seconds:.1f} s; many controllers do so"
            " when they do not know the user",
            "check the user's name; by hand: {ipmitool}",
        )
    if any(hasattr(session, "currentchannel") for session in sessions):
        return Silent(
            "stopped answering during the login",
            f"it said what it offers, then opened no session for {seconds:.1f} s",
            "check that IPMI 2.0 over LAN is enabled; by hand: {ipmitool}",
        )
    return Silent(
        "no answer",
        f"asked several times for its authentication capabilities over {seconds:.1f} s",
        "check that the controller has power and IPMI over LAN enabled, and the way to it; by hand: {ipmitool}",
    )


def silent_command(seconds: float) -> Silent:
    return Silent(
        "stopped answering",
        f"logged in, then no answer to a command for {seconds:.1f} s",
        "check the way to the controller; by hand: {ipmitool}",
    )


def translate_code(code: int, command: str) -> Trouble:
    """The trouble that a completion code (table 5-2) other than 0 means."""
    evidence = f"completion code {code:#04x} to {command}"
    if code in BUSY_CODES:
        return Busy("the controller is busy", evidence, "try again in a moment; by hand: {ipmitool}")
    if code == NO_PRIVILEGE:
        return Refused("the user lacks the privilege for this command", evidence, CHECK_USER)
    return Refused("the controller refused the command", evidence, "by hand: {ipmitool}")
