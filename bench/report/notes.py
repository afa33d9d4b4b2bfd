"""Why a goal is missed or not measured, and what was tried: one text for each, rendered only while it is true.

In:     the key of a goal. Out: a paragraph; a figure in it is of the run or the decision that it names.
Limits: only what was measured or tried stands here. A missed goal without a text is rendered with a sentence about it.
"""

from __future__ import annotations

# By key of `goals.GOALS`. Several goals may share one.
NOTES = {
    "hop_inbound": (
        "The floor reads nothing and pays for the kernel alone; a request costs our worker about 29,000 user "
        "instructions more (callgrind, fast build, with metrics and two policies), and as many system calls as "
        "the floor. An eighth of those instructions is the hashing of names and keys of tables (metrics, load, "
        "routes) with a keyed hash: the largest saving known that is left."
    ),
    "hop_outbound": ("As one hop inbound, with about 25,000 user instructions."),
    "pair_http1": (
        "rustls allocates and copies one buffer for each record sealed and one for each opened, also in its "
        "unbuffered form; without that only a record layer of our own would do, over secrets taken out of rustls "
        "(decision 0101)."
    ),
    "pair_h2_1": (
        "With one connection nothing is shared: as many system calls and wake-ups as the floor (two reads, two "
        "writes, two waits); what is above it is user code that is cold after every sleep, a third of the CPU "
        "there and a sixth at 64 connections. Nothing in it stands out (decision 0101)."
    ),
    "pair_h2_16": (
        "Little is shared at 16 connections yet: see one connection (decision 0101). Everything of a loop's turn "
        "is flushed once already (decision 0090)."
    ),
    "handshake_resumed": (
        "Session resumption is off and has no switch in this version. Once it has one, a variant with that option"
        " (`documents.Variant.options`) and a scenario with `resumed` in its parameters give the row."
    ),
    "tcp_bulk_haproxy": (
        "HAProxy is set to splice in both directions here, by hand, three times what its `splice-auto` alone "
        "carries. Both move the bytes inside the kernel, and the kernel's copies are most of it; ours fills pipes"
        " of 1 MiB and reads once more at each lull to know what the kernel left open (decision 0021)."
    ),
    "tls_bulk": (
        "Batches of 256 KB in place of 64 KB gave 0.35 of the floor for 0.34, within the noise, for four times "
        "the memory that a peer which does not read can hold. The copies are what is left: the kernel's two at "
        "each end, and rustls', 6 to 8 % of a side's CPU, which only a record layer of our own would spare "
        "(decision 0101)."
    ),
    "memory_directory": (
        "The interpreter keeps the compiler and its packages for the next change, ten megabytes above a fed "
        "sidecar. Without `hashlib`'s libcrypto it became 0.6 MB less; no other module is larger than 0.8 MB; "
        "giving free memory back after the first compilation frees 0.4 MB (decision 0101). Sidecars of `meshdp "
        "up` are fed."
    ),
    "memory_idle": (
        "Every idle connection keeps its TLS session inside rustls, a task and its place in the loop; buffers are"
        " lent and given back. `tests/e2e/test_idle_memory.py` bounds it at 10,000 bytes."
    ),
    "swap_one": (
        "A change of callers and endpoints alone takes all other tables over, and callers come in blocks of 256 "
        "addresses: 8.9 ms of CPU became 0.96 ms (decision 0100). The row is elapsed time from Python, the wait "
        "for the worker in it."
    ),
    "scale_instructions": (
        "The policies' paths have more distinct prefix lengths, and each is one lookup for each request. With a "
        "keyed hash in it that was 4 % inbound; since the hash of a hash only spreads its bits it is 2 % "
        "(decision 0106)."
    ),
}

# Figures of issue 5 that no run of the bench gives, and what does.
ELSEWHERE = (
    ("h2spec strict, all cases, plaintext inbound and outbound, and over mutual TLS", "tests/interop/test_h2spec.py"),
    ("gRPC interop cases, Python and Go, through two sidecars", "tests/interop/test_grpc.py"),
    ("WebSocket cases of Autobahn without groups 9, 12, 13", "tests/interop/test_websocket.py"),
    ("Envoy as the other side of the pair, both directions", "tests/interop/test_envoy.py, test_envoy_http2.py"),
    ("floods beside honest traffic: errors, p99, memory, CPU", "tests/attack/floods"),
    ("soak: 0 lost, 0 mixed up", "tests/soak"),
    ("instructions per operation, this commit against its merge base", "tests/cost/test_instructions.py"),
    ("no allocation per request in steady state", "tests/cost/test_allocations.py"),
)
