"""A value of each field of the types libvirt and virtlog that is not its default, and what the file then says: for the
tests of the values that the types make, and for those with the real daemons."""

from typing import Any

LIBVIRT: dict[str, tuple[Any, str | None]] = {
    "libvirt": ("/usr/local/sbin/libvirtd", None),
    "qemu": ("/opt/qemu/bin", None),
    "listen": (True, None),
    "listen-tls": (False, "listen_tls = 0"),
    "listen-tcp": (True, "listen_tcp = 1"),
    "tls-port": ("16555", 'tls_port = "16555"'),
    "tcp-port": ("http-alt", 'tcp_port = "http-alt"'),
    "listen-addr": ("127.0.0.1", 'listen_addr = "127.0.0.1"'),
    "mdns-adv": (True, None),
    "mdns-name": ("here", None),
    "unix-sock-group": ("users", 'unix_sock_group = "users"'),
    "unix-sock-ro-perms": ("0770", 'unix_sock_ro_perms = "0770"'),
    "unix-sock-rw-perms": ("0700", 'unix_sock_rw_perms = "0700"'),
    "unix-sock-admin-perms": ("0700", 'unix_sock_admin_perms = "0700"'),
    "unix-sock-dir": ("/run/elsewhere", 'unix_sock_dir = "/run/elsewhere"'),
    "auth-unix-ro": ("none", 'auth_unix_ro = "none"'),
    "auth-unix-rw": ("none", 'auth_unix_rw = "none"'),
    "auth-tcp": ("none", 'auth_tcp = "none"'),
    "auth-tls": ("sasl", 'auth_tls = "sasl"'),
    "tcp-min-ssf": (256, "tcp_min_ssf = 256"),
    "access-drivers": (["polkit"], 'access_drivers = [ "polkit" ]'),
    "key-file": ("/etc/pki/key.pem", 'key_file = "/etc/pki/key.pem"'),
    "cert-file": ("/etc/pki/cert.pem", 'cert_file = "/etc/pki/cert.pem"'),
    "ca-file": ("/etc/pki/ca.pem", 'ca_file = "/etc/pki/ca.pem"'),
    "crl-file": ("/etc/pki/crl.pem", 'crl_file = "/etc/pki/crl.pem"'),
    "tls-no-sanity-cert": (True, "tls_no_sanity_certificate = 1"),
    "tls-no-verify-cert": (True, "tls_no_verify_certificate = 1"),
    "tls-allowed-dn-list": (["C=GB,O=Red Hat", "CN=*"], 'tls_allowed_dn_list = [ "C=GB,O=Red Hat", "CN=*" ]'),
    "sasl-allowed-usernames": (["joe@EXAMPLE.COM"], 'sasl_allowed_username_list = [ "joe@EXAMPLE.COM" ]'),
    "tls-priority": ("SECURE256", 'tls_priority = "SECURE256"'),
    "max-clients": (1000, "max_clients = 1000"),
    "max-queued-clients": (10, "max_queued_clients = 10"),
    "max-anonymous-clients": (0, "max_anonymous_clients = 0"),
    "min-workers": (2, "min_workers = 2"),
    "max-workers": (30, "max_workers = 30"),
    "prio-workers": (0, "prio_workers = 0"),
    "max-requests": (30, None),
    "max-client-requests": (6, "max_client_requests = 6"),
    "admin-min-workers": (2, "admin_min_workers = 2"),
    "admin-max-workers": (6, "admin_max_workers = 6"),
    "admin-max-clients": (6, "admin_max_clients = 6"),
    "admin-max-queued-clients": (6, "admin_max_queued_clients = 6"),
    "admin-max-client-requests": (6, "admin_max_client_requests = 6"),
    "log-level": (1, "log_level = 1"),
    "log-filters": ("1:qemu 3:util.json", 'log_filters = "1:qemu 3:util.json"'),
    "log-outputs": ("2:file:/run/libvirtd.log 4:stderr", 'log_outputs = "2:file:/run/libvirtd.log 4:stderr"'),
    "audit-level": (0, "audit_level = 0"),
    "audit-logging": (True, "audit_logging = 1"),
    "host-uuid": ("4dea22b3-1d52-d8f3-2516-782e98a23fa0", 'host_uuid = "4dea22b3-1d52-d8f3-2516-782e98a23fa0"'),
    "host-uuid-source": ("machine-id", 'host_uuid_source = "machine-id"'),
    "keepalive-interval": (-1, "keepalive_interval = -1"),
    "keepalive-count": (6, "keepalive_count = 6"),
    "admin-keepalive-interval": (6, "admin_keepalive_interval = 6"),
    "admin-keepalive-count": (6, "admin_keepalive_count = 6"),
    "ovs-timeout": (6, "ovs_timeout = 6"),
}
"""By field: the value, and the line of libvirtd.conf; None where the field is not about the file."""

NEEDS: dict[str, dict[str, Any]] = {
    key: {"key-file": "/etc/pki/key.pem", "cert-file": "/etc/pki/cert.pem", "ca-file": "/etc/pki/ca.pem"}
    for key in ("key-file", "cert-file", "ca-file")
}
"""What has to be set along with a field."""

VIRTLOG: dict[str, tuple[Any, str | None]] = {
    "libvirt": ("/usr/local/sbin/virtlogd", None),
    "log-level": (2, "log_level = 2"),
    "log-filters": ("1:logging", 'log_filters = "1:logging"'),
    "log-outputs": ("1:file:/run/virtlogd.log", 'log_outputs = "1:file:/run/virtlogd.log"'),
    "max-clients": (1000, "max_clients = 1000"),
    "admin-max-clients": (7, "admin_max_clients = 7"),
    "max-size": ("10MB", "max_size = 10485760"),
    "max-backups": (32, "max_backups = 32"),
}
