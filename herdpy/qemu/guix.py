"""Guix on the host: builds are offloaded to a guest while its service runs, and each accepts what the other signs.

None of this needs Guix to be installed where herdpy is developed, and there it is not: the declaration is tested with
Guile and a module that defines ``build-machine`` as Guix does, the exchange of keys with a command that takes the
arguments of ``guix archive``. Neither was run with Guix itself.

Sources: the Guix manual, "Using the Offload Facility" and "Invoking guix archive"; the modules ``(guix scripts
offload)`` and ``(gnu services virtualization)``.
"""

import os
import shutil
from functools import partial

import msgspec

from herdpy import sexp
from herdpy.files import Scratch, add, content, make_directories, replace, write
from herdpy.service import Completed, Context, StartFailure
from herdpy.threads import in_thread

QUESTION_TIMEOUT = 1
"""Seconds that herdpy has to answer before the machine counts as absent: every build on the host waits for this."""

LARGEST = 1 << 20
"""Bytes of a key, or of an ACL."""


def declaration(
    *,
    name: str,
    port: int,
    private_key: str,
    host_key: str,
    systems: tuple[str, ...],
    control_socket: str,
    host: str = "127.0.0.1",
    user: str = "offloading",
    parallel_builds: int = 1,
    speed: float = 1.0,
) -> str:
    """A file in Guile Scheme whose value is a list of Guix's build machines: the guest while its service is running,
    nothing when it is not, or when herdpy does not say so within ``QUESTION_TIMEOUT``. It raises no exception.

    Guix loads /etc/guix/machines.scm where ``build-machine`` is defined; there, this is one more list::

        (append (primitive-load "/var/lib/herdpy/guix/build-vm.scm")
                (list (build-machine ...)))

    Args:
        name: the service's.
        port: of ``host``, leading to the guest's SSH server.
        private_key: the offloading key's file; Guix wants its public half beside it, as ``private_key``.pub.
        host_key: the guest's Ed25519 host key, as a line of its .pub file (Guix takes no type whose name does not begin
            with ``ssh-``).
        systems: what the guest builds for, such as ``x86_64-linux``.
        control_socket: herdpy's.
        speed: relative to other machines.

    Raises:
        ValueError: ``host_key`` is no key.
    """
    # A comment of several words is more than Guix can read.
    key = host_key.split()[:2]
    if len(key) != 2:
        raise ValueError("no SSH public key")
    question = sexp.write(
        [
            sexp.Symbol("shepherd-command"),
            [sexp.Symbol("version"), 0],
            [sexp.Symbol("action"), sexp.Symbol("status")],
            [sexp.Symbol("service"), sexp.Symbol(name)],
            [sexp.Symbol("arguments"), []],
            [sexp.Symbol("directory"), "/"],
        ]
    )
    values = {
        "NAME": name,
        "SOCKET": string(control_socket),
        "QUESTION": string(question),
        "SECONDS": str(QUESTION_TIMEOUT),
        "HOST": string(host),
        "PORT": str(port),
        "USER": string(user),
        "SYSTEMS": " ".join(string(system) for system in systems),
        "HOST-KEY": string(" ".join(key)),
        "PRIVATE-KEY": string(private_key),
        "PARALLEL-BUILDS": str(parallel_builds),
        "SPEED": repr(float(speed)),
    }
    text = _DECLARATION
    return "".join(values[part] if place % 2 else part for place, part in enumerate(text.split("%")))


class WriteDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """A preparation: keeps the :func:`declaration` of a service up to date in ``path``; without Guix, does nothing.

    Runs after ``FillSecrets``, whose host key it names.

    Raises:
        StartFailure: the host key cannot be read, or ``path`` cannot be written.
    """

    path: str
    name: str
    port: int
    root: str
    """The directory of the guest's secrets: that of ``FillSecrets``."""
    keys_directory: str
    """That of ``FillSecrets``."""
    systems: tuple[str, ...]
    control_socket: str
    guix: bool = False
    """Whether the host has Guix."""
    parallel_builds: int = 1
    speed: float = 1.0

    async def run(self, context: Context) -> None:
        if self.guix:
            try:
                await in_thread(self._write)
            except OSError as error:
                raise StartFailure(
                    f"cannot write {self.path}, the build machine's declaration for Guix: {error.strerror}:"
                    f" {error.filename}"
                ) from None
            except ValueError as error:
                raise StartFailure(f"cannot use {self._host_key}, the guest's SSH host key: {error}") from None

    @property
    def _host_key(self) -> str:
        return f"{self.root}/etc/ssh/ssh_host_ed25519_key.pub"

    def _write(self) -> None:
        if not os.path.lexists(self.root):
            # A guest that got no secrets: nobody could tell it from another.
            return
        host_key = _text(self._host_key)
        text = declaration(
            name=self.name,
            port=self.port,
            private_key=f"{self.keys_directory}/id_ed25519",
            host_key=host_key,
            systems=self.systems,
            control_socket=self.control_socket,
            parallel_builds=self.parallel_builds,
            speed=self.speed,
        )
        make_directories(os.path.dirname(self.path), 0o755)
        replace(self.path, text.encode(), 0o644)


async def exchange_keys(
    context: Context, guix: str, root: str, guix_directory: str, scratch: Scratch, *, is_trusted: bool = True
) -> None:
    """Give the guest a Guix signing key and an ACL with the host's key, and have the host accept what the guest signs.

    What is there stays. The host's own ACL is changed by ``guix archive --authorize`` alone, and only when the guest's
    key is not in it; without the right to do so the guest starts all the same, and a detail says what to do.

    Args:
        guix: the command.
        root: the directory of the guest's secrets.
        guix_directory: the host's, mostly /etc/guix.
        scratch: a place on the file system of ``root``.
        is_trusted: whether the host is to accept it.

    Raises:
        StartFailure: guix could not make the guest's key or ACL.
        OSError: a file cannot be read or written.
    """
    guest, host_key, host_acl = f"{root}/etc/guix", f"{guix_directory}/signing-key.pub", f"{guix_directory}/acl"
    private, public, acl = f"{guest}/signing-key.sec", f"{guest}/signing-key.pub", f"{guest}/acl"
    await in_thread(make_directories, guest, 0o755)

    if os.path.lexists(public) and not os.path.lexists(private):
        raise StartFailure(
            f"cannot use {public}: its private half {private} is missing; put it there, or remove the public half to"
            " have both made anew"
        )
    if not os.path.lexists(private):
        context.progress("making the guest's Guix signing key")
        place = scratch.directory()
        made = await context.command((guix, "archive", "--generate-key"), environment=_configured_in(place))
        _check(made, f"cannot make the guest's Guix signing key {private}")
        await in_thread(add, f"{place}/signing-key.sec", private, 0o600)
    if not os.path.lexists(public):
        derived = public_part(_text(private))
        if derived is None:
            raise StartFailure(f"cannot make the public half of {private}: it is no Guix signing key")
        place = scratch.directory()
        await in_thread(write, f"{place}/derived.pub", derived.encode(), 0o600)
        await in_thread(add, f"{place}/derived.pub", public, 0o644)

    if not os.path.lexists(acl):
        place = scratch.directory()
        if os.path.exists(host_acl):
            await in_thread(partial(shutil.copyfile, host_acl, f"{place}/acl"))
        if os.path.exists(host_key):
            authorized = await context.command(_authorize(guix, host_key), environment=_configured_in(place))
            _check(authorized, f"cannot authorize {host_key} in the guest's Guix ACL {acl}")
        if os.path.exists(f"{place}/acl"):
            await in_thread(add, f"{place}/acl", acl, 0o644)

    refusal = None
    if is_trusted and not _is_authorized(public, host_acl):
        authorized = await context.command(_authorize(guix, public))
        if authorized.status != 0:
            refusal = (
                f"the host does not accept what the guest builds; as root, run: guix archive --authorize < {public}"
            )
    context.detail("guix", refusal)


def public_part(private: str) -> str | None:
    """The ``(public-key ...)`` of a Guix signing key's text (a canonical S-expression of libgcrypt), or None."""
    start = private.find("(public-key")
    depth = 0
    for place in range(start, len(private)) if start >= 0 else ():
        depth += {"(": 1, ")": -1}.get(private[place], 0)
        if depth == 0:
            return private[start : place + 1] + "\n"
    return None


def _is_authorized(public: str, acl: str) -> bool:
    key = _numbers(_text(public))
    try:
        return bool(key) and key[0] in _numbers(_text(acl))
    except (FileNotFoundError, PermissionError):
        return False


def _text(path: str) -> str:
    return content(path, LARGEST).decode(errors="replace")


def _numbers(text: str) -> list[str]:
    """What stands between number signs: the points of elliptic curves, in hexadecimal."""
    return ["".join(number.split()).upper() for number in text.split("#")[1::2]]


def _configured_in(directory: str) -> dict[str, str]:
    return {**os.environ, "GUIX_CONFIGURATION_DIRECTORY": directory}


def _authorize(guix: str, key: str) -> tuple[str, ...]:
    return ("sh", "-c", 'exec "$1" archive --authorize < "$2"', "sh", guix, key)


def _check(completed: Completed, failure: str) -> None:
    if completed.status != 0:
        lines = completed.output.splitlines() or [f"guix ended with {completed.status}"]
        raise StartFailure(f"{failure}: {lines[-1]}", lines[:-1])


def string(text: str) -> str:
    """A string of Guile Scheme: nothing but the quote and the backslash needs an escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# The names between percent signs are filled in by declaration(). Everything is within one expression, so that nothing
# is left in the module that loads it. The socket never blocks: Guile's own ports would wait in poll(2) without a limit.
_DECLARATION = """\
;; Written by herdpy for the service %NAME% each time it starts; changes to this file are lost.
(let ()
  (define (ask)
    ;; What herdpy says of the service, as far as it comes within the time.
    (let* ((second internal-time-units-per-second)
           (deadline (+ (get-internal-real-time) (* %SECONDS% second)))
           (buffer ((@ (rnrs bytevectors) make-bytevector) 65536))
           (port (socket AF_UNIX (logior SOCK_STREAM SOCK_CLOEXEC SOCK_NONBLOCK) 0)))
      (dynamic-wind
        (lambda () #t)
        (lambda ()
          (connect port AF_UNIX %SOCKET%)
          ;; 16384 is MSG_NOSIGNAL: a herdpy that is just ending must not kill Guix with SIGPIPE.
          (send port ((@ (rnrs bytevectors) string->utf8) %QUESTION%) 16384)
          (call-with-output-string
            (lambda (answer)
              (let loop ((room 1048576))
                (let ((left (/ (- deadline (get-internal-real-time)) second)))
                  (when (and (> left 0) (> room 0)
                             (pair? (car (select (list port) '() '() (exact->inexact left)))))
                    (let ((count (recv! port buffer)))
                      ;; Byte by byte: all we look for is ASCII.
                      (do ((place 0 (+ place 1)))
                          ((= place count))
                        (write-char (integer->char ((@ (rnrs bytevectors) bytevector-u8-ref) buffer place)) answer))
                      (unless (zero? count)
                        (loop (- room count))))))))))
        (lambda () (close-port port)))))

  (define (field name fields)
    (let ((entry (assq name fields)))
      (and entry (cadr entry))))

  (define (running?)
    (let* ((reply (cdr (call-with-input-string (ask) read)))
           (service (cdar (field 'result reply))))
      (if (assq 'status service)
          (eq? 'running (field 'status service))
          (field 'running service))))

  (if (catch #t running? (lambda _ #f))
      (list (build-machine
             (name %HOST%)
             (port %PORT%)
             (systems (list %SYSTEMS%))
             (user %USER%)
             (host-key %HOST-KEY%)
             (private-key %PRIVATE-KEY%)
             (parallel-builds %PARALLEL-BUILDS%)
             (speed %SPEED%)))
      '()))
"""
