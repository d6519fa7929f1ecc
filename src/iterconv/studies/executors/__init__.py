"""Executors bring jobs to their end: `base` says what one is, each other file is one."""
