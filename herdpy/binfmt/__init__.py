"""The kernel's table of binary formats, binfmt_misc, and the platforms whose programs QEMU runs through it."""
