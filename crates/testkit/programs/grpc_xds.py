"""A gRPC client without a proxy: dials xds:/// names and reads GRPC_XDS_BOOTSTRAP. Prints a line for each call.

grpc_xds.py mtls|insecure|hold TIMES TARGET...
"""
import sys
import time

import grpc
import grpc.experimental

how, times, targets = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


def dial(target):
    insecure = grpc.experimental.insecure_channel_credentials()
    if how == "insecure":
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, grpc.xds_channel_credentials(insecure))


for target in targets:
    with dial(target) as channel:
        echo = channel.unary_unary("/test.Counted/Echo")
        number = 0
        while number < times or how == "hold":
            try:
                answer = echo(b"%d" % number, timeout=20, wait_for_ready=how != "insecure").decode()
            except grpc.RpcError as error:
                answer = error.code().name
            print(target, answer, flush=True)
            number += 1
            if how == "hold":
                time.sleep(0.05)
