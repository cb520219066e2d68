"""Giving a guest its secrets: making them, and handing them over once it says hello.

``keys`` fills the directory that holds them, ``message`` makes of it the one message that guests understand,
``serial_port`` and ``tcp`` deliver that message.
"""

from herdpy.qemu.secrets.keys import HOST_KEYS, FillSecrets, SecretFiles, ssh_command
from herdpy.qemu.secrets.serial_port import SendSecrets
from herdpy.qemu.secrets.tcp import AwaitSSH, SendSecretsOverTCP

__all__ = ["HOST_KEYS", "AwaitSSH", "FillSecrets", "SecretFiles", "SendSecrets", "SendSecretsOverTCP", "ssh_command"]
