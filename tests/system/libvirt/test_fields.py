"""Each field's key is one that the real daemon reads, and takes as we write it."""

import json
import os
import subprocess
import sys

import pytest

from herdpy.catalogue.libvirt.settings import KEYS
from herdpy.libvirt.configuration_file import render
from tests.catalogue.libvirt_samples import LIBVIRT, NEEDS, VIRTLOG
from tests.catalogue.test_libvirt import lines as libvirtd_lines
from tests.catalogue.test_libvirt import made as libvirtd
from tests.catalogue.test_virtlog import content as virtlogd_file
from tests.catalogue.test_virtlog import made as virtlogd
from tests.system.libvirt.conftest import HERE, JAIL

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a mount namespace without a user's")


def came_of(daemon, files, directories=None):
    """What comes of a daemon with each of some files, by their names.

    Args:
        directories: of the sockets at which libvirtd is asked whether it is of use; None means that it is not.
    """
    asked = directories or {}
    completed = subprocess.run(
        [*JAIL, sys.executable, str(HERE / "try_files.py"), daemon],
        input=json.dumps({name: (text, asked.get(name)) for name, text in files.items()}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout)


def of_another_type(value):
    """A value that the daemon refuses, if it reads the key at all: of what it does not know, it does not look at it."""
    return 7 if isinstance(value, str | tuple | list) else "seven"


def test_libvirtd_starts_and_answers_with_each_field_set():
    files = {key: libvirtd_file(**{**NEEDS.get(key, {}), key: value}) for key, (value, _) in LIBVIRT.items()}
    directories = {**dict.fromkeys(files, "/run/libvirt"), "unix-sock-dir": "/run/elsewhere"}
    refused = {"access-drivers": "ready, but access denied: 'QEMU' denied access"}  # there is no polkit in the jail
    assert came_of("/usr/sbin/libvirtd", files, directories) == {**dict.fromkeys(files, "ready"), **refused}


def test_virtlogd_starts_with_each_field_set():
    files = {key: virtlogd_file(virtlogd(**{key: value})) for key, (value, _) in VIRTLOG.items()}
    files["largest-size"] = virtlogd_file(virtlogd(**{"max-size": 2**53}))
    assert came_of("/usr/sbin/virtlogd", files) == dict.fromkeys(files, "ready")


def test_libvirtd_reads_every_key_that_we_write():
    samples = {name.replace("-", "_"): value for name, (value, _) in LIBVIRT.items()}
    files = {key: render({key: of_another_type(samples[name])}) for name, key in KEYS.items()}
    said = came_of("/usr/sbin/libvirtd", files)
    assert [key for key, what in said.items() if what == "ready" or f"'{key}'" not in what] == []


def test_virtlogd_reads_every_key_that_we_write():
    values = dict(line.split(" = ") for line in virtlogd_file(virtlogd()).splitlines()[1:])
    files = {key: render({key: of_another_type(json.loads(value))}) for key, value in values.items()}
    said = came_of("/usr/sbin/virtlogd", files)
    assert [key for key, what in said.items() if what == "ready" or f"'{key}'" not in what] == []


def test_what_we_refuse_for_its_words_libvirtd_refuses_too():
    """And the other way round: what we let pass it takes."""
    refused = {
        "log_filters": ["remote", "5:remote", "3:", "x:remote"],
        "log_outputs": ["bogus", "3:stdout", "3:stderr:x", "3:syslog", "9:stderr"],
        "host_uuid": ["4dea22b3", "00000000-0000-0000-0000-000000000000"],
        "unix_sock_rw_perms": ["rw", "0778"],
        "auth_unix_rw": ["bogus", ""],
    }
    taken = {
        "log_filters": ["", "3:+remote", " 1:qemu  4:event "],
        "log_outputs": ["", "1:syslog:libvirtd", "3:stderr 4:stderr", "1:file:/run/a.log"],
        "host_uuid": ["4DEA22B31D52D8F32516782E98A23FA0"],
        "access_drivers": [("polkit",), ("none",)],
        "unix_sock_rw_perms": ["0770", "770"],
    }

    def files(cases):
        return {f"{key} {value!r}": render({key: value}) for key, values in cases.items() for value in values}

    said = came_of("/usr/sbin/libvirtd", files(refused))
    assert [case for case, what in said.items() if what == "ready"] == []
    assert came_of("/usr/sbin/libvirtd", files(taken)) == dict.fromkeys(files(taken), "ready")


def libvirtd_file(**fields):
    fields.pop("listen", None)  # it takes certificates
    return "\n".join(libvirtd_lines(libvirtd(**fields), polkit=False)) + "\n"
