"""Secrets over a Unix socket, as the agent gives them."""
import http.client
import ssl
import threading

from cases import case, same, true
from cases.conversation import live
from cases.warming import pem
from control import Sent
from resources import T, listener, sds_source, secret, tls

from bed import ask, peer_certificate, rig


def served(b, name="cert"):
    """The certificate that `pem` names, as a peer sees it."""
    first = pem(b, name)[0].split("-----END")[0] + "-----END CERTIFICATE-----\n"
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(first))


def secure(b, **more):
    """The listener of the other cases and one with TLS on 10002, live."""
    b.sds.start()
    b.sds.set(secret("cert", *pem(b, "server")))
    live(b)
    b.plane.set(listener("two", 10002, "r", chain=tls("cert", sds_source(b.dialect)), **more))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("a handshake", 5, lambda: peer_certificate(10002))
    return b.sds.stream(service="sds")


@case("a secret is asked for by name, on a stream of its service, with the node")
def asked(b):
    s = secure(b)
    first = s.asked[0]
    same((first.type, first.subscribe, first.node.cluster), ("sds", ["cert"], "waypoint.default"), "the request")
    sent = b.sds.sent("sds", "cert")
    b.sds.ack(sent)
    same(peer_certificate(10002), served(b, "server"), "the certificate")


@case("a rotated secret is shown in the next handshake")
def rotated(b):
    secure(b)
    b.sds.set(secret("cert", *pem(b, "waypoint")))
    b.sds.ack(b.sds.push("sds")[0])
    rig.until("the new certificate", 5, lambda: peer_certificate(10002) == served(b, "waypoint"))


@case("no handshake fails while a secret rotates fifty times, and connections stay")
def rotation(b):
    secure(b)
    stop, seen, count = threading.Event(), set(), [0]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    kept = http.client.HTTPSConnection("127.0.0.1", 10002, context=context, timeout=5)
    kept.request("GET", "/")
    same(kept.getresponse().read(), b"A")
    name = kept.sock.getsockname()

    def load():
        while not stop.is_set():
            count[0] += 1
            seen.add(peer_certificate(10002))
    threads = [threading.Thread(target=load) for _ in range(4)]
    for t in threads:
        t.start()
    for i in range(50):
        tried = count[0]
        b.sds.set(secret("cert", *pem(b, ("waypoint", "server")[i % 2])))
        b.sds.ack(b.sds.push("sds")[0])
        rig.until("a handshake in between", 5, lambda: count[0] > tried)
    stop.set()
    for t in threads:
        t.join()
    same(None in seen, False, "whether a handshake failed")
    same(len(seen), 2, "the number of certificates seen")
    kept.request("GET", "/")
    same(kept.getresponse().read(), b"A")
    same(kept.sock.getsockname(), name, "the kept connection")


@case("a secret that is none is refused, and the old one is shown on")
def bad(b):
    secure(b)
    b.sds.set(secret("cert", "no certificate", "no key"))
    b.sds.nack(b.sds.push("sds")[0])
    same(peer_certificate(10002), served(b, "server"), "the certificate")
    b.sds.set(secret("cert", *pem(b, "waypoint")))
    b.sds.ack(b.sds.push("sds")[0])
    rig.until("the good one", 5, lambda: peer_certificate(10002) == served(b, "waypoint"))


@case("a certificate whose key is another's is refused, and the old one is shown on")
def mismatch(b):
    secure(b)
    b.sds.set(secret("cert", pem(b, "waypoint")[0], pem(b, "server")[1]))
    b.sds.nack(b.sds.push("sds")[0])
    same(peer_certificate(10002), served(b, "server"), "the certificate")


@case("a secret of another kind than is needed is refused, and the old one is shown on")
def kind(b):
    secure(b)
    b.sds.set({"@type": T + "extensions.transport_sockets.tls.v3.Secret", "name": "cert", "generic_secret": {"secret": {"inline_string": "x"}}})
    b.sds.nack(b.sds.push("sds")[0])
    same(peer_certificate(10002), served(b, "server"), "the certificate")


@case("a secret that is no longer there is not forgotten", ("delta",))
def removed(b):
    secure(b)
    b.sds.remove("sds", "cert")
    b.sds.ack(b.sds.push("sds")[0])
    same(peer_certificate(10002), served(b, "server"), "the certificate")


@case("when the agent is away handshakes go on; when it is back the secret is asked for once")
def away(b):
    s = secure(b)
    b.sds.stop()
    same(peer_certificate(10002), served(b, "server"), "the certificate")
    b.sds.set(secret("cert", *pem(b, "waypoint")))
    b.sds.start()
    later = b.sds.stream(service="sds", after=s)
    rig.until("the new certificate", 15, lambda: peer_certificate(10002) == served(b, "waypoint"))
    same([r.subscribe for r in later.asked if not r.nonce], [["cert"]], "the requests")


@case("two listeners with the same secret ask for it once")
def shared(b):
    secure(b)
    b.plane.set(listener("three", 10003, "r", chain=tls("cert", sds_source(b.dialect))))
    b.plane.ack(b.plane.push("lds")[0])
    rig.until("a handshake", 5, lambda: peer_certificate(10003))
    same(sum(not r.nonce for s in b.sds.streams for r in s.asked), 1, "the number of requests")


@case("the same secret again is acknowledged")
def again(b):
    s = secure(b)
    b.sds.push("sds", force=True)
    last = [x for x in s.log if isinstance(x, Sent)][-1]
    b.sds.ack(last)
    same(peer_certificate(10002), served(b, "server"), "the certificate")


@case("a rotated root counts for the next handshake")
def root(b):
    b.sds.start()
    ca, other = (b.certs / "ca.pem").read_text(), (b.certs / "waypoint.pem").read_text()

    def validation(text):
        return {"@type": T + "extensions.transport_sockets.tls.v3.Secret", "name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": text}}}
    b.sds.set(secret("cert", *pem(b)), validation(ca))
    live(b)
    chain = tls("cert", sds_source(b.dialect))
    context = chain["transport_socket"]["typed_config"]
    context["require_client_certificate"] = True
    context["common_tls_context"]["validation_context_sds_secret_config"] = {"name": "ROOTCA", "sds_config": sds_source(b.dialect)}
    b.plane.set(listener("two", 10002, "r", chain=chain))
    b.plane.ack(b.plane.push("lds")[0])
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(b.certs / "client.pem", b.certs / "client.key")
    rig.until("an answer", 5, lambda: ask(10002, tls=client)[:2] == (200, "A"))
    b.sds.set(validation(other))
    b.sds.ack(b.sds.push("sds")[0])
    rig.until("a refusal", 5, lambda: ask(10002, tls=client)[0] == 0)
    b.sds.set(validation(ca))
    b.sds.ack(b.sds.push("sds")[0])
    rig.until("an answer again", 5, lambda: ask(10002, tls=client)[:2] == (200, "A"))
