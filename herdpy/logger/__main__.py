"""``python -I -S herdpy/logger/__main__.py DESCRIPTOR``: started by the keeper, with its line to it.

By its path rather than with -m: without site, Python does not know where herdpy is.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from herdpy.logger.pen import run

    sys.exit(run(int(sys.argv[1])))
