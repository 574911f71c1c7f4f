//! The export server of `prometheus` (`plugin_attr.prometheus.export_addr`): a port of its own on the control runtime.
use anyhow::Context as _;
use sluice_plugins_observe::prometheus::ExportServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MAX_HEAD: usize = 16 * 1024;
/// How long a scraper may take for a request, idle time included.
const PATIENCE: Duration = Duration::from_secs(75);

/// Binds the port and serves it until the process ends.
pub async fn start(server: ExportServer, metrics: sluice_telemetry::Registry) -> anyhow::Result<()> {
    let address = format!("{}:{}", server.ip, server.port);
    let listener = TcpListener::bind(&address)
        .await
        .with_context(|| format!("cannot listen on {address} (plugin_attr.prometheus.export_addr)"))?;
    let server = Arc::new(server);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(connection(stream, server.clone(), metrics.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "the export server cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn connection(mut stream: TcpStream, server: Arc<ExportServer>, metrics: sluice_telemetry::Registry) {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut buffer)).await;
            if buffer.len() > MAX_HEAD || !matches!(read, Ok(Ok(n)) if n > 0) {
                return;
            }
        };
        let line = String::from_utf8_lossy(buffer.get(..head).unwrap_or_default())
            .lines()
            .next()
            .unwrap_or_default()
            .to_string();
        buffer.drain(..head);
        let mut parts = line.split(' ');
        let (method, target) = (parts.next().unwrap_or_default().to_string(), parts.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default().to_string();
        let (server, metrics) = (server.clone(), metrics.clone());
        // Rendering very many series takes milliseconds: not on the threads that everything else needs.
        let Ok(body) = tokio::task::spawn_blocking(move || server.answer(&method, &path, &metrics)).await else {
            return;
        };
        let (status, body) = match body {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", b"not found\n".to_vec()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
            return;
        }
    }
}
