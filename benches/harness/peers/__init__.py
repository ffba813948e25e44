"""What a user would pick instead: each is a script of its own, so that it is measured as a process."""
