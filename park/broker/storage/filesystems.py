"""File systems that a store may lie on: local ones, because LMDB shares memory maps between processes."""

from __future__ import annotations

import re
from pathlib import Path

#: Types of mounts whose files other machines may change.
# fmt: off
NETWORK = frozenset({
    "9p", "acfs", "afs", "beegfs", "beegfs_nodev", "ceph", "cifs", "coda", "davfs", "fhgfs", "gfs", "gfs2",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3",
    "smbfs", "sshfs", "vboxsf", "wekafs",
})
# fmt: on


def network_file_system(folder: Path, mountinfo: str) -> str | None:
    """The type of the network file system that *folder* (absolute, no links) is on, else None.

    *mountinfo* is the text of Linux's /proc/self/mountinfo: a mount a line, later ones lie over
    earlier ones. Unreadable lines are passed over.
    """
    depth, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) < 5 or not types[0]:
            continue
        # spaces and the like are written as \040
        mount = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        if folder.is_relative_to(mount) and len(mount.parts) >= depth:
            depth, kind = len(mount.parts), types[0]
    return kind if kind.removeprefix("fuse.") in NETWORK else None


def mounted_over_network(folder: Path) -> str | None:
    """The type of the network file system that *folder* is on now, else None."""
    return network_file_system(folder, _mountinfo())


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return ""
