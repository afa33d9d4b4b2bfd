"""Floods beside honest traffic: what they cost whom (attack cases 2.2 and 2.16; figures of issue 5).

`attacks.py` the bytes of each, `attacker.py` the process that sends them with a bounded share of a processor, `measure.py` one
flood beside honest clients and what is held against it, `__main__.py` all of them in one table (`make attack`),
`test_floods.py` five of them, ten seconds each.
"""
