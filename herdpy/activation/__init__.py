"""Socket activation: addresses as they are declared, sockets bound to them, and a process for each connection."""
