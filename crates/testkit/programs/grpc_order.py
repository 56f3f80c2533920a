"""Calls the gRPC ledger: one unary call, one stream."""
import sys

import grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    echo = channel.unary_unary("/test.Ledger/Echo")
    print(echo(b"hello", timeout=10).decode(), flush=True)
    count = channel.unary_stream("/test.Ledger/Count")
    print([item.decode() for item in count(b"", timeout=10)], flush=True)
    try:
        channel.unary_unary("/test.Ledger/Nothing")(b"", timeout=10)
    except grpc.RpcError as error:
        print(error.code().name, flush=True)
