"""The only readers of the outside: where resources come from.

Reading order: files (directories and files become one resource set) → merge (what stays in force when a document
breaks) → inotify (when to look again).
"""
