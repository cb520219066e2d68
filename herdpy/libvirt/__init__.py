"""What libvirtd and virtlogd share: their configuration files, what they are asked, and what they need on the host."""
