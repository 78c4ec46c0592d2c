"""A filter of system calls for the sandbox, as the bytes of a BPF program that bubblewrap loads.

Namespaces hide the machine; this takes away what could be done inside them to other processes, to the kernel, or to
the next submission: debugging, keyrings and System V memory (both outlive a process), new namespaces, all sockets but
those between processes (also those no network namespace covers, such as vsock).
"""

from __future__ import annotations

import platform
import struct

# name -> number on x86_64, number on aarch64
_DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "syslog": (103, 116),
    "personality": (135, 92),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_SOCKET, _CLONE, _CLONE3 = (41, 198), (56, 220), (435, 435)
_X32 = 0x40000000
_CLONE_NEWUSER, _AF_UNIX = 0x10000000, 1
_EPERM, _ENOSYS = 1, 38

# BPF: load a word of seccomp_data; jump if equal, greater or equal, any bit set; return.
_LOAD, _EQUAL, _NOT_LESS, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_KILL, _ALLOW, _FAIL = 0x80000000, 0x7FFF0000, 0x00050000

Instruction = tuple[int, int, int, int]


def program(machine: str = "") -> bytes:
    """The filter for this kind of processor; empty where none is known.

    Args:
        machine: as `platform.machine` names it.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHITECTURES:
        return b""
    column, architecture = _ARCHITECTURES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),  # numbers of another ABI mean other calls
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_NOT_LESS, 0, 1, _X32), (_RETURN, 0, 0, _FAIL | _EPERM)]
    for numbers in _DENIED.values():
        code += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _FAIL | _EPERM)]
    # clone3 hides its flags in memory, where no filter can look; libraries then use clone.
    code += [(_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _FAIL | _ENOSYS)]
    code += _argument(_CLONE[column], (_ANY_BIT, 0, 1, _CLONE_NEWUSER))
    code += _argument(_SOCKET[column], (_EQUAL, 1, 0, _AF_UNIX))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _argument(number: int, condition: Instruction) -> list[Instruction]:
    """Let a call fail unless `condition`, on its first argument, jumps over the failure; then all is decided."""
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        condition,
        (_RETURN, 0, 0, _FAIL | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
