"""A program that does mutual TLS itself: it asks the Workload API who it is (by SPIFFE's own Python library), calls the
address it is given with what it got, and says when its certificate was renewed."""

import socket
import ssl
import sys
import tempfile
import threading

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import WorkloadApiClient

host, port = sys.argv[1].rsplit(":", 1)


def call(context):
    svid = context.default_svid
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.set_alpn_protocols(["http/1.1"])
    trusted = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    for root in trusted.x509_authorities:
        tls.load_verify_locations(cadata=root.public_bytes(Encoding.DER))
    if "bare" not in sys.argv:
        with tempfile.NamedTemporaryFile() as file:
            for certificate in svid.cert_chain:
                file.write(certificate.public_bytes(Encoding.PEM))
            file.write(svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            tls.load_cert_chain(file.name)
    with tls.wrap_socket(socket.create_connection((host, int(port)))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: payment\r\nconnection: close\r\n\r\n")
        return connection.recv(4096).split()[1].decode()


with WorkloadApiClient() as client:
    print(client.fetch_x509_svid().spiffe_id, flush=True)
    serials = []
    done = threading.Event()

    def renewed(context):
        serial = context.default_svid.leaf.serial_number
        if serial not in serials:
            serials.append(serial)
            try:
                print(len(serials), call(context), flush=True)
            except OSError as error:
                print(len(serials), "refused", error, flush=True)
        if len(serials) == 2:
            done.set()

    # The library tells of its own end, too, when this program leaves it.
    client.stream_x509_contexts(renewed, lambda error: done.is_set() or print(error, flush=True))
    done.wait(60)
