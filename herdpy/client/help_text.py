"""What --help, --usage and --version print."""

HELP = """\
Usage: herd [OPTIONS] ACTION [SERVICE [ARGUMENTS]]
Ask herdpy (or GNU Shepherd) to apply ACTION to SERVICE.

Actions of every service:
  start, stop, restart       the service, and what it requires or what requires it
  status                     of one service, or of all when SERVICE is left out
  enable, disable            let it be started, or keep it from being started
  doc SERVICE                what it is; also: doc SERVICE list-actions, doc SERVICE action NAME
  configuration SERVICE      what it runs with

Overviews of all services:
  detailed-status, log, graph, help

Inside a running service that is a machine:
  exec SERVICE [-- COMMAND...]        run COMMAND there, or a shell
  console SERVICE                     its console; Ctrl-] leaves
  offload SERVICE [-C DIR] [--fetch PATH]... -- COMMAND...
                                      copy DIR there, run COMMAND in the copy, bring PATHs back

Options:
  -s, --socket=FILE   the supervisor's socket (or set HERDPY_SOCKET)
      --json          answer in JSON
      --help          this text
      --usage         the short form of it
      --version       the version
"""
USAGE = "Usage: herd [-s FILE] [--socket=FILE] [--json] [--help] [--usage] [--version] ACTION [SERVICE [ARGUMENTS]]\n"


def text(option: str) -> str:
    """Return what the option of this name prints."""
    if option == "version":
        return f"herd (herdpy) {_version()}\n"
    return HELP if option == "help" else USAGE


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("herdpy")
    except PackageNotFoundError:
        return "(not installed)"
