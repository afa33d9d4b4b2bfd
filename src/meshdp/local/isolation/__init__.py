"""Where an instance lives, apart from everything else on the machine.

Reading order: kernel (the calls that CPython lacks) → capabilities (what the next program may) → rights (how a mesh
comes to what it needs: as root or in a user namespace) → doors (how others come in later) → namespaces (who keeps
them, how they are joined) → terminal (what a person types) → launch (how programs get in) → inside (questions to what
runs there).
"""
