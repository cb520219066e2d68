"""The pen: the output of services to files, each line stamped. Standard library only; it may wait for a disk."""
