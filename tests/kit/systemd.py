"""A real systemd as the first process of namespaces of its own: what it starts and restarts is seen, this machine's own is not touched.

It needs root, as systemd does. It sees this machine's files, with an `/etc`, `/opt`, `/run` and `/var/lib` of its own, knows no unit but
the one that it is given, and shares the network, so that what it starts reaches servers of a test on loopback.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Self

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
ID = 990
"""Of the unit's user and group."""
CGROUPS = Path("/sys/fs/cgroup")
V1 = ("systemd", "unified", "memory", "pids")
"""Where the kernel's control groups are still of version 1: the hierarchies that a unit of ours is put into."""

INSIDE = """
set -e
mount --make-rprivate /
if [ -d /sys/fs/cgroup/systemd ]; then
  umount -l -R /sys/fs/cgroup
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup/memory /sys/fs/cgroup/pids
  mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
  mount -t cgroup -o memory memory /sys/fs/cgroup/memory
  mount -t cgroup -o pids pids /sys/fs/cgroup/pids
else
  umount -l -R /sys/fs/cgroup
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mkdir "$MADE/opt/python" "$MADE/opt/packages" "$MADE/opt/source"
mount --bind "$PYTHON" "$MADE/opt/python"
mount --bind "$PACKAGES" "$MADE/opt/packages"
mount --bind "$SOURCE" "$MADE/opt/source"
mount --rbind "$MADE/opt" /opt
mount --bind "$MADE/etc" /etc
mount --bind "$MADE/var-lib" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=kdpipe SYSTEMD_UNIT_PATH=/etc/units \
  /lib/systemd/systemd --system --log-target=console --show-status=no
"""
KDPIPE = """#!/bin/sh
export PYTHONPATH=/opt/source:/opt/packages LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/{python} -P -m workers.cli "$@"
"""
TARGET = "[Unit]\nDescription=nothing but what a test starts\nDefaultDependencies=no\n"


class Systemd:
    """Running, with one unit file in place and `kdpipe` of this checkout in /opt/kdpipe. A context manager that leaves nothing behind."""

    def __init__(self, folder: Path, unit: Path, *, user: str) -> None:
        assert os.geteuid() == 0, "systemd as a first process needs root: run this test as root"
        self._made, self._group = folder, f"kdpipe-test-{secrets.token_hex(4)}"
        self.etc, self.state = folder / "etc", folder / "var-lib"
        shutil.copytree("/etc", self.etc, symlinks=True, ignore_dangling_symlinks=True)
        for name, line in (("passwd", f"{user}:x:{ID}:{ID}::/var/lib/{user}:/usr/sbin/nologin\n"), ("group", f"{user}:x:{ID}:\n")):
            with (self.etc / name).open("a") as file:
                file.write(line)
        (self.etc / "units").mkdir()
        shutil.copy(unit, self.etc / "units")
        for target in ("default", "sysinit", "basic", "shutdown", "network-online", "multi-user"):
            (self.etc / "units" / f"{target}.target").write_text(TARGET)
        program = folder / "opt" / "kdpipe" / "bin" / "kdpipe"
        program.parent.mkdir(parents=True)
        program.write_text(KDPIPE.format(python=Path(os.path.realpath(sys.executable)).name))
        program.chmod(0o755)
        self.state.mkdir()

    def __enter__(self) -> Self:
        groups = self._groups()
        for group in groups:
            group.mkdir()
        enter = "".join(f"echo $$ > {group}/cgroup.procs\n" for group in groups)
        words = ["unshare", "--pid", "--fork", "--mount", "--cgroup", "--ipc", "--uts", "--mount-proc", "--kill-child", "sh", "-c", INSIDE]
        environment = {
            "PATH": os.environ["PATH"], "MADE": str(self._made), "SOURCE": str(ROOT),
            "PYTHON": sys.base_prefix, "PACKAGES": sysconfig.get_path("purelib"),
        }  # fmt: skip
        self._log = self._made / "systemd.log"
        with self._log.open("wb") as log:
            outer = ["sh", "-c", f'{enter}exec "$@"', "sh", *words]
            self._process = subprocess.Popen(outer, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)  # which takes the namespace's first process, and with it all others
        self._process.wait()
        for group in self._groups():
            deadline_s = time.monotonic() + PATIENCE_S
            while (group / "cgroup.procs").exists() and _pids_below(group):
                assert time.monotonic() < deadline_s, f"processes live on in {group}"
                time.sleep(0.05)
            for below in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                below.rmdir()
            group.rmdir()

    def systemctl(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`systemctl`, as somebody on that machine types it."""
        first = self._first()
        inside = ["nsenter", "--target", str(first), "--mount", "--pid", "--cgroup", "--ipc", "--uts"]
        return subprocess.run([*inside, "systemctl", *words], capture_output=True, text=True, timeout=PATIENCE_S)

    def show(self, unit: str, fact: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", unit, f"--property={fact}", "--value").stdout.strip()

    def kill(self, unit: str) -> None:
        """SIGKILL to the unit's main process alone."""
        assert self.systemctl("kill", "--kill-whom=main", "--signal=KILL", unit).returncode == 0

    def own(self, path: Path) -> None:
        """Give a file to the unit's user."""
        os.chown(path, ID, ID)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _wait_until_up(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while "running" not in self.systemctl("is-system-running").stdout:
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"systemd does not come up:\n{self.log}")
            time.sleep(0.05)

    def _first(self) -> int:
        """The namespace's first process, as numbered here; the outer one until it is there."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else self._process.pid

    def _groups(self) -> list[Path]:
        below = [CGROUPS / name for name in V1] if (CGROUPS / "systemd").is_dir() else [CGROUPS]
        return [path / self._group for path in below]


def _pids_below(group: Path) -> list[str]:
    return [pid for procs in group.rglob("cgroup.procs") for pid in procs.read_text().split()]
