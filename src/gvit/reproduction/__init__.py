"""Every table and figure of the paper by one command, at the size that a machine allows."""
