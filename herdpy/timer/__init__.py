"""Timers: when a command is to run, and its runs."""
