"""The ``herd`` command. Imports only the protocol and as little as it can of the standard library."""
