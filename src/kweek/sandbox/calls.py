"""Numbers of the system calls that a program may make, by processor.

Source: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.18. 64-bit Arm has
only the newer ones: where x86_64 has `open`, it has `openat` alone.
"""

from __future__ import annotations

X86_64, AARCH64 = "x86_64", "aarch64"

#: Name, number on x86_64, number on 64-bit Arm.
_TABLE = """
# files, by descriptor
read 0 63, write 1 64, pread64 17 67, pwrite64 18 68, readv 19 65, writev 20 66
preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62
sendfile 40 71, copy_file_range 326 285, close 3 57, close_range 436 436, dup 32 23
dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, fcntl 72 25, ioctl 16 29, flock 73 32
fsync 74 82, fdatasync 75 83, sync_file_range 277 84, ftruncate 77 46, fallocate 285 47
fadvise64 221 223, fstat 5 80, fstatfs 138 44, getdents 78 -, getdents64 217 61
fchdir 81 50, fchmod 91 52, fchown 93 55
# files, by name
open 2 -, openat 257 56, openat2 437 437, creat 85 -, stat 4 -, lstat 6 -
newfstatat 262 79, statx 332 291, statfs 137 43, access 21 -, faccessat 269 48
faccessat2 439 439, truncate 76 45, getcwd 79 17, chdir 80 49, rename 82 -
renameat 264 38, renameat2 316 276, mkdir 83 -, mkdirat 258 34, rmdir 84 -, link 86 -
linkat 265 37, unlink 87 -, unlinkat 263 35, symlink 88 -, symlinkat 266 36
readlink 89 -, readlinkat 267 78, chmod 90 -, fchmodat 268 53, fchmodat2 452 452
chown 92 -, lchown 94 -, fchownat 260 54, umask 95 166, utime 132 -, utimes 235 -
utimensat 280 88, futimesat 261 -
# memory
mmap 9 222, mprotect 10 226, munmap 11 215, mremap 25 216, msync 26 227, mincore 27 232
madvise 28 233, brk 12 214, membarrier 324 283
# waiting
select 23 -, pselect6 270 72, poll 7 -, ppoll 271 73, epoll_create 213 -
epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22
epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, timerfd_create 283 85
timerfd_settime 286 86, timerfd_gettime 287 87, signalfd 282 -, signalfd4 289 74
pause 34 -, nanosleep 35 101, clock_nanosleep 230 115, getitimer 36 102
setitimer 38 103, alarm 37 -, timer_create 222 107, timer_settime 223 110
timer_gettime 224 108, timer_getoverrun 225 109, timer_delete 226 111
# signals
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136
rt_sigtimedwait 128 137, rt_sigsuspend 130 133, sigaltstack 131 132, kill 62 129
tkill 200 130, tgkill 234 131, restart_syscall 219 128
# processes and threads
clone 56 220, clone3 435 435, fork 57 -, vfork 58 -, execve 59 221, exit 60 93
exit_group 231 94, wait4 61 260, waitid 247 95, futex 202 98, futex_waitv 449 449
set_tid_address 218 96, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293
getcpu 309 168, sched_yield 24 124, sched_getaffinity 204 123, sched_getparam 143 121
sched_getscheduler 145 120, sched_getattr 315 275, sched_get_priority_max 146 125
sched_get_priority_min 147 126, sched_rr_get_interval 148 127, getpriority 140 141
prctl 157 167, arch_prctl 158 -, prlimit64 302 261, getrlimit 97 163, setrlimit 160 164
# who and when
getpid 39 172, gettid 186 178, getppid 110 173, getpgrp 111 -, getpgid 121 155
setpgid 109 154, getsid 124 156, setsid 112 157, getuid 102 174, geteuid 107 175
getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158
capget 125 90, uname 63 160, sysinfo 99 179, time 201 -, times 100 153
gettimeofday 96 169, clock_gettime 228 113, clock_getres 229 114, getrusage 98 165
getrandom 318 278
# pairs of sockets within the program, as asyncio makes them
socketpair 53 199, sendto 44 206, recvfrom 45 207, sendmsg 46 211, recvmsg 47 212
shutdown 48 210, getsockname 51 204, getpeername 52 205, getsockopt 55 209
"""


def _read(table: str) -> dict[str, dict[str, int]]:
    """Name of a call -> processor -> number; a dash is a call that the processor does not have."""
    calls: dict[str, dict[str, int]] = {}
    for line in table.strip().split("\n"):
        for entry in () if line.startswith("#") else line.split(", "):
            name, *numbers = entry.split()
            pairs = zip((X86_64, AARCH64), numbers, strict=True)
            calls[name] = {machine: int(number) for machine, number in pairs if number != "-"}
    return calls


#: Name of a call -> processor -> number.
CALLS = _read(_TABLE)
