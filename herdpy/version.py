"""The version of the code that runs, whatever is installed by now."""

VERSION = "0.1.0"
