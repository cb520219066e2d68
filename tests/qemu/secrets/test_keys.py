import os
import shutil
import stat
import subprocess
from pathlib import Path

import msgspec
import pytest
import trio

from herdpy.qemu.secrets.keys import FillSecrets, SecretFiles, ssh_command
from herdpy.qemu.secrets.message import read_payload
from herdpy.service import StartFailure
from tests.ports import free_port


@pytest.fixture
def step(tmp_path: Path) -> FillSecrets:
    return FillSecrets(
        root=str(tmp_path / "etc/herdpy/virtual-build-machines/build-vm"),
        keys_directory=str(tmp_path / "state/keys/build-vm"),
        name="build-vm",
        ssh_port=11022,
    )


def modes(directory: str) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): f"{stat.S_IMODE(path.stat().st_mode):o}"
        for path in Path(directory).rglob("*")
    }


def contents(directory: str) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in Path(directory).rglob("*")
        if path.is_file()
    }


def public_half(private: str) -> list[str]:
    return subprocess.run(
        ["ssh-keygen", "-y", "-f", private], capture_output=True, text=True, check=True
    ).stdout.split()[:2]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
async def test_everything_is_made_with_its_mode(step: FillSecrets, context, umask: int) -> None:
    before = os.umask(umask)
    try:
        await step.run(context)
    finally:
        os.umask(before)
    assert modes(step.root) == {
        "etc": "755",
        "etc/ssh": "755",
        "etc/ssh/authorized_keys.d": "755",
        "etc/ssh/authorized_keys.d/offloading": "644",
        "etc/ssh/ssh_host_ecdsa_key": "600",
        "etc/ssh/ssh_host_ecdsa_key.pub": "644",
        "etc/ssh/ssh_host_ed25519_key": "600",
        "etc/ssh/ssh_host_ed25519_key.pub": "644",
    }
    assert modes(step.keys_directory) == {"id_ed25519": "600", "id_ed25519.pub": "644", "known_hosts": "600"}
    for directory in (step.root, step.keys_directory):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.dirname(step.root)).st_mode) == 0o755
    assert context.details == {}


async def test_the_halves_belong_together(step: FillSecrets, context) -> None:
    await step.run(context)
    for private, public in (
        (f"{step.root}/etc/ssh/ssh_host_ed25519_key", f"{step.root}/etc/ssh/ssh_host_ed25519_key.pub"),
        (f"{step.root}/etc/ssh/ssh_host_ecdsa_key", f"{step.root}/etc/ssh/ssh_host_ecdsa_key.pub"),
        (f"{step.keys_directory}/id_ed25519", f"{step.keys_directory}/id_ed25519.pub"),
        (f"{step.keys_directory}/id_ed25519", f"{step.root}/etc/ssh/authorized_keys.d/offloading"),
    ):
        assert public_half(private) == Path(public).read_text().split()[:2], public


async def test_a_second_run_touches_nothing(step: FillSecrets, context) -> None:
    await step.run(context)
    first = contents(step.root) | contents(step.keys_directory)
    context.commands.clear()
    await step.run(context)
    assert contents(step.root) | contents(step.keys_directory) == first
    assert context.commands == []


async def test_what_the_administrator_put_there_stays(step: FillSecrets, context) -> None:
    ssh = Path(step.root, "etc/ssh")
    ssh.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", ssh / "ssh_host_ecdsa_key"], check=True)
    (ssh / "ssh_host_ecdsa_key").chmod(0o400)
    Path(step.root, "etc/motd").write_text("ours\n")
    before = contents(step.root)
    await step.run(context)
    after = contents(step.root)
    assert {path: after[path] for path in before} == before
    assert stat.S_IMODE((ssh / "ssh_host_ecdsa_key").stat().st_mode) == 0o400
    assert (ssh / "ssh_host_ed25519_key").exists()


async def test_a_private_key_without_its_public_half_is_completed(step: FillSecrets, context) -> None:
    await step.run(context)
    private = f"{step.root}/etc/ssh/ssh_host_ed25519_key"
    before = contents(step.root)
    os.unlink(f"{private}.pub")
    os.unlink(f"{step.keys_directory}/id_ed25519.pub")
    await step.run(context)
    assert Path(f"{private}.pub").read_text().split()[:2] == public_half(private)
    assert modes(step.root)["etc/ssh/ssh_host_ed25519_key.pub"] == "644"
    assert contents(step.root)[private] == before[private]
    assert context.details == {}


async def test_a_private_key_that_ssh_keygen_cannot_read_is_named(step: FillSecrets, context) -> None:
    private = Path(step.root, "etc/ssh/ssh_host_ed25519_key")
    private.parent.mkdir(parents=True)
    private.write_text("no key\n")
    private.chmod(0o600)
    with pytest.raises(StartFailure) as caught:
        await step.run(context)
    assert str(caught.value).startswith(f"cannot read the SSH key {private} to make its public half: ")
    assert "\n" not in str(caught.value)
    assert private.read_text() == "no key\n"


async def test_a_key_under_a_passphrase_is_not_waited_for(step: FillSecrets, context) -> None:
    private = Path(step.root, "etc/ssh/ssh_host_ed25519_key")
    private.parent.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", private], check=True)
    Path(f"{private}.pub").unlink()
    with trio.fail_after(60), pytest.raises(StartFailure, match="incorrect passphrase"):
        await step.run(context)


async def test_a_public_key_alone_is_a_clear_failure(step: FillSecrets, context) -> None:
    public = Path(step.root, "etc/ssh/ssh_host_ed25519_key.pub")
    public.parent.mkdir(parents=True)
    public.write_text("ssh-ed25519 AAAA\n")
    with pytest.raises(StartFailure) as caught:
        await step.run(context)
    assert str(caught.value) == (
        f"cannot use {public}: its private half {str(public)[:-4]} is missing; put it there, or remove the public half"
        " to have both made anew"
    )
    assert public.read_text() == "ssh-ed25519 AAAA\n"


async def test_what_others_are_let_in_by_stays_and_ours_is_added_once(step: FillSecrets, context) -> None:
    authorized = Path(step.root, "etc/ssh/authorized_keys.d/offloading")
    authorized.parent.mkdir(parents=True)
    authorized.write_text("ssh-ed25519 AAAAtheirs someone")
    authorized.chmod(0o640)
    await step.run(context)
    ours = Path(step.keys_directory, "id_ed25519.pub").read_text()
    assert authorized.read_text() == f"ssh-ed25519 AAAAtheirs someone\n{ours}"
    assert stat.S_IMODE(authorized.stat().st_mode) == 0o640
    assert context.details == {}
    authorized.write_text("ssh-ed25519 AAAAtheirs someone\n")
    await step.run(context)
    assert authorized.read_text() == "ssh-ed25519 AAAAtheirs someone\n", "taken away is taken away"
    assert context.details["offloading-key"].startswith(
        f"{authorized} does not hold {step.keys_directory}/id_ed25519.pub:"
    )
    authorized.write_text(f'# two keys\nrestrict,command="echo hi there" {ours}ssh-ed25519 AAAAtheirs someone\n')
    await step.run(context)
    assert context.details == {}


async def test_new_keys_open_a_guest_whose_old_ones_were_lost(step: FillSecrets, context) -> None:
    await step.run(context)
    shutil.rmtree(step.keys_directory)
    await step.run(context)
    authorized = Path(step.root, "etc/ssh/authorized_keys.d/offloading").read_text().splitlines()
    assert len(authorized) == 2
    assert authorized[1].split()[:2] == public_half(f"{step.keys_directory}/id_ed25519")
    assert context.details == {}


async def test_an_unwritable_root_is_one_clear_line(step: FillSecrets, context, tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file, not a directory")
    with pytest.raises(StartFailure) as caught:
        await step.run(context)
    assert str(caught.value) == (
        f"cannot make the guest's secrets in {step.root}: Not a directory: {tmp_path}/etc/herdpy; check who may write"
        " there"
    )


@pytest.mark.parametrize("root", ["/", "//", "/usr/.."])
async def test_the_hosts_own_root_is_refused(step: FillSecrets, context, root: str) -> None:
    with pytest.raises(StartFailure, match="cannot keep the guest's secrets in the host's root directory"):
        await FillSecrets(root=root, keys_directory=step.keys_directory, name="build-vm").run(context)
    assert not os.path.exists(step.keys_directory)


async def test_a_killed_run_is_taken_up_and_cleaned_up(step: FillSecrets, context) -> None:
    left = Path(step.root, ".herdpy-build-vm")
    left.mkdir(parents=True)
    (left / "ssh_host_ed25519_key").write_text("half a key")
    await step.run(context)
    assert not left.exists()
    assert not list(Path(step.keys_directory).glob(".*"))


async def test_a_cancelled_run_leaves_whole_pairs_or_nothing(step: FillSecrets, context) -> None:
    with trio.CancelScope() as scope:
        progress = context.progress

        def cancel_at_the_second_key(stage: str, done: float | None = None) -> None:
            progress(stage, done)
            if "ecdsa" in stage:
                scope.cancel()

        context.progress = cancel_at_the_second_key
        await step.run(context)
    assert scope.cancelled_caught
    assert sorted(os.listdir(f"{step.root}/etc/ssh")) == ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"]
    assert os.listdir(step.root) == ["etc"]


async def test_two_services_with_one_root_agree_on_its_keys(step: FillSecrets, context) -> None:
    async def fill(name: str) -> None:
        other = type(context)()
        other.name = name
        await step.run(other)
        assert other.details == {}

    async with trio.open_nursery() as nursery:
        for name in ("childhurd1", "childhurd2", "childhurd3"):
            nursery.start_soon(fill, name)
    for private in (f"{step.root}/etc/ssh/ssh_host_ed25519_key", f"{step.keys_directory}/id_ed25519"):
        assert public_half(private) == Path(f"{private}.pub").read_text().split()[:2]


async def test_known_hosts_holds_the_guests_keys_and_follows_them(step: FillSecrets, context) -> None:
    await step.run(context)
    known_hosts = Path(step.keys_directory, "known_hosts")
    for name in ("build-vm", "[127.0.0.1]:11022"):
        found = subprocess.run(
            ["ssh-keygen", "-F", name, "-f", known_hosts], capture_output=True, text=True, check=True
        )
        assert len([line for line in found.stdout.splitlines() if not line.startswith("#")]) == 2
    assert len(known_hosts.read_text().splitlines()) == 2
    shutil.rmtree(f"{step.root}/etc/ssh")
    await step.run(context)
    key = Path(step.root, "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[1]
    assert key in known_hosts.read_text()
    assert len(known_hosts.read_text().splitlines()) == 2


def test_the_ssh_command_says_everything(tmp_path: Path) -> None:
    command = ssh_command("/var/lib/herdpy/keys/build-vm", "build-vm", 11022)
    assert command[:3] == ("ssh", "-F", "none")
    assert command[-3:] == ("-p", "11022", "offloading@127.0.0.1")
    assert "HostKeyAlias=build-vm" in command and "StrictHostKeyChecking=yes" in command


def test_ssh_understands_any_directory(tmp_path: Path) -> None:
    directory = tmp_path / "a %h b"
    directory.mkdir()
    (directory / "id_ed25519").touch()
    command = ssh_command(str(directory), "build-vm", 11022)
    shown = subprocess.run([command[0], "-G", *command[1:]], capture_output=True, text=True, check=True)
    options = dict(line.split(" ", 1) for line in shown.stdout.splitlines())
    # ssh -G shows what it has read, before it replaces %% by %.
    assert options["identityfile"].replace("%%", "%") == f"{directory}/id_ed25519"
    assert options["userknownhostsfile"].replace("%%", "%").strip('"') == f"{directory}/known_hosts"
    assert options["hostkeyalias"] == "build-vm" and options["batchmode"] == "yes"


@pytest.fixture
async def sshd(step: FillSecrets, context, tmp_path: Path, nursery: trio.Nursery):
    """A real sshd that has the guest's secrets, and its port."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if program is None or os.geteuid() != 0:
        pytest.skip("needs sshd and root")
    await step.run(context)
    port = free_port()
    root = step.root
    configuration = tmp_path / "sshd_config"
    configuration.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"HostKey {root}/etc/ssh/ssh_host_ed25519_key\nHostKey {root}/etc/ssh/ssh_host_ecdsa_key\n"
        f"AuthorizedKeysFile {root}/etc/ssh/authorized_keys.d/offloading\nPermitRootLogin yes\n"
    )
    # Where Debian's sshd wants an empty directory; made by its unit, which does not run here.
    separation = Path("/run/sshd")
    is_ours = not separation.exists()
    separation.mkdir(mode=0o755, exist_ok=True)
    process = await nursery.start(trio.run_process, [program, "-D", "-e", "-f", str(configuration)])
    yield port
    process.terminate()
    await process.wait()
    if is_ours:
        separation.rmdir()


async def test_the_ssh_command_gets_into_a_real_sshd_and_no_other(step: FillSecrets, sshd: int, context) -> None:
    async def ssh(name: str) -> tuple[int, str]:
        command = ssh_command(step.keys_directory, name, sshd, user="root")
        completed = await trio.run_process(
            [*command, "echo", "inside"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return completed.returncode, completed.stdout.decode() + completed.stderr.decode()

    with trio.fail_after(60):
        while "refused" in (result := await ssh("build-vm"))[1]:
            await trio.sleep(0.05)
        assert result == (0, "inside\n")
        status, words = await ssh("another-vm")
        assert status == 255 and "Host key verification failed" in words


GUIX = """\
#!/bin/sh
# Takes the arguments of "guix archive" and keeps its files where Guix does.
directory=${GUIX_CONFIGURATION_DIRECTORY:-HOST}
echo "guix $* in $directory" >>LOG
case "$*" in
  "archive --generate-key")
    umask 077
    echo "(key-data (public-key (ecc (curve Ed25519) (q #C0FFEE$$#))) (private-key (ecc (d #5EC#))))" \
      >"$directory/signing-key.sec"
    chmod 400 "$directory/signing-key.sec"
    sed 's/(key-data \\(.*\\) (private.*/\\1/' "$directory/signing-key.sec" >"$directory/signing-key.pub" ;;
  "archive --authorize")
    [ ! -e REFUSE ] || { echo "guix archive: error: mkdir: Permission denied"; exit 1; }
    key=$(cat)
    [ -n "$key" ] || exit 1
    echo "(entry $key (tag (guix import)))" >>"$directory/acl" ;;
  *) echo "unknown: $*"; exit 1 ;;
esac
"""


class Guix:
    def __init__(self, directory: Path) -> None:
        self.host, self.log, self.refuse = directory / "etc-guix", directory / "log", directory / "refuse"
        self.program = directory / "guix of the host"

    @property
    def runs(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def guix(tmp_path: Path) -> Guix:
    """A command ``guix``, and the host's own key and ACL."""
    guix = Guix(tmp_path)
    guix.host.mkdir()
    (guix.host / "signing-key.pub").write_text("(public-key (ecc (curve Ed25519) (q #405757#)))\n")
    (guix.host / "acl").write_text("(entry (public-key (ecc (q #0DD#))) (tag (guix import)))\n")
    guix.program.write_text(
        GUIX.replace("HOST", str(guix.host)).replace("LOG", str(guix.log)).replace("REFUSE", str(guix.refuse))
    )
    guix.program.chmod(0o755)
    return guix


def with_guix(step: FillSecrets, guix: Guix) -> FillSecrets:
    return msgspec.structs.replace(step, guix=str(guix.program), guix_directory=str(guix.host))


async def test_each_side_accepts_what_the_other_signs(step: FillSecrets, context, guix: Guix) -> None:
    await with_guix(step, guix).run(context)
    guest = Path(step.root, "etc/guix")
    assert modes(str(guest)) == {"acl": "644", "signing-key.pub": "644", "signing-key.sec": "600"}
    public = (guest / "signing-key.pub").read_text().strip()
    assert public.startswith("(public-key (ecc (curve Ed25519) (q #C0FFEE")
    # The guest accepts what the host accepts, and the host.
    assert "#0DD#" in (guest / "acl").read_text() and "#405757#" in (guest / "acl").read_text()
    assert public in (guix.host / "acl").read_text()
    assert "#405757#" not in (guix.host / "acl").read_text()
    assert context.details == {}
    assert not list(Path(step.root).glob(".herdpy*"))
    runs, before = guix.runs, contents(str(guest))
    assert len(runs) == 3
    await with_guix(step, guix).run(context)
    assert (guix.runs, contents(str(guest))) == (runs, before)


async def test_a_host_that_may_not_be_changed_is_told_and_the_guest_starts(step, context, guix: Guix) -> None:
    (guix.host / "signing-key.pub").unlink()
    guix.refuse.touch()
    await with_guix(step, guix).run(context)
    assert context.details["guix"] == (
        "the host does not accept what the guest builds; as root, run: guix archive --authorize <"
        f" {step.root}/etc/guix/signing-key.pub"
    )
    guix.refuse.unlink()
    await with_guix(step, guix).run(context)
    assert context.details == {}


async def test_guix_keys_of_the_administrator_stay_and_are_completed(step, context, guix: Guix) -> None:
    guest = Path(step.root, "etc/guix")
    guest.mkdir(parents=True)
    (guest / "signing-key.sec").write_text("(key-data\n (public-key (ecc (q #AD1#)))\n (private-key (d #5EC#)))\n")
    (guest / "acl").write_text("theirs\n")
    before = contents(str(guest))
    await with_guix(step, guix).run(context)
    assert (guest / "signing-key.pub").read_text() == "(public-key (ecc (q #AD1#)))\n"
    assert {path: content for path, content in contents(str(guest)).items() if path in before} == before
    assert "#AD1#" in (guix.host / "acl").read_text()
    (guest / "signing-key.sec").unlink()
    with pytest.raises(StartFailure, match=r"cannot use .*/signing-key\.pub: its private half .* is missing"):
        await with_guix(step, guix).run(context)


async def test_a_guix_that_fails_is_quoted(step, context, guix: Guix) -> None:
    guix.refuse.touch()
    with pytest.raises(StartFailure) as caught:
        await with_guix(step, guix).run(context)
    assert str(caught.value) == (
        f"cannot authorize {guix.host}/signing-key.pub in the guest's Guix ACL {step.root}/etc/guix/acl: guix archive:"
        " error: mkdir: Permission denied"
    )
    assert not Path(step.root, "etc/guix/acl").exists()


async def test_without_guix_nothing_of_it_appears(step: FillSecrets, context, guix: Guix) -> None:
    await step.run(context)
    assert guix.runs == [] and not Path(step.root, "etc/guix").exists()


@pytest.mark.parametrize("needed", [True, False])
async def test_a_root_that_cannot_be_made_is_a_failure_only_where_it_is_needed(context, tmp_path, needed) -> None:
    root = "/proc/no-such-directory"
    step = FillSecrets(root=root, keys_directory=str(tmp_path / "keys"), name="hurd-vm", needs_root=needed)
    if needed:
        with pytest.raises(StartFailure, match=f"cannot make the guest's secrets in {root}"):
            await step.run(context)
        return
    await step.run(context)
    assert (
        context.details["secret-root"] == f"{root} cannot be made: No such file or directory; the guest is sent nothing"
    )
    assert await read_payload(root) == b"(secrets (version 0) (files ()))"


async def test_a_root_that_is_a_file_is_a_failure_anyway(context, tmp_path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "root"):
        step = FillSecrets(root=str(root), keys_directory=str(tmp_path / "keys"), name="hurd-vm", needs_root=False)
        with pytest.raises(StartFailure, match="cannot make the guest's secrets"):
            await step.run(context)


def test_what_the_guest_gets_is_listed_by_name_and_mode(tmp_path) -> None:
    root = tmp_path / "root"
    look = SecretFiles(str(root))
    assert look.look() == ([], "none yet: it is made when the service starts")
    (root / "etc").mkdir(parents=True)
    assert look.look() == ([], "none")
    (root / "etc" / "key").write_text("not to be shown")
    (root / "etc" / "key").chmod(0o640)
    assert look.look() == ([{"name": "etc/key", "mode": "0640"}], "etc/key 0640")
    for number in range(1030):
        (root / f"x{number:04}").touch()
    values, text = look.look()
    assert len(values) == 1001
    assert values[-1] == {"more": 31}
    assert text.endswith(" and 1011 more")


def test_a_name_of_any_bytes_is_shown_as_one_can_print_it(tmp_path) -> None:
    for name in (b"\xff\x1b[2Jkey", "ß\n".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch(0o600)
    values, text = SecretFiles(str(tmp_path)).look()
    assert [value["name"] for value in values] == ["ß\\n", "\\xff\\x1b[2Jkey"]
    assert text == "ß\\n 0600, \\xff\\x1b[2Jkey 0600"


def test_a_root_that_cannot_be_read_is_told(tmp_path) -> None:
    (tmp_path / "file").touch()
    said = "cannot be read: Not a directory: "
    values, text = SecretFiles(f"{tmp_path}/file/root").look()
    assert (values, text) in (([], "none yet: it is made when the service starts"), ([{"error": text}], text))
    values, text = SecretFiles(f"{tmp_path}/file").look()
    assert text.startswith(said)
    assert values == [{"error": text}]


@pytest.mark.parametrize("where", ["authorized", "public", "private"])
async def test_a_fifo_in_a_files_place_is_refused_and_not_waited_for(step, context, where: str) -> None:
    authorized = Path(step.root, "etc/ssh/authorized_keys.d/offloading")
    ours = Path(step.keys_directory, "id_ed25519")
    await step.run(context)
    path = {"authorized": authorized, "public": ours.with_name("id_ed25519.pub"), "private": ours}[where]
    path.unlink()
    os.mkfifo(path)
    if where == "private":
        ours.with_name("id_ed25519.pub").unlink()
    with (
        trio.fail_after(20),
        pytest.raises(StartFailure, match=f"it is no regular file.*{path}|{path}: it is no regular"),
    ):
        await step.run(context)


async def test_a_guest_that_is_not_trusted_has_keys_but_the_host_does_not_accept_them(
    step, context, guix: Guix
) -> None:
    before = (guix.host / "acl").read_text()
    await msgspec.structs.replace(with_guix(step, guix), is_trusted=False).run(context)
    assert (guix.host / "acl").read_text() == before
    assert set(modes(str(Path(step.root, "etc/guix")))) == {"acl", "signing-key.pub", "signing-key.sec"}
