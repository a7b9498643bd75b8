"""The layer store: keeps layers and images and hands them to `unionfs`."""
