"""``python -I -S herdpy/logger/__main__.py DESCRIPTOR``: started by the keeper, with its line to it.

With ``archive PACKET`` instead it deals with the rotated files of one log, and ends.

By its path rather than with -m: without site, Python does not know where herdpy is.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    if sys.argv[1] == "archive":
        from herdpy.logger.archive import run as archive

        sys.exit(archive(sys.argv[2]))
    from herdpy.logger.pen import run

    os._exit(run(int(sys.argv[1])))  # as herdpy/command.py has it
