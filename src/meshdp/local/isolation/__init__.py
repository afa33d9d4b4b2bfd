"""Where an instance lives, apart from everything else on the machine.

Reading order: kernel (the calls that CPython lacks) → namespaces (who keeps them, how they are joined) → launch (how
programs get in, and with which rights) → inside (questions to what runs there).
"""
