"""A gRPC server with raw bytes for messages: echoes, and says who called."""
import sys
from concurrent import futures

import grpc


def echo(request, context):
    xfcc = dict(context.invocation_metadata()).get("x-forwarded-client-cert", "")
    peer = next((p[4:] for p in xfcc.split(";") if p.startswith("URI=")), "")
    return request + b" " + peer.encode()


def count(request, context):
    for number in range(3):
        yield b"%d" % number


handlers = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Count": grpc.unary_stream_rpc_method_handler(count),
}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Ledger", handlers),))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
server.wait_for_termination()
