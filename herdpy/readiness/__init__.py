"""How one tells from outside that a service's process is ready, and that it goes on being of use."""
