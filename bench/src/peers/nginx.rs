//! nginx with what the others have too: keep-alive to the upstream, no access log, X-Forwarded-For. `/keep…` goes through its cache.

use anyhow::{Context, Result};

use super::{CALLS, Peer, Site, UPSTREAM, find, pinned};

pub fn start(site: &Site) -> Result<Peer> {
    let program = find("nginx").context("not installed (Debian: nginx-light)")?;
    let home = site.home("nginx")?;
    let (root, cert, key) = (home.display(), site.path("cert.pem"), site.path("key.pem"));
    let config = format!(
        "worker_processes 1; daemon off; pid {root}/nginx.pid; error_log {root}/error.log error; worker_rlimit_nofile 40000;
events {{ worker_connections 16384; multi_accept on; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 300s; keepalive_requests 100000000;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  proxy_buffer_size 8k; proxy_buffers 16 8k; client_body_buffer_size 64k;
  ssl_session_cache shared:s:1m; ssl_protocols TLSv1.3; ssl_certificate {cert}; ssl_certificate_key {key};
  upstream u {{ server 127.0.0.1:{UPSTREAM}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}
  upstream g {{ server 127.0.0.1:{CALLS}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}
  proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_cache_path {root}/cache keys_zone=kept:1m; open_file_cache max=1000;
  server {{
    listen 127.0.0.1:8011; listen 127.0.0.1:8411 ssl http2; listen 127.0.0.1:8211 http2;
    http2_max_concurrent_streams 128;
    location / {{ proxy_pass http://u; }}
    location /keep {{ proxy_cache kept; proxy_pass http://u; }}
    location /bench.Echo/ {{
      grpc_pass grpc://g; grpc_set_header Host $host; grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
",
        cert = cert.display(),
        key = key.display()
    );
    let file = home.join("nginx.conf");
    std::fs::write(&file, config)?;
    let mut command = pinned(&program);
    command.arg("-e").arg(home.join("error.log")).arg("-c").arg(&file);
    Peer::start("nginx", &home, 8011, 8411, command)?.h2_on(8211).count_children()
}
