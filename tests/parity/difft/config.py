"""From a case file's shorthand to a plain Envoy bootstrap.

Listeners: `http` (an HCM with overrides), `tcp` (tcp_proxy), or `raw` (a listener as Envoy wants it).
Strings may hold ${NAME}: ports of listeners and backends, ${ADMIN}, ${LOG}, ${TMP}, ${CERTS}.
"""
import copy
import json
import re

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
FILE_LOG = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
DOWN_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
UP_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
WHOLE = re.compile(r"^\$\{(\w+)\}$")
PART = re.compile(r"\$\{(\w+)\}")


def substitute(node, names):
    """${NAME} in every string and key; a string that is nothing else becomes the value itself (a port stays a number)."""
    if isinstance(node, dict):
        return {substitute(k, names): substitute(v, names) for k, v in node.items()}
    if isinstance(node, list):
        return [substitute(v, names) for v in node]
    if not isinstance(node, str):
        return node
    whole = WHOLE.match(node)
    if whole and whole[1] in names:
        return names[whole[1]]
    return PART.sub(lambda m: str(names.get(m[1], m[0])), node)


def merge(base, over):
    """Deep merge of mappings; lists and scalars of `over` win, an explicit null removes the key."""
    out = copy.deepcopy(base)
    for key, value in (over or {}).items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = copy.deepcopy(value)
    return out


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def file_log(log_format):
    return [{"name": "envoy.access_loggers.file", "typed_config": {"@type": FILE_LOG, "path": "${LOG}", "log_format": {"json_format": log_format}}}]


def route(item):
    """'PREFIX -> cluster' or a route as Envoy wants it."""
    if isinstance(item, str):
        prefix, _, cluster = item.partition(" -> ")
        return {"match": {"prefix": prefix}, "route": {"cluster": cluster}}
    return item


def router(**options):
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER, **options}}


def downstream_tls(spec):
    """`tls: {cert, alpn: [...], require: true, max: TLSv1_2, verify_uri: prefix}` of a listener or chain."""
    cert = spec.get("cert", "server")
    common = {"tls_certificates": [{"certificate_chain": {"filename": f"${{CERTS}}/{cert}.pem"}, "private_key": {"filename": f"${{CERTS}}/{cert}.key"}}]}
    if spec.get("alpn"):
        common["alpn_protocols"] = spec["alpn"]
    if spec.get("params"):
        common["tls_params"] = spec["params"]
    if spec.get("require") or spec.get("verify"):
        common["validation_context"] = merge({"trusted_ca": {"filename": "${CERTS}/ca.pem"}}, spec.get("verify"))
    out = {"@type": DOWN_TLS, "common_tls_context": common}
    if spec.get("require"):
        out["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": out}


def upstream_tls(spec):
    common = {}
    if spec.get("cert"):
        common["tls_certificates"] = [{"certificate_chain": {"filename": f"${{CERTS}}/{spec['cert']}.pem"}, "private_key": {"filename": f"${{CERTS}}/{spec['cert']}.key"}}]
    if spec.get("verify") is not None:
        common["validation_context"] = merge({"trusted_ca": {"filename": "${CERTS}/ca.pem"}}, spec["verify"])
    if spec.get("alpn"):
        common["alpn_protocols"] = spec["alpn"]
    out = {"@type": UP_TLS, "common_tls_context": common}
    if spec.get("sni"):
        out["sni"] = spec["sni"]
    return {"name": "envoy.transport_sockets.tls", "typed_config": out}


def http_filter_chain(name, spec, log_format):
    hcm = {
        "@type": HCM,
        "stat_prefix": name,
        "codec_type": "AUTO",
        # Envoy keeps a connection that it closes half open for this long (default 1 s); short, to keep the run short.
        "delayed_close_timeout": "0.1s",
        "access_log": file_log(log_format),
    }
    hosts = spec.get("virtual_hosts")
    if hosts is None:
        hosts = [{"name": "all", "domains": ["*"], "routes": spec.get("routes", ["/ -> a"])}]
    hosts = [dict(h, routes=[route(r) for r in h.get("routes", [])]) for h in hosts]
    hcm["route_config"] = merge({"name": name, "virtual_hosts": hosts}, spec.get("route_config"))
    hcm["http_filters"] = list(spec.get("filters", [])) + [router(**spec.get("router", {}))]
    hcm = merge(hcm, spec.get("hcm"))
    return {"filters": list(spec.get("network_filters", [])) + [{"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm}]}


def tcp_filter_chain(name, spec, log_format):
    proxy = merge({"@type": TCP_PROXY, "stat_prefix": name, "access_log": file_log(log_format)}, spec.get("proxy"))
    if "weighted_clusters" not in proxy:
        proxy.setdefault("cluster", "a")
    return {"filters": list(spec.get("network_filters", [])) + [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}


def chain(name, spec, log_format):
    if "http" in spec:
        out = http_filter_chain(name, spec["http"] or {}, log_format)
    elif "tcp" in spec:
        out = tcp_filter_chain(name, spec["tcp"] or {}, log_format)
    else:
        out = {"filters": spec["filters"]}
    if "tls" in spec:
        out["transport_socket"] = downstream_tls(spec["tls"] or {})
    for key in ("name", "filter_chain_match"):
        if key in spec:
            out[key] = spec[key]
    return out


def listener(name, spec, log_format):
    spec = spec or {"http": {}}
    if "raw" in spec:
        return merge({"name": name, "address": address(f"${{{name}}}")}, spec["raw"])
    chains = spec.get("chains") or [spec]
    out = {"name": name, "address": address(f"${{{name}}}"), "filter_chains": [chain(name, c, log_format) for c in chains]}
    if spec.get("listener_log"):
        out["access_log"] = file_log(log_format)
    return merge(out, spec.get("listener"))


def cluster(name, spec):
    spec = spec or {}
    hosts = spec.get("hosts", [])
    out = {"name": name, "type": "STATIC", "connect_timeout": "1s"}
    if not spec.get("no_assignment"):
        out["load_assignment"] = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(f"${{{h}}}")}} for h in hosts]}]}
    options = {}
    if spec.get("http2") is not None:
        options = {"explicit_http_config": {"http2_protocol_options": spec["http2"]}}
    if spec.get("http1") is not None:
        options = {"explicit_http_config": {"http_protocol_options": spec["http1"]}}
    if spec.get("options"):
        options = merge(options or {"explicit_http_config": {"http_protocol_options": {}}}, spec["options"])
    if options:
        out["typed_extension_protocol_options"] = {HTTP_OPTIONS: {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", **options}}
    if "tls" in spec:
        out["transport_socket"] = upstream_tls(spec["tls"] or {})
    return merge(out, spec.get("cluster"))


def bootstrap(case, log_format, only=None):
    """The whole bootstrap, with ${NAME}s; `only` keeps the named listeners and the clusters they mention."""
    listeners = [listener(n, s, log_format) for n, s in case.get("listeners", {}).items() if only is None or n in only]
    clusters = [cluster(n, s) for n, s in case.get("clusters", {}).items()]
    if only is not None:
        text = json.dumps(listeners)
        clusters = [c for c in clusters if json.dumps(c["name"]) in text]
    base = {
        "node": {"id": "parity", "cluster": "parity"},
        "admin": {"address": address("${ADMIN}")},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }
    return merge(base, case.get("bootstrap"))
