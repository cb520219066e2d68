"""What is gathered of this machine."""

import os
import pwd
from pathlib import Path

from herdpy.catalogue.facts import Directories, gather

DIRECTORIES = Directories(
    state="/state", log="/log", configuration="/etc", runtime="/run", socket="/run/socket", secrets="/secrets"
)


def test_facts_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "guix").touch(mode=0o755)
    facts = gather(DIRECTORIES, {"HOME": "/home/alice", "PATH": f"/nowhere:{tmp_path}"})
    account = pwd.getpwuid(os.geteuid())
    assert (facts.uid, facts.user, facts.home) == (account.pw_uid, account.pw_name, "/home/alice")
    assert facts.is_root == (os.geteuid() == 0)
    assert facts.guix == str(tmp_path / "guix")
    assert facts.directories == DIRECTORIES
    assert facts.log_file("a") == "/log/a.log"
    machine, _, kernel = facts.system.rpartition("-")
    assert kernel == "linux"
    assert machine in {os.uname().machine, "armhf", "i686", "powerpc64le", "powerpc"}
    assert facts.accelerator.reason


def test_home_is_the_accounts_where_the_environment_has_none(tmp_path: Path) -> None:
    facts = gather(DIRECTORIES, {"PATH": str(tmp_path)})
    assert facts.home == pwd.getpwuid(os.geteuid()).pw_dir
    assert facts.guix is None or facts.guix.startswith(("/run/", "/var/"))


def test_a_guix_that_cannot_be_executed_is_none(tmp_path: Path) -> None:
    (tmp_path / "guix").mkdir()
    facts = gather(DIRECTORIES, {"PATH": str(tmp_path)})
    assert facts.guix != str(tmp_path / "guix")
