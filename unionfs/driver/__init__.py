"""What ties a union to the kernel: the FUSE session, its requests, and the mounts there are."""

# It has to be loaded before pyfuse3 is, which the modules here import.
from unionfs.driver import plane as plane
