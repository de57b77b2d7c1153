"""System calls that Python does not offer, each with its failure as an exception that says what was refused."""

from __future__ import annotations

import ctypes
import os

# include/uapi/linux/sched.h, mount.h, prctl.h, landlock.h
NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    *(0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000),
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_ATTRIBUTES = {MS_RDONLY: 1, MS_NOSUID: 2, MS_NODEV: 4, MS_NOEXEC: 8}  # MOUNT_ATTR_* of MS_*
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_SET_THP_DISABLE = 28, 38, 41
_AT_FDCWD, _SECCOMP_MODE_FILTER = -100, 2
_EINVAL, _ENOSPC = 22, 28

#: Numbers of calls without a function in the C library; those from 424 on are the same on all processors.
_NUMBERS = {"x86_64": {"pivot_root": 155, "capset": 126}, "aarch64": {"pivot_root": 41, "capset": 91}}
_MOUNT_SETATTR, _LANDLOCK = 442, (444, 445, 446)

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


class Refused(Exception):
    """The kernel does not do what is needed; the text says what, and the kernel's reason."""


def _check(status: int, what: str) -> int:
    if status < 0:
        raise Refused(f"{what}: {os.strerror(ctypes.get_errno())}")
    return status


def _call(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    wide = (ctypes.c_long(word) if isinstance(word, int) else word for word in arguments)
    return int(_LIBC.syscall(ctypes.c_long(number), *wide))


def _number(name: str) -> int:
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise Refused(f"no list of system calls for {machine}")
    return _NUMBERS[machine][name]


def unshare(flags: int, what: str) -> None:
    """Leave the namespaces in `flags` for new ones."""
    status = _LIBC.unshare(flags)
    if status < 0 and ctypes.get_errno() == _ENOSPC:
        raise Refused(f"{what}: this machine allows no more of them (sysctl user.max_*_namespaces)")
    _check(status, what)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """Mount `source` on `target`; a bind or a change of propagation where the flags say so."""
    words = (word.encode() if word else None for word in (source, target, kind))
    status = _LIBC.mount(*words, ctypes.c_ulong(flags), options.encode() if options else None)
    _check(status, f"mounting {kind or source} on {target}")


def restrict_mount(target: str, flags: int) -> None:
    """Add restrictions (MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC) to a mount and keep those it has."""
    added = sum(attribute for flag, attribute in _ATTRIBUTES.items() if flags & flag)
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    attributes = added.to_bytes(8, "little") + bytes(24)
    status = _call(_MOUNT_SETATTR, _AT_FDCWD, target.encode(), 0, attributes, len(attributes))
    _check(status, f"restricting the mount on {target} (Linux 5.12 or newer does)")


def unmount(target: str) -> None:
    """Take a mount away, now for new users and later for those who still have files of it open."""
    _check(_LIBC.umount2(target.encode(), _MNT_DETACH), f"unmounting {target}")


def pivot_root_here() -> None:
    """Make the current folder the root, and let go of the old one."""
    _check(_call(_number("pivot_root"), b".", b"."), "pivot_root")
    unmount(".")  # the old root lies on top of the new one
    os.chdir("/")


def prctl(option: int, first: int, second: int = 0, *, what: str) -> None:
    """A setting of the calling process."""
    words = (ctypes.c_ulong(word) for word in (first, second, 0, 0))
    _check(_LIBC.prctl(option, *words), what)


def hostname(name: bytes) -> None:
    """Name the machine, within its namespace."""
    _check(_LIBC.sethostname(name, ctypes.c_size_t(len(name))), "sethostname")


def set_signal(number: int, *, ignored: bool) -> None:
    """Ignore a signal, or do with it what the kernel does by itself; nothing for those that cannot be changed."""
    _LIBC.signal(number, ctypes.c_void_p(1 if ignored else 0))


def drop_capabilities() -> None:
    """Give up every capability for good: bounding, permitted, effective, inheritable and ambient."""
    for number in range(64):
        if _LIBC.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), *(ctypes.c_ulong(0),) * 3) < 0:
            if ctypes.get_errno() != _EINVAL:
                _check(-1, "dropping capabilities")
            break  # the kernel has no more than these
    # NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock, and the lock of KEEP_CAPS
    prctl(PR_SET_SECUREBITS, 0b11101111, what="locking the capabilities")
    header = (0x20080522).to_bytes(4, "little") + bytes(4)  # _LINUX_CAPABILITY_VERSION_3, this process
    _check(_call(_number("capset"), header, bytes(24)), "dropping capabilities")


def install_filter(program: bytes) -> None:
    """Let this process and all it starts make only the system calls that the filter allows."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]

    held = Program(len(program) // 8, program)
    words = (ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(held), ctypes.c_ulong(0), ctypes.c_ulong(0))
    _check(_LIBC.prctl(PR_SET_SECCOMP, *words), "the filter of system calls (seccomp)")


def landlock_version() -> int:
    """The version of Landlock that the kernel has; 0 when it has none or it is switched off."""
    return max(0, _call(_LANDLOCK[0], None, 0, 1))


def landlock_create(files: int, network: int, scope: int) -> int:
    """A descriptor of a set of rules that handles these rights."""
    rights = b"".join(word.to_bytes(8, "little") for word in (files, network, scope))
    size = 24 if scope else 16 if network else 8  # kernels that know less take less
    return _check(_call(_LANDLOCK[0], rights, size, 0), "Landlock")


def landlock_allow(rules: int, rights: int, folder: int) -> None:
    """Grant rights below a folder, or on a file, that is open."""
    beneath = rights.to_bytes(8, "little") + folder.to_bytes(4, "little")  # struct landlock_path_beneath_attr
    _check(_call(_LANDLOCK[1], rules, 1, beneath, 0), "Landlock")


def landlock_restrict(rules: int) -> None:
    """Put the rules into force for this process and all it starts."""
    _check(_call(_LANDLOCK[2], rules, 0), "Landlock")
