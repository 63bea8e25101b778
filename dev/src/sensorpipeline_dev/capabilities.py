"""Which Linux capabilities this machine can give, and a container runtime for machines that lack some.

Docker asks for every capability in a privileged container and fails when its own bounding set is short of
one, as in some virtual machines and nested containers. There runc is wrapped: what the host cannot give is
dropped from each container's specification first.
"""

import re
from pathlib import Path

# In the order of linux/capability.h: the index is the bit.
_NAMES = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NAMES = tuple(_NAMES.split())

WRAPPER = """#!/bin/bash
# runc for a host whose bounding set is short of a capability: drop from the specification what the host cannot give.
drop() {{ [ ! -f "$1" ] || sed -i -E -e 's/"({names})",?//g' -e 's/,]/]/g' "$1"; }}
for ((i = 1; i < $#; i++)); do
  next=$((i + 1))
  case "${{!i}}" in
    --bundle | -b) drop "${{!next}}/config.json" ;;
    --process | -p) drop "${{!next}}" ;;
  esac
done
exec {runc} "$@"
"""


def missing_capabilities(status: str, last: int) -> list[str]:
    """The capabilities that the kernel knows and this process cannot pass on.

    Args:
        status: the text of /proc/self/status.
        last: the highest capability of the kernel (/proc/sys/kernel/cap_last_cap).
    """
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    bounding = int(found.group(1), 16) if found else 0
    return [f"CAP_{name}" for bit, name in enumerate(NAMES[: last + 1]) if not bounding >> bit & 1]


def host_missing_capabilities() -> list[str]:
    """The capabilities that this machine lacks."""
    return missing_capabilities(
        Path("/proc/self/status").read_text(), int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    )


def render_wrapper(missing: list[str], *, runc: str) -> str:
    """The wrapper of runc that drops `missing`."""
    return WRAPPER.format(names="|".join(missing), runc=runc)
