"""The sidecar process around the engine: start, feed it configuration and credentials, drain, stop.

Reading order: supervisor (the life of the process) → reload (a directory becomes transactions) → credentials → engine.
"""
