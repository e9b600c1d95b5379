"""Throw-away certificates of a run: one CA, a server, workload identities. Made once with the openssl command."""
import subprocess
from pathlib import Path

LEAVES = {
    "server": ("/CN=server/O=Parity", "DNS:server.test,DNS:*.b.com,IP:127.0.0.1,URI:spiffe://cluster.local/ns/default/sa/server"),
    "client": ("/CN=client/O=Org", "DNS:client.test,URI:spiffe://cluster.local/ns/default/sa/client"),
    "other": ("/CN=other/O=Org", "URI:spiffe://other.domain/ns/default/sa/other"),
}


def _openssl(*args, cwd):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True, timeout=30)


def _key_and_request(name, subject, cwd):
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key", cwd=cwd)
    _openssl("req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr", cwd=cwd)


def make(directory):
    """CA `ca`, leaves of LEAVES, and `stranger`, which a second CA has signed."""
    cwd = Path(directory)
    cwd.mkdir(parents=True, exist_ok=True)
    for ca in ("ca", "ca2"):
        _openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
                 "-subj", f"/CN=parity {ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem", cwd=cwd)
    leaves = dict(LEAVES, stranger=("/CN=stranger", "URI:spiffe://cluster.local/ns/default/sa/client"))
    for name, (subject, san) in leaves.items():
        _key_and_request(name, subject, cwd)
        (cwd / f"{name}.ext").write_text(f"subjectAltName={san}\n")
        ca = "ca2" if name == "stranger" else "ca"
        _openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
                 "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem", cwd=cwd)
    return str(cwd)
