"""A gRPC server with raw bytes for messages that logs each call: its version and who called.

grpc_counted.py PORT VERSION LOG
"""
import json
import sys
from concurrent import futures

import grpc

port, version, path = sys.argv[1:4]
log = open(path, "a", buffering=1, encoding="utf-8")


def echo(request, context):
    metadata = dict(context.invocation_metadata())
    xfcc = metadata.get("x-forwarded-client-cert", "")
    peer = next((p[4:] for p in xfcc.split(";") if p.startswith("URI=")), "")
    log.write(json.dumps({"version": version, "peer": peer, "call": request.decode()}) + "\n")
    return version.encode()


handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Counted", handlers),))
server.add_insecure_port(f"127.0.0.1:{port}")
server.start()
server.wait_for_termination()
