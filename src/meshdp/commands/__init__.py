"""One module per verb: `configure(parser)` and `run(args) -> exit code`. `meshdp.cli` imports the one it needs."""
