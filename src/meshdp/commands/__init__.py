"""One module per verb, each with `configure(parser)` and `run(args) -> exit code`; `meshdp.cli` imports the one it needs."""
