"""Executors bring jobs to their end: `base` says how, `engines` opens a place to run them, each other file is one."""
