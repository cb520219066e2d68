"""Where libvirt's daemons of root, and those of an ordinary user, have their sockets."""

import os


def runtime_directory(directory: str | None) -> str:
    """The directory of the sockets.

    Args:
        directory: of root's daemons, or what ``unix_sock_dir`` says; None means that of this user's own
            (virGetUserRuntimeDirectory: in XDG_RUNTIME_DIR, or else in the cache).
    """
    if directory is not None:
        return directory
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return os.path.join(runtime, "libvirt")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "libvirt")


def uri(*, is_root: bool) -> str:
    """What virsh calls the daemon."""
    return "qemu:///system" if is_root else "qemu:///session"
