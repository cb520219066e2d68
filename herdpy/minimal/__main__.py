"""``python -I -S herdpy/minimal/__main__.py DESCRIPTOR REASON``: started by the keeper, with its line to it.

By its path rather than with -m: without site, Python does not know where herdpy is; and there is nothing in
site-packages that it could fail for.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from herdpy.minimal.supervisor import Minimal

    Minimal(int(sys.argv[1]), sys.argv[2]).run()
