#!/usr/bin/env bash
# make-certs.sh [DIR]: the certificates that the configurations beside this file name (DIR is certs/ here unless given).
#
#   ca.pem ca.key              the root, for workloads and for the ingress alike
#   NAME.pem NAME.key          a workload: SPIFFE URI SAN spiffe://cluster.local/ns/default/sa/NAME (waypoint, client, guest, server)
#   shop.example.pem/.key      an ingress certificate: DNS SAN shop.example and *.shop.example
#   a.example.pem b.example.pem   the TLS servers behind SNI passthrough
#
# A file that exists is never overwritten: remove the folder to start anew. Keys are P-256 and for trying things out only.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$here/certs}
umask 077
mkdir -p "$dir"
cd "$dir"

key() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "$@" 2>/dev/null; }

if [ ! -f ca.pem ]; then
  key -x509 -days 3650 -subj "/O=cluster.local" -addext "basicConstraints=critical,CA:TRUE" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.pem
fi

# leaf NAME SAN USAGE: a leaf under the root. The subject stays empty, as in Istio's workload certificates, so the SAN is critical.
leaf() {
  [ ! -f "$1.pem" ] || return 0
  key -subj "/" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -set_serial "0x$(openssl rand -hex 15)" -days 825 -out "$1.pem.new" \
    -extfile <(printf 'basicConstraints=CA:FALSE\nsubjectAltName=critical,%s\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$2" "$3") 2>/dev/null
  rm "$1.csr"
  mv "$1.pem.new" "$1.pem"
}

for account in waypoint client guest server; do
  leaf "$account" "URI:spiffe://cluster.local/ns/default/sa/$account" serverAuth,clientAuth
done
leaf shop.example "DNS:shop.example,DNS:*.shop.example" serverAuth
leaf a.example "DNS:a.example" serverAuth
leaf b.example "DNS:b.example" serverAuth
