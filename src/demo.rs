//! The demo backend of the quickstart: answers every request with what it saw, as JSON.
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the quickstart's routes point.
pub const ADDRESS: &str = "127.0.0.1:1980";
const MAX_REQUEST: usize = 64 * 1024;

/// Serves until the process ends. An address in use means that the user runs a backend: then that one serves.
pub async fn serve() {
    let Ok(listener) = TcpListener::bind(ADDRESS).await else { return };
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(connection(stream, peer));
    }
}

async fn connection(mut stream: TcpStream, peer: SocketAddr) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if buffer.len() > MAX_REQUEST || !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                return;
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let length = text
            .lines()
            .filter_map(|l| l.split_once(':'))
            .find(|(n, _)| n.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, v)| v.trim().parse::<usize>().ok())
            .unwrap_or(0);
        while buffer.len() < head + 4 + length {
            if buffer.len() > MAX_REQUEST || !matches!(stream.read_buf(&mut buffer).await, Ok(n) if n > 0) {
                return;
            }
        }
        buffer.drain(..head + 4 + length);
        let mut lines = text.lines();
        let request = lines.next().unwrap_or_default().to_string();
        let headers: serde_json::Map<String, serde_json::Value> =
            lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_string(), v.trim().into())).collect();
        let body = serde_json::json!({"hello": "from the demo backend", "request": request, "headers": headers, "from": peer.to_string()});
        let body = format!("{body:#}\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
