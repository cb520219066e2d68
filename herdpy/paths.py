"""Where things lie, for root and for an ordinary user. docs/explanation/architecture.md has the table.

Everything that runs before the supervisor pays for this module at each boot: it imports nothing that is not loaded yet.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Paths:
    """The places that one herdpy uses; all of them absolute.

    Attributes:
        socket: the control socket.
        layers: directories of declarations, the first one lowest.
        trusted: those of the layers that came with the program.
        state, log: directories.
        configuration: the directory of the user's own configuration; the layer ``services`` is in it.
        runtime: the directory of the default control socket.
        secrets: has one directory for each virtual build machine.
        own_file: herdpy's own settings; need not be there.
    """

    FIELDS = ("socket", "layers", "trusted", "state", "log", "configuration", "runtime", "secrets", "own_file")

    def __init__(
        self,
        *,
        socket: str,
        layers: "Sequence[str]",
        trusted: "Sequence[str]",
        state: str,
        log: str,
        configuration: str,
        runtime: str,
        secrets: str,
        own_file: str,
    ) -> None:
        self.socket = socket
        self.layers = tuple(layers)
        self.trusted = tuple(trusted)
        self.state = state
        self.log = log
        self.configuration = configuration
        self.runtime = runtime
        self.secrets = secrets
        self.own_file = own_file

    def to_json(self) -> str:
        """For the command line of the supervisor. JSON escapes whatever is not ASCII."""
        import json

        return json.dumps({field: getattr(self, field) for field in self.FIELDS})

    @classmethod
    def from_json(cls, text: str) -> "Paths":
        """What :meth:`to_json` wrote.

        Raises:
            ValueError, TypeError: it did not.
        """
        import json

        return cls(**json.loads(text))


def default_paths(uid: int, environment: "Mapping[str, str]", home: str) -> Paths:
    """The places of root's herdpy, or of an ordinary user's.

    The XDG Base Directory Specification: a variable that is unset, empty or not absolute does not count.

    Args:
        uid: whose herdpy it is.
        environment: HOME is not read from it, the XDG variables are.
        home: the user's home directory.
    """
    shipped = shipped_declarations()
    if uid == 0:
        runtime, configuration, state, log = "/run/herdpy", "/etc/herdpy", "/var/lib/herdpy", "/var/log/herdpy"
    else:

        def base(variable: str, default: str) -> str:
            value = environment.get(variable, "")
            return os.path.join(value if os.path.isabs(value) else default, "herdpy")

        configuration = base("XDG_CONFIG_HOME", os.path.join(home, ".config"))
        state = base("XDG_STATE_HOME", os.path.join(home, ".local", "state"))
        # Only a login through PAM makes the user's directory in /run: in a container, or after su, there is none.
        sessions = f"/run/user/{uid}"
        if os.path.isabs(environment.get("XDG_RUNTIME_DIR", "")) or os.path.isdir(sessions):
            runtime = base("XDG_RUNTIME_DIR", sessions)
        else:
            runtime = state
        log = os.path.join(state, "log")
    own = os.path.join(configuration, "services")
    return Paths(
        socket=os.path.join(runtime, "socket"),
        layers=[own] if shipped is None else [shipped, own],
        trusted=[] if shipped is None else [shipped],
        state=state,
        log=log,
        configuration=configuration,
        runtime=runtime,
        secrets=os.path.join(configuration, "virtual-build-machines"),
        own_file=os.path.join(configuration, "herdpy.toml"),
    )


def home_directory(uid: int, environment: "Mapping[str, str]") -> str:
    """HOME, or what passwd(5) says; ``/`` when neither is any use."""
    home = environment.get("HOME", "")
    if os.path.isabs(home):
        return home
    import pwd

    try:
        home = pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"
    return home if os.path.isabs(home) else "/"


def shipped_declarations() -> str | None:
    """The directory of the declarations that came with this herdpy; None when they were not installed.

    Found from the package rather than from sys.prefix: distributions' pip installs under /usr/local, and ``pip install
    --user`` at home, with the same interpreter. In a checkout they lie beside the package.
    """
    import sys

    above = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.exists(os.path.join(above, "pyproject.toml")):
        candidates = [os.path.join(above, "services")]
    else:
        # PREFIX/lib/python3.x/site-packages
        prefix = os.path.dirname(os.path.dirname(os.path.dirname(above)))
        candidates = [os.path.join(root, "share", "herdpy", "services") for root in (prefix, sys.prefix)]
    return next((path for path in candidates if os.path.isdir(path)), None)
