"""A gRPC client without a proxy: dials xds:/// names and reads GRPC_XDS_BOOTSTRAP. Prints a line for each call.

grpc_xds.py mtls|insecure|hold TIMES TARGET...
grpc_xds.py mtls=HOST:PORT|hold=HOST:PORT|unproven=HOST:PORT TIMES TARGET...

With an address the xDS server there is asked instead of the agent, by TLS; `unproven` shows it no certificate.
"""
import json
import os
import sys
import time

how, times, targets = sys.argv[1], int(sys.argv[2]), sys.argv[3:]


def ask_directly(server, proven):
    """Writes a bootstrap that leads to another xDS server with the keys of the one that was given."""
    with open(os.environ["GRPC_XDS_BOOTSTRAP"]) as given:
        bootstrap = json.load(given)
    files = bootstrap["certificate_providers"]["default"]["config"]
    tls = {"ca_certificate_file": files["ca_certificate_file"]}
    if proven:
        tls = files
    bootstrap["xds_servers"][0].update(server_uri=server, channel_creds=[{"type": "tls", "config": tls}])
    # gRPC takes the bootstrap itself, too; a file beside the agent's would have to be cleaned up.
    del os.environ["GRPC_XDS_BOOTSTRAP"]
    os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps(bootstrap)


if "=" in how:
    how, server = how.split("=")
    ask_directly(server, how != "unproven")

import grpc  # noqa: E402  its xDS client reads the environment
import grpc.experimental  # noqa: E402


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
