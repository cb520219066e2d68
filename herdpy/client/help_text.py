"""What --help, --usage and --version print."""

HELP = """\
Usage: herd [OPTIONS] ACTION [SERVICE [ARGUMENTS]]
Ask herdpy (or GNU Shepherd) to apply ACTION to SERVICE.

Actions of every service:
  start, stop, restart       the service, and what it requires or what requires it;
                             stop SERVICE --force: also one that had better run on
  status                     of one service, or of all when SERVICE is left out
  enable, disable            let it be started, or keep it from being started
  doc SERVICE                what it is; also: doc SERVICE list-actions, doc SERVICE action NAME
  configuration SERVICE      what it runs with
  usage SERVICE              its processor time, memory and tasks
  log SERVICE                its output; with -f also what is yet to come

Overviews of all services:
  status, detailed-status    how they are, briefly or at length
  tree [SERVICE]             what requires what, from SERVICE down
  graph                      the same for Graphviz
  log                        when they entered which state
  plan                       what a reload would do
  doctor [SERVICE]           what is missing on this host, and how to get it
  reload                     let the declarations as they are now take effect
  events [-f] [SERVICE]      what happens, in lines of JSON; with -f also what is yet to come
  help                       the actions that the server knows

Inside a running service that is a machine:
  exec SERVICE [-- COMMAND...]        run COMMAND there, or a shell
  console SERVICE                     its console; Ctrl-] leaves
  offload SERVICE [-C DIR] [--fetch PATH]... -- COMMAND...
                                      copy DIR there, run COMMAND in the copy, bring PATHs back
  prune SERVICE                       remove built images that no machine needs

Of timers, and of commands that become services:
  trigger SERVICE            run a timer's command now
  runs SERVICE               what ran, and when it runs next
  spawn transient [OPTION...] -- COMMAND...
                             run COMMAND in the background, as a service
  schedule timer at TIME|in DURATION [OPTION...] -- COMMAND...
                             run COMMAND once, later
                             both take --user, --group, --directory, --environment NAME=VALUE, --log-file, --name

load root FILE        load the services that a file declares; reload root FILE: anew
unload root SERVICE   stop a service and forget it; or all
upgrade root [keeper] go on with the code that is installed by now; services notice nothing
stop root             stop everything, and herdpy

Options:
  -s, --socket=FILE   the supervisor's socket (or set HERDPY_SOCKET)
      --json          answer in JSON
  -n, --log-history=N lines of output, for log and status; or of events
  -f, --follow        for log and events: go on with what comes
      --since=TIME    for log and events: from then on: 09:30, 2026-01-31, '2026-01-31 09:30', or 10m, 2h, 1d ago
  -v, --verbose       for status: with usage, which a terminal shows anyway
      --help          this text
      --usage         the short form of it
      --version       the version
"""
USAGE = """\
Usage: herd [-fv] [-n N] [-s FILE] [--follow] [--json] [--log-history=N] [--since=TIME] [--socket=FILE] [--verbose]
            [--help] [--usage] [--version] ACTION [SERVICE [ARGUMENTS]]
"""


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
