"""Bookinfo, and a guided walk through what a mesh does to it, each act judged by evidence from the running mesh.

Reading order: walk (starts, plays, reports) → acts, acts_policy and acts_life (the claims) → stage (where evidence
comes from) → traffic (what goes on meanwhile) and costs (what it costs) → capture (bytes on the link) → judges (what
they show). `bookinfo/` holds the services, its mesh file and what is sent from inside workloads (probe, load);
`steps/` the policies, act by act.
"""
