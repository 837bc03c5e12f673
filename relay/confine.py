"""Takes from the calling process what a sandbox child does not need: files, network, processes, memory.

Every layer stands alone and degrades openly: `confine` returns its state, `on…` or `unavailable: <reason>`, and
never raises for a layer that the kernel or a container forbids. Import everything first: afterwards no file opens.
The layers need no compiled package. Only a single-threaded process may call this: seccomp and Landlock bind the
calling thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

#: The layers, in the order they are put on.
LAYERS: Final = ("rlimits", "uid", "no_new_privs", "landlock", "seccomp")
#: Who the child becomes when the relay runs as root: nobody.
NOBODY: Final = 65534

# linux/prctl.h
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
# The Landlock system calls have one number on every architecture (asm-generic/unistd.h).
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446


def by_name(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


#: Audit architecture (linux/audit.h) and the system calls left: what CPython and QuickJS need once all is imported.
SYSCALLS: Final[dict[str, tuple[int, dict[str, int]]]] = {
    "x86_64": (
        0xC000003E,
        by_name("""
            read 0 write 1 close 3 fstat 5 poll 7 lseek 8 mmap 9 mprotect 10 munmap 11 brk 12 rt_sigaction 13
            rt_sigprocmask 14 rt_sigreturn 15 sched_yield 24 mremap 25 madvise 28 getpid 39 sendto 44 recvfrom 45
            exit 60 getrusage 98 sigaltstack 131 gettid 186 futex 202 clock_gettime 228 clock_nanosleep 230
            exit_group 231 getrandom 318 membarrier 324 rseq 334
        """),
    ),
    "aarch64": (
        0xC00000B7,
        by_name("""
            read 63 write 64 close 57 fstat 80 ppoll 73 lseek 62 mmap 222 mprotect 226 munmap 215 brk 214
            rt_sigaction 134 rt_sigprocmask 135 rt_sigreturn 139 sched_yield 124 mremap 216 madvise 233 getpid 172
            sendto 206 recvfrom 207 exit 93 getrusage 165 sigaltstack 132 gettid 178 futex 98 clock_gettime 113
            clock_nanosleep 115 exit_group 94 getrandom 278 membarrier 283 rseq 293
        """),
    ),
}
#: Allowed only without PROT_EXEC: no new machine code.
NEVER_EXECUTABLE: Final = ("mmap", "mprotect")
PROT_EXEC: Final = 4


def confine(memory_bytes: int, *, keep_fd: int = 0, without: Collection[str] = ()) -> dict[str, str]:
    """Put on every layer but those in `without`; layer → its state. `memory_bytes` bounds the address space.

    Of the open files only `keep_fd` stays.
    """
    die_with_parent()
    close_all_but(keep_fd)
    steps: dict[str, Callable[[], str]] = {
        "rlimits": lambda: set_limits(memory_bytes),
        "uid": drop_uid,
        "no_new_privs": no_new_privs,
        "landlock": landlock,
        "seccomp": seccomp,
    }
    report = {}
    for layer in LAYERS:
        report[layer] = "unavailable: switched off" if layer in without else guarded(steps[layer])
        if layer == "uid":
            die_with_parent()  # a change of uid clears the signal
        if layer == "landlock" and "rlimits" not in without:
            guarded(lambda: set_limit("NOFILE", keep_fd + 1))  # only now: Landlock needs a free descriptor
    return report


def guarded(step: Callable[[], str]) -> str:
    try:
        return step()
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: a libc without the function
        return f"unavailable: {error}"


def libc_call(name: str, *arguments: object) -> int:
    """Call libc with errno; a negative result is an OSError."""
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def linux_only() -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{sys.platform} does not have it")


def die_with_parent() -> None:
    """SIGKILL when the parent ends, even while a script hangs; and nobody of the same uid may look into our memory."""
    if sys.platform == "linux":
        guarded(lambda: str(libc_call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)))
        guarded(lambda: str(libc_call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)))


def leave_signals_to_parent() -> None:
    """What a terminal or a service manager sends to all processes is the relay's, which ends its children itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def give_way() -> None:
    """Ask the scheduler to treat this process as work in the background: when it wakes up it waits for its turn, and
    takes no CPU from whoever answers senders. Where the system knows no such thing, nothing happens.
    """
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def close_all_but(keep_fd: int) -> None:
    if keep_fd > 0:  # os.closerange(0, 0) closes every descriptor there is
        os.closerange(0, keep_fd)
    os.closerange(keep_fd + 1, 1024)


def set_limits(memory_bytes: int) -> str:
    """No file growth, no processes, no core dump, bounded memory."""
    states = {name: set_limit(name, value) for name, value in (("CORE", 0), ("FSIZE", 0), ("NPROC", 0), ("MEMLOCK", 0))}
    states["AS"] = set_limit("AS", memory_bytes)
    refused = "; ".join(f"{name}: {state}" for name, state in states.items() if state)
    return f"unavailable: {refused}" if refused else "on"


def set_limit(name: str, value: int) -> str:
    """Set one rlimit, soft and hard, or leave a stricter one; the reason why not, or nothing."""
    try:
        limit: int = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return ""


def drop_uid() -> str:
    if os.geteuid() != 0:
        return f"on (kept uid {os.geteuid()})"
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    return f"on (uid {NOBODY})"


def no_new_privs() -> str:
    linux_only()
    libc_call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return "on"


def landlock() -> str:
    """No file opened, listed or run, no TCP connected or bound, no process outside signalled (linux/landlock.h)."""
    linux_only()
    abi = libc_call("syscall", LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    files = (1 << 13) - 1 | (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    attributes = struct.pack("QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = libc_call(
        "syscall", LANDLOCK_CREATE_RULESET, attributes[:size], ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    try:
        libc_call("syscall", LANDLOCK_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return f"on (ABI {abi})"


class _Program(ctypes.Structure):
    """struct sock_fprog (linux/filter.h)."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def seccomp() -> str:
    """Any system call outside the list ends the process with SIGSYS."""
    linux_only()
    machine = platform.machine()
    if machine not in SYSCALLS:
        return f"unavailable: no list of system calls for {machine}"
    instructions = seccomp_program(machine)
    code = ctypes.create_string_buffer(b"".join(instructions), 8 * len(instructions))
    program = _Program(len(instructions), ctypes.cast(code, ctypes.c_void_p).value)
    libc_call("prctl", PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0)
    return "on"


def seccomp_program(machine: str) -> list[bytes]:
    """The filter in classic BPF: the right architecture, an allowed number, no executable memory; else kill."""
    architecture, numbers = SYSCALLS[machine]
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, allow = 0x80000000, 0x7FFF0000

    def line(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    number_at, architecture_at, third_argument_at = 0, 4, 32  # offsets in struct seccomp_data
    program = [
        line(load, 0, 0, architecture_at),
        line(equal, 1, 0, architecture),
        line(answer, 0, 0, kill),
        line(load, 0, 0, number_at),
    ]
    if machine == "x86_64":  # numbers from 2^30 on are the x32 ABI
        program += [line(at_least, 0, 1, 0x40000000), line(answer, 0, 0, kill)]
    for name, number in numbers.items():
        if name in NEVER_EXECUTABLE:
            program += [line(equal, 0, 4, number), line(load, 0, 0, third_argument_at), line(any_bit, 0, 1, PROT_EXEC)]
            program += [line(answer, 0, 0, kill), line(answer, 0, 0, allow)]
        else:
            program += [line(equal, 0, 1, number), line(answer, 0, 0, allow)]
    return [*program, line(answer, 0, 0, kill)]
