"""Certificates of the TLS and HBONE cases: those of the parity tests and of configs/make-certs.sh, and bad ones."""
import pathlib
import subprocess

from difft import certs

URI = "spiffe://cluster.local/ns/default/sa/client"


def _openssl(cwd, *args):
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True, timeout=60)


def _leaf(cwd, name, san, ca="ca", usage="clientAuth", days=("-days", "30"), extra=""):
    """A leaf signed by `ca` (None: by itself); san and usage are lines of OpenSSL's extension file."""
    _openssl(cwd, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    text = f"basicConstraints=CA:FALSE\n{san}\nkeyUsage=critical,digitalSignature\n{extra}"
    if usage:
        text += f"extendedKeyUsage={usage}\n"
    (cwd / f"{name}.ext").write_text(text)
    sign = ["-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial"] if ca else ["-signkey", f"{name}.key"]
    _openssl(cwd, "x509", "-req", "-in", f"{name}.csr", *sign, *days, "-extfile", f"{name}.ext", "-out", f"{name}.pem")


def _der_san(uri):
    """subjectAltName with one URI of any bytes, as DER."""
    return "subjectAltName=DER:" + b"".join([b"\x30", bytes([len(uri) + 2]), b"\x86", bytes([len(uri)]), uri]).hex(":")


def _intermediate(cwd, name, ca):
    _openssl(cwd, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
    (cwd / f"{name}.ext").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign\n")
    _openssl(cwd, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial", "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem")


def bad(cwd, uri=URI):
    """Client certificates that must not pass, beside the CA `ca` in cwd."""
    san = f"subjectAltName=URI:{uri}"
    # openssl's x509 -req takes no dates; a negative number of days ends in the past.
    _leaf(cwd, "expired", san, days=("-days", "-1"))
    _leaf(cwd, "selfsigned", san, ca=None)
    _leaf(cwd, "wrongeku", san, usage="serverAuth")
    _leaf(cwd, "foreign", "subjectAltName=URI:spiffe://other.domain/ns/default/sa/client")
    _leaf(cwd, "nosan", "subjectKeyIdentifier=hash")
    _leaf(cwd, "dnssan", f"subjectAltName=DNS:cluster.local")
    _leaf(cwd, "nulsan", _der_san(uri.encode() + b"\0.evil"))
    _leaf(cwd, "nuldomain", _der_san(b"spiffe://cluster.local\0.evil/ns/x"))
    _leaf(cwd, "crlfsan", _der_san(uri.encode() + b"\r\nx-evil: 1"))
    _leaf(cwd, "manysans", "subjectAltName=@s\n", extra="", usage="clientAuth\n[s]\n" + "\n".join(f"URI.{i}=spiffe://cluster.local/ns/x/sa/{i}" for i in range(10000)))
    _openssl(cwd, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", "/CN=rogue", "-keyout", "rogue.key", "-out", "rogue.pem")
    _leaf(cwd, "strange", san, ca="rogue")
    # Two authorities that have signed each other, and a chain that goes round and round.
    _intermediate(cwd, "loopa", "rogue")
    _intermediate(cwd, "loopb", "loopa")
    _openssl(cwd, "x509", "-req", "-in", "loopa.csr", "-CA", "loopb.pem", "-CAkey", "loopb.key", "-CAcreateserial", "-days", "30", "-extfile", "loopa.ext", "-out", "loopa2.pem")
    _leaf(cwd, "looped", san, ca="loopa")
    text = (cwd / "looped.pem").read_text() + ((cwd / "loopa2.pem").read_text() + (cwd / "loopb.pem").read_text()) * 20
    (cwd / "looped.pem").write_text(text)


def make(folder):
    folder = pathlib.Path(folder)
    certs.make(folder)
    bad(folder)
    workloads = folder / "certs"
    root = pathlib.Path(__file__).resolve().parents[2]
    subprocess.run([root / "configs/make-certs.sh", workloads], check=True)
    bad(workloads)
