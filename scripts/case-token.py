#!/usr/bin/env python3
"""Prints a token (JWT) signed with the Ed25519 key of RFC 8037, appendix A: the issuer of cases and examples.

    scripts/case-token.py '{"iss": "https://issuer.example", "sub": "alice"}'
    scripts/case-token.py --jwks                 the set of its public key

The key is printed in the RFC, so a token of it proves nothing. `--header` gives further members of the header.
Signs with the openssl of the system.
"""

import argparse, base64, json, subprocess, sys, tempfile

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
PKCS8 = bytes.fromhex("302e020100300506032b657004220420") + SEED


def part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(text: str) -> str:
    with tempfile.NamedTemporaryFile() as key, tempfile.NamedTemporaryFile() as message:
        key.write(PKCS8), key.flush()
        message.write(text.encode()), message.flush()
        command = ["openssl", "pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey", key.name, "-in", message.name]
        return part(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def token(claims: str, header: dict) -> str:
    head = json.dumps({"alg": "EdDSA", "kid": "rfc8037"} | header, separators=(",", ":"))
    text = f"{part(head.encode())}.{part(claims.encode())}"
    return f"{text}.{sign(text)}"


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("claims", nargs="?", default="{}", help="payload as JSON, signed as it is written")
    args.add_argument("--header", default="{}", help="members of the header, as JSON")
    args.add_argument("--jwks", action="store_true", help="print the key set instead")
    args = args.parse_args()
    if args.jwks:
        print(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "rfc8037", "x": PUBLIC}]}))
    else:
        print(token(args.claims, json.loads(args.header)))


if __name__ == "__main__":
    sys.exit(main())
