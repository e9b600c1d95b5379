"""What side-by-side.py measures next to Envoy and Waypost, to tell what a proxy costs from what the machine does.

  relay    Waypost's TCP proxy passing the same bytes on, unread: reads, writes and wake-ups that every proxy has to pay. Where both peers speak
           TLS, as over HBONE, they speak it with each other.
  nginx, HAProxy    for plain HTTP/1.1, where they are installed: what the leanest proxies in C make of the same work."""
import json
import shutil

import rig

NGINX = """daemon off; master_process off; worker_processes 1; error_log {work}/nginx.err; pid {work}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  upstream sink {{ server 127.0.0.1:10080; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:10001; location / {{ proxy_pass http://sink; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
}}
"""

HAPROXY = """global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind 127.0.0.1:10001
  default_backend out
backend out
  server sink 127.0.0.1:10080 pool-max-conn 256
"""


class Other(rig.Process):
    """A proxy that is ready when its port accepts."""

    def ready(self):
        rig.until(f"{self.command[0]} ready", 10, lambda: self.alive() and rig.connects("127.0.0.1", 10001))


def relay(work, at, to):
    """The file of a TCP proxy from one address to another."""
    def address(text):
        host, port = text.rsplit(":", 1)
        return {"address": {"socket_address": {"address": host, "port_value": int(port)}}}

    proxy = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "relay", "cluster": "relay"}
    endpoints = {"cluster_name": "relay", "endpoints": [{"lb_endpoints": [{"endpoint": address(to)}]}]}
    file = work / "relay.json"
    file.write_text(json.dumps({
        "node": {"id": "relay", "cluster": "bench"},
        "admin": address("127.0.0.1:15000"),
        "static_resources": {
            "listeners": [{"name": "relay", **address(at), "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}]}],
            "clusters": [{"name": "relay", "type": "STATIC", "load_assignment": endpoints}],
        },
    }))
    return file


def contestants(case, waypost, work, cpu):
    """{name: a process to be started} of those that can do a case."""
    others = {}
    if waypost and case.relay:
        others["relay"] = rig.Proxy(waypost, relay(work, *case.relay), work, work / "relay.log", cpu=cpu)
    if case.key in ("h1-wrk", "h1-oha"):
        for name, program, text, arguments in (("nginx", "nginx", NGINX, ["-c"]), ("HAProxy", "haproxy", HAPROXY, ["-db", "-f"])):
            if path := shutil.which(program) or shutil.which(f"/usr/sbin/{program}"):
                file = work / f"{program}.conf"
                file.write_text(text.format(work=work))
                others[name] = Other([path, *arguments, file], work, work / f"{program}.log", cpu=cpu)
    return others
