"""The resources of the cases as JSON, as small as they can be, and the bootstrap that asks for them."""
ADMIN, ADS = 15000, 18000
T = "type.googleapis.com/envoy."
ADS_SOURCE = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
H2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
    "@type": T + "extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}


def source(timeout="0s"):
    return {**ADS_SOURCE, "initial_fetch_timeout": timeout}


def address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


def endpoints(name, *hosts, **more):
    return {"@type": T + "config.endpoint.v3.ClusterLoadAssignment", "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(h)}} for h in hosts]}] if hosts else [], **more}


def cluster(name, *hosts, timeout="0s", **more):
    """A static cluster where hosts are given, else one over EDS."""
    out = {"@type": T + "config.cluster.v3.Cluster", "name": name, "connect_timeout": "2s"}
    if hosts:
        e = endpoints(name, *hosts)
        del e["@type"]
        return {**out, "type": "STATIC", "load_assignment": e, **more}
    return {**out, "type": "EDS", "eds_cluster_config": {"eds_config": source(timeout)}, **more}


def routes(name, to, prefix="/", **more):
    """A route configuration; `to` is a cluster, or a text in angle brackets to answer at once."""
    action = {"direct_response": {"status": 200, "body": {"inline_string": to[1:-1]}}} if to.startswith("<") else {"route": {"cluster": to}}
    return {"@type": T + "config.route.v3.RouteConfiguration", "name": name,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": prefix}, **action}]}], **more}


def manager(route, timeout="0s", filters=(), **more):
    """An HTTP connection manager; `route` is the name of a route configuration to ask for, or a route configuration."""
    if isinstance(route, dict) and "scope_key_builder" in route:
        how = {"scoped_routes": route}
    elif isinstance(route, str):
        how = {"rds": {"route_config_name": route, "config_source": source(timeout)}}
    else:
        how = {"route_config": {k: v for k, v in route.items() if k != "@type"}}
    return {"name": "hcm", "typed_config": {"@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "in", **how,
            "http_filters": [*filters, {"name": "router", "typed_config": {"@type": T + "extensions.filters.http.router.v3.Router"}}], **more}}


def scope(name, route, *key, **more):
    """A scope with the routes of a name."""
    return {"@type": T + "config.route.v3.ScopedRouteConfiguration", "name": name, "route_configuration_name": route,
            "key": {"fragments": [{"string_key": k} for k in key]}, **more}


def scoped(header, inline=None, timeout="0s"):
    """Scopes by the value of a header: over SRDS, or a list with routes of their own."""
    how = {"scoped_rds": {"scoped_rds_config_source": source(timeout)}} if inline is None else {"scoped_route_configurations_list": {"scoped_route_configurations": [
        {k: v for k, v in s.items() if k != "@type"} for s in inline]}}
    return {"name": "scopes", "scope_key_builder": {"fragments": [{"header_value_extractor": {"name": header, "index": 0}}]}, "rds_config_source": source(timeout), **how}


def virtual_host(route, name, text, *domains):
    """A virtual host over VHDS that answers at once."""
    return {"@type": T + "config.route.v3.VirtualHost", "name": f"{route}/{name}", "domains": list(domains or (name,)),
            "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": text}}}]}


ON_DEMAND = {"name": "on_demand", "typed_config": {"@type": T + "extensions.filters.http.on_demand.v3.OnDemand"}}


def listener(name, port, route, timeout="0s", filters=(), chain=None, **more):
    return {"@type": T + "config.listener.v3.Listener", "name": name, "address": address(f"127.0.0.1:{port}"),
            "filter_chains": [{"name": "only", "filters": [manager(route, timeout, filters)], **(chain or {})}], **more}


def later_filter(name, kind=T + "extensions.filters.http.header_mutation.v3.HeaderMutation", timeout="0s", default=None):
    """An HTTP filter over ECDS."""
    discovery = {"config_source": source(timeout), "type_urls": [kind]}
    if default:
        discovery |= {"default_config": default, "apply_default_config_without_warming": False}
    return {"name": name, "config_discovery": discovery}


def adds_header(name, key, value):
    """The extension over ECDS: it adds a header to responses."""
    return {"@type": T + "config.core.v3.TypedExtensionConfig", "name": name, "typed_config": {
        "@type": T + "extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"response_mutations": [{"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}]}}}


def secret(name, certificate, key):
    return {"@type": T + "extensions.transport_sockets.tls.v3.Secret", "name": name,
            "tls_certificate": {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}}


def sds_source(dialect="sotw"):
    return {"api_config_source": {"api_type": "GRPC" if dialect == "sotw" else "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}


def tls(name, where):
    """A filter chain's TLS with the certificate as a secret."""
    return {"transport_socket": {"name": "tls", "typed_config": {"@type": T + "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": name, "sds_config": where}]}}}}


def bootstrap(dialect, ads=f"127.0.0.1:{ADS}", sds="sds.sock", timeout="0s", node=None, **more):
    """As pilot-agent writes it, without what only Istio has. `ads` is host:port or the path of a socket. Reconnects are quick: no test waits for a back-off."""
    retry = {"retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}}}
    where = {"pipe": {"path": ads}} if ":" not in ads else address(ads)
    plane = {"name": "xds-grpc", "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": H2, "load_assignment": {
        "cluster_name": "xds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": where}}]}]}}
    secrets = {"name": "sds-grpc", "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": H2, "load_assignment": {
        "cluster_name": "sds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": sds}}}}]}]}}
    return {
        "node": node or {"id": "waypoint~127.3.0.1~test.default~default.svc.cluster.local", "cluster": "waypoint.default", "metadata": {"NAMESPACE": "default"}},
        "admin": {"address": address(f"127.0.0.1:{ADMIN}")},
        "bootstrap_extensions": [{"name": "internal", "typed_config": {"@type": T + "extensions.bootstrap.internal_listener.v3.InternalListener"}}],
        "dynamic_resources": {
            "cds_config": source(timeout), "lds_config": source(timeout),
            "ads_config": {"api_type": {"delta": "DELTA_GRPC", "sotw": "GRPC"}[dialect], "transport_api_version": "V3", "set_node_on_first_message_only": True,
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc", **retry}}]}},
        "static_resources": {"clusters": [plane, secrets]}, **more}
