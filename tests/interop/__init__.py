"""The judges of others: Envoy, h2spec, gRPC's interop cases, Autobahn's cases for WebSocket, nghttp2.

Parts:  `tools` says where a judge is, or why its tests skip; `rig` is a pair and programs beside it; `envoy` configures Envoy as an Istio
        sidecar; `dialer` speaks mutual TLS for judges that cannot; `nghttp2_rig` and `grpc_rig` run those judges; `grpc_wire`,
        `grpc_cases` and `grpc_server` are gRPC's Python side; `echo` and `websocket_cases` are the two ends for WebSocket; `go/`
        pins what is built from Go modules.
Limits: `scripts/interop-tools` installs the judges, a test never does.
"""
