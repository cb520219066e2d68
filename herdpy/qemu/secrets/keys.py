"""The keys of a guest and the way in: made once, kept on the host, never overwritten.

Below the root (what the guest gets) lie the SSH host keys, the public half of the key that opens the guest's account
``offloading``, and what :mod:`herdpy.qemu.guix` adds; in the directory for keys (what stays here) the private half and
a known_hosts file with the guest's host keys and nothing else. The layout of the root is the one that Guix documents
for childhurds (the Guix manual, "The Hurd in a Virtual Machine").
"""

import errno
import os
import stat
from collections.abc import Sequence
from functools import partial

import msgspec

from herdpy.files import Scratch, add, content, make_directories, replace, write
from herdpy.mistake import printable
from herdpy.qemu import guix
from herdpy.qemu.secrets.message import UNFINISHED, files_below
from herdpy.service import Completed, Context, StartFailure
from herdpy.threads import in_thread

HOST_KEYS = ("ed25519", "ecdsa")
"""The types that Guix makes for a childhurd."""

MOST_NAMED = 1000
"""Files in a list."""

MOST_IN_A_LINE = 20
"""Files that are named for a person; of more, the number."""

LARGEST_KEYS = 1 << 20
"""Bytes of a file of keys."""

AUTHORIZED_KEYS = "etc/ssh/authorized_keys.d/offloading"


class FillSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """A preparation: fills what is missing of a guest's secrets. What is there stays, whoever made it; only to the
    authorized keys ours is added, on first use.

    Each file appears whole, under its final name, with its final mode; the private ones are 0600 from their creation. A
    run that was killed is taken up by the next one: a private key without its public half gets it.

    Several services may share a root if they share the directory for keys as well.

    Raises:
        StartFailure: the directories cannot be written, ssh-keygen or guix failed, or a public key lies there alone.
    """

    root: str
    """The directory whose files the guest gets."""
    keys_directory: str
    """Where the private half of the offloading key and known_hosts go; made with mode 0700."""
    name: str
    """The name under which ssh looks up the guest's host keys: that of the service."""
    ssh_port: int | None = None
    """The port of 127.0.0.1 that leads to the guest's SSH server."""
    host_keys: tuple[str, ...] = HOST_KEYS
    """The types of SSH host keys (``ssh-keygen -t``)."""
    guix: str | None = None
    """The host's command ``guix``; with it the guest gets a signing key and an ACL, and the host accepts what it signs.
    """
    guix_directory: str = "/etc/guix"
    """Where the host's Guix keeps its own key and ACL."""
    is_trusted: bool = True
    """Whether the host's Guix is to accept what the guest signs."""
    needs_root: bool = True
    """Whether a root that is not there and cannot be made is a failure; else a detail tells of it, and the guest is
    sent an empty list."""

    async def run(self, context: Context) -> None:
        if os.path.realpath(self.root) == "/":
            raise StartFailure("cannot keep the guest's secrets in the host's root directory; set another directory")
        try:
            await self._fill(context)
        except OSError as error:
            is_absent = not os.path.lexists(self.root) and not isinstance(error, NotADirectoryError)
            if is_absent and not self.needs_root:
                context.detail(
                    "secret-root", f"{self.root} cannot be made: {error.strerror}; the guest is sent nothing"
                )
                return
            advice = "check who may write there"
            if error.errno in (errno.EINVAL, errno.EFBIG):
                advice = "put a file of keys there, or remove it"
            raise StartFailure(
                f"cannot make the guest's secrets in {self.root}: {error.strerror}:"
                f" {error.filename2 or error.filename or self.root}; {advice}"
            ) from None

    async def _fill(self, context: Context) -> None:
        await in_thread(make_directories, self.root, 0o700)
        await in_thread(make_directories, self.keys_directory, 0o700)
        with self._scratch(self.root, context) as scratch:
            for kind in self.host_keys:
                path = f"{self.root}/etc/ssh/ssh_host_{kind}_key"
                await _make_pair(context, scratch, path, kind, f"root@{self.name}")
            if self.guix is not None:
                await guix.exchange_keys(
                    context, self.guix, self.root, self.guix_directory, scratch, is_trusted=self.is_trusted
                )
        offloading = f"{self.keys_directory}/id_ed25519"
        with self._scratch(self.keys_directory, context) as scratch:
            await _make_pair(context, scratch, offloading, "ed25519", f"offloading@{self.name}")
        known_hosts = f"{self.keys_directory}/known_hosts"
        # Written last: without it nobody has used these keys yet, and the root may be left of a herdpy that had others.
        await self._authorize(context, f"{offloading}.pub", is_first=not os.path.lexists(known_hosts))
        beside = f"{self.keys_directory}/{UNFINISHED}{context.name}.known_hosts"
        await in_thread(self._write_known_hosts, known_hosts, beside)

    @staticmethod
    def _scratch(parent: str, context: Context) -> Scratch:
        return Scratch(f"{parent}/{UNFINISHED}{context.name}")

    async def _authorize(self, context: Context, public_key: str, *, is_first: bool) -> None:
        """See that the public half lets its owner in, or tell that it does not.

        On first use it is added to the keys that are there. Later they are the administrator's: one who has taken ours
        away does not get it back.
        """
        authorized = f"{self.root}/{AUTHORIZED_KEYS}"
        ours = await in_thread(_read, public_key)
        if not os.path.lexists(authorized):
            with self._scratch(self.root, context) as scratch:
                new = f"{scratch.directory()}/offloading"
                await in_thread(make_directories, os.path.dirname(authorized), 0o755)
                await in_thread(write, new, ours, 0o600)
                # sshd in the guest reads it as the user who logs in (sshd_config(5), AuthorizedKeysFile).
                await in_thread(add, new, authorized, 0o644)
        theirs = await in_thread(_read, authorized)
        is_ours = any(ours.split()[:2] == _key_of(line) for line in theirs.splitlines())
        if is_first and not is_ours and not os.path.islink(authorized):
            gap = b"" if not theirs or theirs.endswith(b"\n") else b"\n"
            mode = os.stat(authorized).st_mode & 0o7777
            with self._scratch(self.root, context) as scratch:
                beside = f"{scratch.directory()}/offloading"
                await in_thread(partial(replace, authorized, theirs + gap + ours, mode, beside=beside))
            is_ours = True
        context.detail(
            "offloading-key",
            None
            if is_ours
            else f"{authorized} does not hold {public_key}: herdpy cannot get into the guest; add that key, or remove"
            " the file to have it written anew",
        )

    def _write_known_hosts(self, path: str, beside: str) -> None:
        names = self.name if self.ssh_port is None else f"{self.name},[127.0.0.1]:{self.ssh_port}"
        directory = f"{self.root}/etc/ssh"
        lines = [
            b" ".join([os.fsencode(names), *_read(f"{directory}/{file}").split()[:2]]) + b"\n"
            for file in sorted(os.listdir(directory))
            if file.startswith("ssh_host_") and file.endswith("_key.pub")
        ]
        replace(path, b"".join(lines), 0o600, beside=beside)


class SecretFiles(msgspec.Struct, frozen=True):
    """A look: names and modes of what the guest gets, never contents."""

    root: str

    def look(self) -> tuple[list[dict[str, object]], str]:
        """The first ``MOST_NAMED`` as a list, which ends with the number of the others; fewer of them in one line."""
        try:
            if not os.path.lexists(self.root):
                return [], "none yet: it is made when the service starts"
            names = sorted(files_below(self.root))
            listed = [(_shown(name), os.lstat(f"{self.root}/{name}").st_mode & 0o7777) for name in names[:MOST_NAMED]]
        except OSError as error:
            said = f"cannot be read: {error.strerror}: {printable(str(error.filename))}"
            return [{"error": said}], said
        values: list[dict[str, object]] = [{"name": name, "mode": f"{mode:04o}"} for name, mode in listed]
        if len(names) > len(listed):
            values.append({"more": len(names) - len(listed)})
        texts = [f"{name} {mode:04o}" for name, mode in listed[:MOST_IN_A_LINE]]
        if len(names) > len(texts):
            texts.append(f"and {len(names) - len(texts)} more")
        return values, ", ".join(texts) or "none"


def ssh_command(keys_directory: str, name: str, port: int, user: str = "offloading") -> tuple[str, ...]:
    """The start of the command line that gets into the guest, up to and with the destination (ssh(1), ssh_config(5)).

    It trusts the guest's own host keys and no others, offers the offloading key and no other, asks nothing, and takes
    nothing from the user's configuration or agent.

    Args:
        keys_directory: that of :class:`FillSecrets`.
        name: that of :class:`FillSecrets`.
        port: of 127.0.0.1.
    """
    options = (
        f"IdentityFile={_ssh_path(keys_directory)}/id_ed25519",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "PreferredAuthentications=publickey",
        "BatchMode=yes",
        f"HostKeyAlias={name}",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={_ssh_path(keys_directory)}/known_hosts",
        "GlobalKnownHostsFile=/dev/null",
        "UpdateHostKeys=no",
        "ControlMaster=no",
        "ControlPath=none",
        "ConnectTimeout=20",
        # A guest without KVM on a busy host may be silent for a while: a minute, then it is dead.
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "LogLevel=ERROR",
    )
    pairs = (word for option in options for word in ("-o", option))
    return ("ssh", "-F", "none", *pairs, "-p", str(port), f"{user}@127.0.0.1")


def _ssh_path(path: str) -> str:
    # ssh takes these values for words of a configuration file, with tokens such as %h: ssh_config(5).
    return path.replace("\\", "\\\\").replace('"', '\\"').replace(" ", "\\ ").replace("%", "%%")


async def _make_pair(context: Context, scratch: Scratch, path: str, kind: str, comment: str) -> None:
    """Make the key pair ``path`` and ``path.pub`` as far as it is missing."""
    has_private, has_public = os.path.lexists(path), os.path.lexists(f"{path}.pub")
    if has_private and has_public:
        return
    if has_public:
        raise StartFailure(
            f"cannot use {path}.pub: its private half {path} is missing; put it there, or remove the public half to"
            " have both made anew"
        )
    if has_private and not await in_thread(_is_file, path):
        raise StartFailure(f"cannot use {path}: it is no regular file; put an SSH key there, or remove it")
    await in_thread(make_directories, os.path.dirname(path), 0o755)
    new = f"{scratch.directory()}/{os.path.basename(path)}"
    if not has_private:
        context.progress(f"making SSH keys: {os.path.basename(path)}")
        made = await context.command(("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", new))
        _check(made, f"cannot make the SSH key {path}")
        # The private half first: what a kill leaves behind between the two can then be completed.
        if await in_thread(add, new, path, 0o600):
            await in_thread(add, f"{new}.pub", f"{path}.pub", 0o644)
            return
    shown = await context.command(("ssh-keygen", "-y", "-P", "", "-f", path))
    _check(shown, f"cannot read the SSH key {path} to make its public half")
    public = _public_key(shown.output)
    if public is None:
        raise StartFailure(f"cannot make the public half of the SSH key {path}: ssh-keygen showed none")
    await in_thread(write, f"{new}.completed", f"{public}\n".encode(), 0o600)
    await in_thread(add, f"{new}.completed", f"{path}.pub", 0o644)


def _check(completed: Completed, failure: str) -> None:
    if completed.status != 0:
        lines = [line for line in completed.output.splitlines() if line.strip(" @\t")]
        raise StartFailure(
            f"{failure}: {lines[-1] if lines else f'ssh-keygen ended with {completed.status}'}", lines[:-1]
        )


def _public_key(output: str) -> str | None:
    """The public key among the lines that ssh-keygen wrote, warnings left out."""
    for line in output.splitlines():
        if line.startswith(("ssh-", "ecdsa-", "sk-")) and len(line.split(" ")) >= 2:
            return line
    return None


def _key_of(line: bytes) -> Sequence[bytes]:
    """Type and key of a line of an authorized_keys file, options before them left out (sshd(8))."""
    words = line.split()
    for place, word in enumerate(words):
        if word.startswith((b"ssh-", b"ecdsa-", b"sk-")):
            return words[place : place + 2]
    return []


def _shown(name: str) -> str:
    """A file's name for a terminal and for JSON: what is no UTF-8, or would not print, is escaped."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))


def _is_file(path: str) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode)


def _read(path: str) -> bytes:
    return content(path, LARGEST_KEYS)
