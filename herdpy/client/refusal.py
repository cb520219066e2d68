"""Why the control socket may not be used, in words."""

import os
import pwd
import stat


def explain(path: str) -> str:
    """Return one line that says who may connect to the socket at ``path``, as far as one may look."""
    place = path
    while True:
        try:
            status = os.stat(place)
        except OSError:
            parent = os.path.dirname(os.path.abspath(place))
            if parent == place:
                return f"{path}: Permission denied"
            place = parent
        else:
            break
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = f"user {status.st_uid}"
    if stat.S_ISSOCK(status.st_mode) or not os.access(place, os.X_OK):
        advice = "; try: sudo herd ..." if status.st_uid == 0 else ""
        others = " and the groups that herdpy.toml names" if status.st_mode & 0o070 else ""
        return f"{path}: Permission denied ({place} belongs to {owner}, and only {owner}{others} may connect{advice})"
    return f"{path}: Permission denied (somewhere below {place}, which belongs to {owner})"
