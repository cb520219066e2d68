"""What is mounted counts as what is declared, also where the kernel shows another type than mount(8) was told."""

import pytest

from herdpy.preparation.mounting import types_of


@pytest.mark.parametrize(
    ("declared", "shown"),
    [
        ("ext4", "ext4"),
        ("nfs", "nfs4"),
        ("nfs4", "nfs4"),
        ("sshfs", "fuse.sshfs"),
        ("fuse.sshfs", "fuse.sshfs"),
        ("fuse", "fuse.sshfs"),
        ("ntfs-3g", "fuseblk"),
    ],
)
def test_a_type_is_known_by_what_the_kernel_shows(declared: str, shown: str) -> None:
    assert declared in types_of(shown)


@pytest.mark.parametrize(
    ("declared", "shown"), [("ext4", "ext3"), ("nfs4", "nfs"), ("sshfs", "fuse.rclone"), ("ext4", "fuseblk")]
)
def test_another_type_is_another_mount(declared: str, shown: str) -> None:
    assert declared not in types_of(shown)
