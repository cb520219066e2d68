"""What is made ready on the host before a service's process is spawned, and cleared away after its end."""
