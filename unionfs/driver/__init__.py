"""What ties a union to the kernel: the FUSE session, its requests, and the mounts there are."""
