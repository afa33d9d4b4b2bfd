"""Verdicts without a mesh: what a folder of policies says to requests that somebody writes down, and why.

`request` reads a request, `policies` judges it with the data plane's own matcher (through `meshdp.supervise.engine`),
`explanation` says why with the help of `written` (fields as the YAML has them), `places` (their lines) and `mtls`
(the mode of a port), `telling` says it to people. `asked` turns a command line and `log_line` an access log line into a
request. `checks` finds what in the policies cannot have been meant, with `checks_values` and `checks_rules`.

Pure but for `places` and `policies`, which read files. `meshdp authz` and the pytest plugin stand on this.
"""
