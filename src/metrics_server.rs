//! The export server of `prometheus` (`plugin_attr.prometheus.export_addr`): a port of its own on the control runtime.
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MAX_HEAD: usize = 16 * 1024;

/// Serves the exposition at `uri` on a bound listener until the process ends.
pub async fn serve(listener: TcpListener, uri: String, exposition: Arc<dyn Fn() -> Vec<u8> + Send + Sync>) {
    let uri: Arc<str> = uri.into();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, uri.clone(), exposition.clone()));
    }
}

/// Binds the export server's port.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|e| anyhow::anyhow!("cannot listen on {address} (plugin_attr.prometheus.export_addr): {e}"))
}

async fn connection(mut stream: TcpStream, uri: Arc<str>, exposition: Arc<dyn Fn() -> Vec<u8> + Send + Sync>) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if buffer.len() > MAX_HEAD || !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                return;
            }
        };
        let line = String::from_utf8_lossy(&buffer[..head]).lines().next().unwrap_or_default().to_string();
        buffer.drain(..head);
        let mut parts = line.split(' ');
        let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let (status, body) = match (method, path == &*uri) {
            ("GET" | "HEAD", true) => {
                let make = exposition.clone();
                let Ok(body) = tokio::task::spawn_blocking(move || make()).await else { return };
                ("200 OK", body)
            }
            (_, true) => ("405 Method Not Allowed", b"method not allowed\n".to_vec()),
            _ => ("404 Not Found", b"not found\n".to_vec()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err()
            || method != "HEAD" && stream.write_all(&body).await.is_err()
        {
            return;
        }
    }
}
