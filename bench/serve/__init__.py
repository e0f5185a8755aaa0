"""The launcher: the dashboard on this device alone, or on its network behind a token."""
