"""Giving a guest its secrets: making them, and handing them over once it says hello.

``keys`` fills the directory that holds them, ``message`` makes of it the one message that guests understand,
``serial_port`` and ``tcp`` deliver that message.
"""
