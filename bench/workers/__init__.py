"""Worker processes: the child that holds one variant, the parent's handle on it, and how one is started."""
